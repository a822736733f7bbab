"""Searched forms from a real race to the compiled module."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from hwprune.compile.choice import choices_for
from hwprune.delivery import compile_model
from hwprune.errors import UsageError
from hwprune.latency.choice import Choice, ChoiceTable, Searched
from hwprune.latency.fusion import fuse
from hwprune.measure.search import search
from hwprune.measure.toolchain import toolchain_directory
from hwprune.target import load_target
from tests.compile.test_kernels import conv

TARGET = load_target("host", threads=1)


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 32, 3, padding=1), nn.ReLU(), nn.Conv2d(32, 64, 3, padding=1), nn.ReLU()
    ).eval()


X = torch.randn(1, 3, 12, 12, generator=torch.Generator().manual_seed(0))


def record(folder: Path) -> Choice:
    """Say that a search has chosen Winograd for the second convolution."""
    from hwprune.capture import capture

    program = fuse(capture(network(), (X,)).graph).program()
    spec = program.steps[1].spec
    choice = next(c for c in choices_for(spec, TARGET) if c.rule == "winograd")
    table = ChoiceTable({spec.digest(): Searched(spec.label(), choice)})
    directory = toolchain_directory(TARGET, folder)
    directory.mkdir(parents=True)
    table.save(directory)
    return choice


def test_compile_takes_the_recorded_forms_unless_told_not_to(tmp_path):
    choice = record(tmp_path)
    module, error = compile_model(network(), (X,), TARGET, tables=tmp_path)
    assert [k.choice for k in module.kernels] == ["default", choice.label()]
    assert error < 1e-4
    plain, error = compile_model(network(), (X,), TARGET, tables=tmp_path, search=False)
    assert {k.choice for k in plain.kernels} == {"default"}
    assert error < 1e-5
    # Without Winograd the code generator is another one, with choices of its own.
    without = TARGET.model_copy(update={"winograd": False})
    assert toolchain_directory(without, tmp_path) != toolchain_directory(TARGET, tmp_path)
    module, _ = compile_model(network(), (X,), without, tables=tmp_path)
    assert {k.choice for k in module.kernels} == {"default"}


def test_a_bundle_says_which_forms_it_holds(tmp_path):
    from hwprune.compile import load_bundle

    choice = record(tmp_path)
    module, _ = compile_model(network(), (X,), TARGET, tables=tmp_path)
    module.save(tmp_path / "bundle", {})
    kernels = load_bundle(tmp_path / "bundle").manifest.kernels
    assert [k.choice for k in kernels] == ["default", choice.label()]


def test_a_real_race(tmp_path):
    """Three forms, built, raced and checked here; whoever wins gives the same result."""
    spec = conv(1, 32, 12, 12, 64, 3)
    all_forms = choices_for(spec, TARGET)
    some = (*all_forms[:2], next(c for c in all_forms if c.rule == "winograd"))
    report = search([spec], TARGET, tmp_path, forms=lambda *_: some)
    assert report.failures == {}
    assert report.searched == 1
    entry = ChoiceTable.load(tmp_path).entry(spec)
    assert entry is not None
    assert set(entry.medians_ns) == {c.label() for c in some}
    assert min(entry.medians_ns.values()) > 0
    assert entry.error <= 1e-4
    assert not list(tmp_path.glob(".build-*"))
    assert search([spec], TARGET, tmp_path).cached == 1


def test_the_tvm_default_pipeline_has_nothing_to_search(tmp_path):
    other = TARGET.model_copy(update={"pipeline": "tvm-default"})
    with pytest.raises(UsageError, match="tvm-default"):
        compile_model(network(), (X,), other, search=True, tables=tmp_path)
