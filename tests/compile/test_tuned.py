"""Schedules proposed by MetaSchedule, recorded, and built again elsewhere."""

from __future__ import annotations

import json

import numpy as np
import pytest

from hwprune.compile.describe import describe
from hwprune.compile.primfunc import build_primfunc
from hwprune.compile.tuned import TUNED, tuned_choice, tuned_functions, unscheduled
from hwprune.errors import CompileError, MissingExtraError
from hwprune.latency.choice import Choice, ChoiceTable, Searched
from hwprune.latency.kernel import KernelInput, KernelOp, KernelSpec
from hwprune.measure import proposer as proposers
from hwprune.measure.build import BuildJob, BuildPool
from hwprune.measure.judge import LocalJudge
from hwprune.measure.tune import tune
from hwprune.target import load_target
from tests.compile.test_kernels import conv

TARGET = load_target("host", threads=1)


def depthwise(channels: int = 20, size: int = 6) -> KernelSpec:
    attributes = (("dilation", (1, 1)), ("padding", (1, 1, 1, 1)), ("stride", (1, 1)))
    return KernelSpec(
        (
            KernelInput((1, channels, size, size), "data"),
            KernelInput((channels, 1, 3, 3), "weight"),
            KernelInput((channels,), "weight"),
        ),
        (KernelOp("depthwise_conv2d", (0, 1, 2), attributes), KernelOp("relu", (3,))),
    )


def matmul() -> KernelSpec:
    """Left to TVM's importer."""
    arguments = json.dumps([[{"tensor": 0}, {"tensor": 1}], {}])
    attributes = (
        ("arguments", arguments),
        ("item", -1),
        ("shape", (2, 12, 12)),
        ("target", "aten.bmm.default"),
    )
    return KernelSpec(
        (KernelInput((2, 12, 8), "data"), KernelInput((2, 8, 12), "data")),
        (KernelOp("fallback", (0, 1), attributes),),
    )


@pytest.mark.parametrize("spec", [depthwise(), matmul()], ids=["depthwise", "fallback"])
def test_four_trials_recorded_and_replayed(tmp_path, spec):
    """Proposed in one process, built in a second, run and compared with the default in a third."""
    pytest.importorskip("xgboost")
    report = tune([spec], TARGET, tmp_path, minutes=5.0, trials=4, timer=lambda _: {}, pipeline="p")
    assert report.kernels == []  # alone, a kernel is its network's best
    proposer = proposers.MetaScheduleProposer(TARGET, tmp_path / "tuning", 1, 0, 4)
    try:
        proposer.begin(spec)
        proposal = proposer.propose()
        assert len(proposal.choices) == 4
        assert proposal.trials == 0
        proposer.learn([4e-6, 2e-6, None, 3e-6])
        assert proposer.best(2) == (proposal.choices[1], proposal.choices[3])
        # Another run knows these trials.
        proposer.begin(spec)
        assert proposer.best(5) == tuple(proposal.choices[i] for i in (1, 3, 0))
    finally:
        proposer.close()
    choice = proposal.choices[1]
    ChoiceTable({spec.digest(): Searched(spec.label(), choice)}).save(tmp_path)
    known = ChoiceTable.load(tmp_path).get(spec)
    assert known == choice
    assert known.label().startswith("tuned ")
    builder = BuildPool(TARGET, processes=1)
    try:
        jobs = [
            BuildJob(spec, tmp_path / f"{number}.so", 1, form) for number, form in enumerate((None, known))
        ]
        assert [failure for _, failure in builder.build(jobs)] == [None, None]
    finally:
        builder.close()
    with LocalJudge(TARGET) as judge:
        assert judge.error(jobs[0], jobs[1], seed=0) <= 1e-5
    sidecar = json.loads(jobs[1].path.with_suffix(".json").read_text())
    assert sidecar["choice"] == known.label()
    assert describe(spec, TARGET, known).rule == TUNED
    same = [str(tuned_functions(spec, TARGET, known)) for _ in range(2)]
    assert same[0] == same[1]


def by_hand(spec: KernelSpec) -> Choice:
    """A recorded schedule, made with the schedule primitives themselves."""
    from hwprune.compile.tvm_api import Schedule, plain_json

    (function,) = unscheduled(spec, TARGET).values()
    schedule = Schedule(function.with_attr("global_symbol", "main"))
    loops = schedule.get_loops(schedule.get_sblock("acc"))
    schedule.split(loops[1], [None, 1])
    schedule.unroll(loops[2])
    return tuned_choice(spec, {"main": plain_json(schedule.trace.as_json())})


def test_a_schedule_is_replayed_as_recorded():
    spec = depthwise()
    choice = by_hand(spec)
    text = str(build_primfunc(spec, TARGET, choice))
    assert "T.unroll(" in text
    assert text == str(
        build_primfunc(spec, TARGET, Choice.from_dict(json.loads(json.dumps(choice.to_dict()))))
    )
    assert text != str(build_primfunc(spec, TARGET))


def test_a_network_is_compiled_with_a_tuned_kernel(tmp_path):
    """Neighbours of a tuned kernel are built as before, and the whole gives the same numbers."""
    import torch
    from torch import nn

    from hwprune.capture import capture
    from hwprune.compile import compile_program
    from hwprune.latency.fusion import fuse

    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 20, 3), nn.ReLU(), nn.Conv2d(20, 20, 3, padding=1, groups=20), nn.ReLU())
    x = torch.randn(1, 3, 8, 8)
    program = fuse(capture(net.eval(), (x,)).graph).program()
    spec = program.steps[1].spec
    table = ChoiceTable({spec.digest(): Searched(spec.label(), by_hand(spec))})
    table.save(tmp_path)
    module = compile_program(program, TARGET, ChoiceTable.load(tmp_path))
    assert module.kernels[1].choice == by_hand(spec).label()
    (output,) = module.run(x.numpy())
    with torch.no_grad():
        np.testing.assert_allclose(output, net(x).numpy(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("trace", "words"),
    [
        ("{", "is malformed"),
        ("[]", "is malformed"),
        (json.dumps({"kernel": "0", "functions": {}}), "belongs to kernel 0"),
        (json.dumps({"kernel": depthwise().digest(), "functions": {}}), r"is for functions \[\]"),
        (
            json.dumps(
                {"kernel": depthwise().digest(), "functions": {"main": [[["Nonsense", [], [], []]], []]}}
            ),
            "cannot be replayed",
        ),
    ],
)
def test_a_schedule_that_does_not_fit_is_refused(trace, words):
    with pytest.raises(CompileError, match=words):
        build_primfunc(depthwise(), TARGET, Choice(TUNED, (), trace))


def test_a_schedule_of_another_kernel_is_refused():
    with pytest.raises(CompileError, match="belongs to kernel"):
        build_primfunc(conv(1, 8, 6, 6, 8, 3), TARGET, by_hand(depthwise()))


def test_the_missing_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(proposers.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match="xgboost") as caught:
        tune([depthwise()], TARGET, tmp_path, minutes=1.0)
    assert "hwprune[tune]" in str(caught.value.hint)
