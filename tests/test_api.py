"""The public API on a small residual network, with real kernels on this machine."""

from __future__ import annotations

import copy
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import hwprune
from hwprune.errors import DependencyError, PlanError, UsageError
from hwprune.repair.saved import repair_saved
from tests.nets import settle
from tests.small import SHAPE, Frozen, Other, Small, evaluation, train

ROOT = Path(__file__).resolve().parents[1]
torch.set_num_threads(1)

IMAGE = torch.randn(SHAPE, generator=torch.Generator().manual_seed(3))


def trained() -> Small:
    """Far from freshly made: statistics, affine parameters and every weight are its own."""
    model = Small()
    settle(model, 1)
    return model.eval()


@pytest.fixture(scope="module")
def model() -> Small:
    return trained()


@pytest.fixture(scope="module")
def pruned(model: Small, tables: Path) -> hwprune.Pruned:
    stages: list[str] = []
    found = hwprune.prune(
        model,
        IMAGE,
        target="host",
        latency="70%",
        tables=tables,
        checks=0,  # other programs on this machine must not decide about a test
        progress=lambda what, done, total: stages.append(what.split()[0]),
    )
    assert {"score", "build", "time"} <= set(stages)
    return found


def run_python(code: str, *arguments: str, cwd: Path = ROOT) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        capture_output=True,
        text=True,
        cwd=cwd,
        timeout=120,
        env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin", "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_model_is_left_as_it_was(pruned: hwprune.Pruned, model: Small):
    untouched = trained()
    assert model.training is False
    for name, tensor in untouched.state_dict().items():
        assert torch.equal(model.state_dict()[name], tensor), name
    assert all(p.grad is None for p in model.parameters())
    assert not [m for m in model.modules() if m._forward_hooks or m._forward_pre_hooks]


def test_the_plan_keeps_its_budget_with_aligned_widths(pruned: hwprune.Pruned):
    plan = pruned.plan
    assert plan.predicted_ns <= plan.budget_ns == pytest.approx(0.7 * plan.dense_ns)
    assert plan.provenance == "measured"
    assert plan.solver == "milp"
    assert 0 <= plan.gap <= 1e-3
    lanes = hwprune.load_target("host").simd_lanes
    for group in plan.groups:
        assert group.multiple == lanes
        assert group.width % lanes == 0 or group.exempt
    assert any(group.width < group.size for group in plan.groups)
    assert [line.name for line in plan.ledger] == ["head"]
    assert [refusal.name for refusal in pruned.ledger] == ["head"]
    assert pruned.planned is not None
    table = pruned.planned.loop.table
    assert pruned.planned.workbench.model.missing(plan.widths, table) == []
    kernels = pruned.planned.workbench.model.sum_ns(plan.widths, table)
    assert plan.predicted_ns - plan.residual_ns == pytest.approx(kernels)


def test_the_pruned_model_equals_the_masked_original(pruned: hwprune.Pruned, model: Small):
    assert isinstance(pruned.model, Small)
    assert pruned.max_rel_error <= 1e-4
    # Once more, by hand: zero what the removed units feed, in a copy of the original.
    masked = copy.deepcopy(model)
    keep = pruned.plan.keep
    with torch.no_grad():
        for name, consumers in (("stem.0", (masked.a[0], masked.head)), ("a.0", (masked.b[0],))):
            gone = sorted(set(range(32)) - set(keep[name]))
            for layer in consumers:
                layer.weight[:, gone] = 0.0
    images = torch.randn(5, *SHAPE[1:], generator=torch.Generator().manual_seed(9))
    with torch.no_grad():
        expected, found, dense = masked(images), pruned.model.eval()(images), model(images)
    assert float((expected - found).abs().max()) <= 1e-4 * float(expected.abs().max())
    assert not torch.allclose(found, dense, atol=1e-3)
    parameters = [sum(p.numel() for p in m.parameters()) for m in (pruned.model, model)]
    assert parameters[0] < 0.6 * parameters[1]


def test_saved_models_load_bit_for_bit_in_a_fresh_process(pruned: hwprune.Pruned, tmp_path: Path):
    hwprune.save(pruned, tmp_path / "pruned")
    code = (
        "import sys, torch, hwprune; torch.set_num_threads(1);"
        "from safetensors.torch import load_file, save_file; from tests.small import Small;"
        "model = hwprune.load(sys.argv[1], Small);"
        "assert not model.training; x = load_file(sys.argv[2])['x'];"
        "save_file({'y': model(x).detach()}, sys.argv[3])"
    )
    save_file({"x": IMAGE}, tmp_path / "x.safetensors")
    run_python(code, *[str(tmp_path / n) for n in ("pruned", "x.safetensors", "y.safetensors")])
    assert torch.equal(load_file(tmp_path / "y.safetensors")["y"], pruned.model.eval()(IMAGE))
    assert sorted(p.name for p in (tmp_path / "pruned").iterdir()) == ["plan.json", "weights.safetensors"]
    for path in (tmp_path / "pruned").iterdir():
        data = path.read_bytes()
        assert not data.startswith(b"PK")  # a zip, as torch.save writes it
        for protocol in (2, 3, 4, 5):
            assert not data.startswith(bytes([0x80, protocol]))
        assert b"ctorch" not in data
    state = load_file(tmp_path / "pruned" / "weights.safetensors")
    assert state.keys() == pruned.model.state_dict().keys()
    with pytest.raises(hwprune.HwpruneError, match="architecture"):
        hwprune.load(tmp_path / "pruned", Other)


def test_the_compiled_bundle_runs_on_its_own(pruned: hwprune.Pruned, tmp_path: Path):
    module = hwprune.compile(pruned.model, IMAGE)
    expected = pruned.model.eval()(IMAGE).detach().numpy()
    (found,) = module.run(IMAGE.numpy())
    assert np.abs(found - expected).max() <= 1e-4 * np.abs(expected).max()
    module.save(tmp_path / "bundle", {"why": "test"})
    np.savez(tmp_path / "x.npz", IMAGE.numpy())
    hidden = "import sys; sys.modules['torch'] = sys.modules['tvm'] = sys.modules['hwprune'] = None;"
    text = run_python(
        f"{hidden} import runpy; sys.argv = ['run.py', *sys.argv[1:]];"
        f"runpy.run_path({str(tmp_path / 'bundle' / 'run.py')!r}, run_name='__main__')",
        cwd=tmp_path,
    )
    numbers = json.loads(text)
    assert numbers["median_ns"] > 0
    assert numbers["unit"] == "ns"


def test_a_plan_from_a_file_cuts_the_same(pruned: hwprune.Pruned, model: Small, tmp_path: Path):
    pruned.plan.save(tmp_path / "plan.json")
    again = hwprune.apply_plan(model, IMAGE, hwprune.Plan.load(tmp_path / "plan.json"))
    assert again.planned is None
    for name, tensor in pruned.model.state_dict().items():
        assert torch.equal(again.model.state_dict()[name], tensor)


def edit(plan: hwprune.Plan, path: Path, **groups: dict[str, Any]) -> hwprune.Plan:
    plan.save(path)
    data = json.loads(path.read_text())
    for group in data["payload"]["groups"]:
        group.update(groups.get(group["name"].replace(".", "_"), {}))
    path.write_text(json.dumps(data))
    return hwprune.Plan.load(path)


def test_a_plan_edited_by_hand_is_applied_and_verified(pruned: hwprune.Pruned, model: Small, tmp_path: Path):
    made = edit(pruned.plan, tmp_path / "plan.json", a_0={"kept": "0,2-4,31", "width": 5})
    assert made.edited
    found = hwprune.apply_plan(model, IMAGE, made)
    assert found.max_rel_error <= 1e-4
    assert isinstance(found.model, Small)
    assert found.model.a[0].out_channels == 5
    stem = list(pruned.plan.keep["stem.0"])
    assert torch.equal(found.model.a[0].weight, model.a[0].weight[[0, 2, 3, 4, 31]][:, stem])


def test_a_plan_for_another_model_is_refused(pruned: hwprune.Pruned):
    with pytest.raises(PlanError, match="made for another model"):
        hwprune.apply_plan(Other(), IMAGE, pruned.plan)
    with pytest.raises(PlanError, match="32"):
        hwprune.apply_plan(Small(48), IMAGE, pruned.plan)


def test_scope_and_refusals(model: Small):
    with pytest.raises(UsageError, match="nosuch"):
        hwprune.plan(model, IMAGE, include=["nosuch*"])
    with pytest.raises(DependencyError, match="output of the model"):
        hwprune.plan(Frozen(), torch.zeros(1, 8))
    with pytest.raises(DependencyError, match="no layer with channels"):
        hwprune.plan(torch.nn.Flatten(), torch.zeros(1, 8))


# -- repair on disk -------------------------------------------------------------------------------


@pytest.fixture
def on_disk(pruned: hwprune.Pruned, tmp_path: Path) -> Path:
    hwprune.save(pruned, tmp_path / "pruned")
    return tmp_path / "pruned"


def repaired(source: Path, output: Path, epochs: int, **changes: Any) -> dict[str, Any]:
    options = {"epochs": epochs, "lr": 0.05, "optimizer": "sgd", "seed": 0}
    rest: dict[str, Any] = {"teacher": None, "test": evaluation(), "progress": lambda *_: None, **changes}
    return repair_saved(source, Small, train(), output, options=options, **rest)


def test_recalibration_alone(on_disk: Path, tmp_path: Path):
    found = repaired(on_disk, tmp_path / "out", 0)
    assert (found["steps"], found["batchnorms"], found["directory"]) == (0, 3, str(tmp_path / "out"))
    before, after = (hwprune.load(d, Small).state_dict() for d in (on_disk, tmp_path / "out"))
    for name in before:
        same = torch.equal(before[name], after[name])
        assert same != name.endswith(("running_mean", "running_var", "num_batches_tracked")), name
    # Plan and cut are handed on.
    plans = [json.loads((d / "plan.json").read_text())["payload"] for d in (on_disk, tmp_path / "out")]
    assert plans[0]["plan"] == plans[1]["plan"]
    assert plans[0]["cut"] == plans[1]["cut"]


def test_finetuning_learns(on_disk: Path, tmp_path: Path):
    found = repaired(on_disk, tmp_path / "out", 6, teacher=Small())
    assert found["steps"] == 24
    assert found["accuracy_after"] > max(0.5, found["accuracy_before"])
    assert repaired(on_disk, tmp_path / "blind", 0, test=None)["accuracy_after"] is None


def test_an_interrupted_repair_goes_on_to_the_same_weights(on_disk: Path, tmp_path: Path):
    repaired(on_disk, tmp_path / "whole", 2)

    def interrupt(what: str, done: int, total: int) -> None:
        if what == "fine-tune" and done == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        repaired(on_disk, tmp_path / "cut", 2, progress=interrupt)
    assert not (tmp_path / "cut").exists()
    assert (tmp_path / "cut.checkpoint").exists()
    steps: list[int] = []
    repaired(on_disk, tmp_path / "cut", 2, progress=lambda what, done, total: steps.append(done))
    assert 6 in steps
    assert 4 not in steps, "what was done is not done again"
    assert not (tmp_path / "cut.checkpoint").exists()
    whole, cut = (load_file(tmp_path / n / "weights.safetensors") for n in ("whole", "cut"))
    assert all(torch.equal(whole[name], cut[name]) for name in whole)


@pytest.mark.parametrize("change", [{"lr": -1.0}, {"optimizer": "adam"}, {"epochs": 2, "momentun": 0.9}])
def test_bad_options_are_named_before_anything_is_loaded(change: dict[str, Any], tmp_path: Path):
    options = {"epochs": 1, **change}
    with pytest.raises(UsageError, match=list(change)[-1]):
        repair_saved(
            tmp_path / "gone",
            Small,
            train(),
            tmp_path / "out",
            teacher=None,
            test=None,
            options=options,
            progress=lambda *_: None,
        )
    assert not list(tmp_path.iterdir())
