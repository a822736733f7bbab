"""Every schedule rule is named for the kernels it takes, with the tiling that a build would use."""

from __future__ import annotations

import pytest

from hwprune.compile.describe import describe
from hwprune.compile.listing import fallback_share, list_kernels
from hwprune.compile.schedule import RULES
from hwprune.errors import CompileError
from hwprune.latency.choice import Choice, ChoiceTable, Searched
from hwprune.latency.kernel import KernelOp, KernelSpec
from hwprune.target import load_target
from tests.compile.programs import data, op, weight

TARGET = load_target("x86-64-avx512")
CONV = {"dilation": (1, 1), "groups": 1, "padding": (1, 1, 1, 1), "stride": (1, 1)}
WINDOW = {"padding": (1, 1, 1, 1), "stride": (1, 1)}


def conv(width: int = 32) -> KernelSpec:
    return KernelSpec(
        (data(1, 32, 14, 14), weight(width, 32, 3, 3)), (op("conv2d", 0, 1, -1, **CONV), op("relu", 2))
    )


KERNELS = {
    "conv": conv(),
    "window": KernelSpec(
        (data(1, 32, 14, 14), weight(32, 1, 3, 3)),
        (op("depthwise_conv2d", 0, 1, -1, dilation=(1, 1), **WINDOW),),
    ),
    "reduce": KernelSpec((data(1, 32, 14, 14),), (op("mean_hw", 0, keepdim=0),)),
    "linear": KernelSpec((data(1, 64), weight(48, 64)), (op("linear", 0, 1, -1),)),
    "elementwise": KernelSpec((data(1, 32, 14, 14), data(1, 32, 14, 14)), (op("add", 0, 1),)),
    "fallback": KernelSpec((data(1, 32, 14, 14),), (op("adaptive_avg_pool2d", 0, output=(3, 3)),)),
}


def test_a_kernel_for_every_rule() -> None:
    assert {rule.__name__.removesuffix("_rule") for rule in RULES} >= set(KERNELS)


@pytest.mark.parametrize("rule", KERNELS)
def test_the_rule_is_named(rule: str) -> None:
    found = describe(KERNELS[rule], TARGET)
    assert found.rule == rule
    assert found.falls_back == (rule == "fallback")
    assert "16" in found.tiling  # the lanes of the target


def test_a_searched_tiling_is_shown() -> None:
    choice = Choice.of("direct", block_tile=1, rows=2, cols=7)
    found = describe(conv(), TARGET, choice)
    assert found.tiling == "1 x 2 x 7 of 16 (no overhang), searched"
    assert describe(conv(), TARGET).tiling != found.tiling


def test_overhang_counts_lanes_and_columns() -> None:
    # 20 channels fill 32 lanes; 14 columns in tiles of 4 make 16
    found = describe(conv(20), TARGET, Choice.of("direct", block_tile=1, rows=2, cols=4))
    assert found.tiling == f"1 x 2 x 4 of 16 ({32 * 16 / (20 * 14) - 1:.0%} overhang), searched"


def test_what_cannot_be_compiled_is_said_not_raised() -> None:
    spec = KernelSpec((data(1, 32, 14, 14),), (KernelOp("no_such_operator", (0,)),))
    found = describe(spec, TARGET)
    assert found.rule == "unsupported"
    assert "no_such_operator" in found.tiling
    assert list_kernels([("odd", spec)], TARGET)[0].gflop == 0.0


def test_shares_are_of_what_was_measured() -> None:
    slow, quick, unknown = KERNELS["fallback"], KERNELS["conv"], KERNELS["reduce"]
    times = {slow.digest(): 3000.0, quick.digest(): 500.0}
    steps = [("a", quick), ("b", slow), ("c", quick), ("d", unknown)]
    lines = list_kernels(steps, TARGET, times)
    assert [line.share for line in lines] == [0.125, 0.75, 0.125, None]
    assert lines[0].us == 0.5
    flops = 2 * 32 * 14 * 14 * 32 * 9 + 32 * 14 * 14
    assert lines[0].gflop == flops / 1e9
    assert lines[0].gflop_per_s == flops / 500.0
    assert fallback_share(lines) == 0.75
    assert fallback_share(list_kernels(steps, TARGET)) is None


def test_listing_takes_searched_choices() -> None:
    choices = ChoiceTable()
    choices.put(conv(), Searched("conv", Choice.of("direct", block_tile=1, rows=1, cols=7)))
    assert list_kernels([("a", conv())], TARGET, choices=choices)[0].tiling.startswith("1 x 1 x 7")


def test_the_default_pipeline_has_no_rules_to_show() -> None:
    target = TARGET.model_copy(update={"pipeline": "tvm-default"})
    with pytest.raises(CompileError, match="whole models only"):
        describe(conv(), target)
    assert list_kernels([("a", conv())], target)[0].rule == "tvm-default"
