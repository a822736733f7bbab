"""Schedules proposed by MetaSchedule, recorded, and built again elsewhere."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from hwprune.compile.describe import describe
from hwprune.compile.emit import emit
from hwprune.compile.primfunc import build_primfunc
from hwprune.compile.tuned import TUNED, tuned_choice, tuned_functions, unscheduled
from hwprune.errors import CompileError, MissingExtraError
from hwprune.latency.choice import Choice, ChoiceTable, Searched
from hwprune.latency.kernel import KernelInput, KernelOp, KernelSpec
from hwprune.measure import proposer as proposers
from hwprune.measure.build import BuildJob, BuildPool
from hwprune.measure.judge import LocalJudge
from hwprune.measure.tune import TUNING_NAME, tune
from hwprune.target import load_target
from tests.compile.programs import net_input
from tests.compile.test_kernels import conv, linear, pool, unary

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


def replayed(spec: KernelSpec, folder: Path, known: Choice) -> None:
    """Build the default and a tuned form in one process, run and compare them in another."""
    builder = BuildPool(TARGET, processes=1)
    jobs = [BuildJob(spec, folder / f"{number}.so", 1, form) for number, form in enumerate((None, known))]
    try:
        assert [failure for _, failure in builder.build(jobs)] == [None, None]
    finally:
        builder.close()
    with LocalJudge(TARGET) as judge:
        assert judge.error(jobs[0], jobs[1], seed=0) <= 1e-5
    assert json.loads(jobs[1].path.with_suffix(".json").read_text())["choice"] == known.label()
    assert known.label().startswith("tuned ")
    assert describe(spec, TARGET, known).rule == TUNED
    same = [str(tuned_functions(spec, TARGET, known)) for _ in range(2)]
    assert same[0] == same[1]


def test_four_trials_recorded_and_replayed(tmp_path):
    """Tuned for real; the best schedule is then recorded, built and checked by other processes."""
    pytest.importorskip("xgboost")
    from hwprune.compile.metaschedule import Proposer

    spec, other = depthwise(), conv(1, 8, 6, 6, 8, 3)
    report = tune(
        [spec, other],
        TARGET,
        tmp_path,
        minutes=5.0,
        trials=4,
        timer=lambda _: {spec.digest(): 1e6, other.digest(): 1e5},
    )
    (kernel,) = report.kernels
    assert (kernel.label, kernel.earlier, kernel.failed, kernel.note) == (spec.label(), 0, 0, "")
    assert kernel.trials >= 4
    again = Proposer(
        spec.canonical(), TARGET.model_dump(mode="json"), str(tmp_path / TUNING_NAME / spec.digest()), 0, 4
    )
    best = [Choice.from_dict(data) for data in again.best(99)["choices"]]
    assert len(set(best)) == len(best) == kernel.trials
    ChoiceTable({spec.digest(): Searched(spec.label(), best[0])}).save(tmp_path)
    known = ChoiceTable.load(tmp_path).get(spec)
    assert known == best[0]
    replayed(spec, tmp_path, known)


def test_kernels_left_to_tvm_can_be_tuned(tmp_path):
    pytest.importorskip("xgboost")
    from hwprune.compile.metaschedule import Proposer

    arguments = (matmul().canonical(), TARGET.model_dump(mode="json"), str(tmp_path), 0, 4)
    proposer = Proposer(*arguments)
    proposal = proposer.propose()
    choices = [Choice.from_dict(data) for data in proposal["choices"]]
    assert (len(choices), proposal["trials"]) == (4, 0)
    proposer.learn([4e-6, 2e-6, None, 3e-6])
    best = proposer.best(9)["choices"]
    assert [Choice.from_dict(data) for data in best] == [choices[i] for i in (1, 3, 0)]
    # Another run knows these trials.
    assert Proposer(*arguments).best(9)["choices"] == best
    replayed(matmul(), tmp_path, choices[1])


@pytest.mark.parametrize(
    "spec",
    [
        conv(1, 20, 9, 9, 40, 3),
        conv(1, 3, 12, 12, 20, 7, s=2, source=net_input),
        depthwise(20, 9),
        linear(1, 40, 20),
        pool("max_pool2d", (1, 20, 9, 9), 3, 2, 1),
        unary("mean_hw", 1, 20, 7, 7),
    ],
    ids=lambda spec: spec.label(),
)
def test_our_own_space_keeps_lanes_whole(spec):
    """Whatever is drawn, the innermost loop of the sums is one vector, and a replay gives the same."""
    from hwprune.compile.sketch import sketch
    from hwprune.compile.tvm_api import Schedule, plain_json

    function = sketch(emit(spec, TARGET), TARGET)
    assert function is not None
    for seed in (1, 2, 3):
        (before,) = unscheduled(spec, TARGET).values()
        schedule = Schedule(before.with_attr("global_symbol", "main"), seed=seed)
        function(schedule)
        innermost = schedule.get(schedule.get_loops(schedule.get_sblock("acc_update"))[-1])
        assert (int(innermost.extent), int(innermost.kind)) == (TARGET.simd_lanes, 2)
        choice = tuned_choice(spec, {"main": plain_json(schedule.trace.as_json())})
        (after,) = tuned_functions(spec, TARGET, choice).values()
        assert str(after) == str(schedule.mod["main"])


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
