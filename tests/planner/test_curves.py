"""Loss curves: against losses taken in another way, by hand, and by brute force over choices."""

from __future__ import annotations

import itertools
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from hwprune.capture import Captured, capture
from hwprune.dependency import Dependencies, analyse
from hwprune.dependency.blocks import Block, find_blocks
from hwprune.errors import ArtifactError, CriterionError, PlanError, UsageError
from hwprune.planner.curves.calibrate import Calibration, calibrate
from hwprune.planner.curves.floor import floors
from hwprune.planner.curves.memory import KEPT, Memory
from hwprune.planner.curves.meter import Meter
from hwprune.planner.curves.shape import loss_curve, probe_widths
from hwprune.planner.curves.values import POWER, WIDTH_ITSELF, blended, worth_of
from hwprune.repair import recalibrate_batchnorm
from hwprune.solve.problem import Block as Removable
from hwprune.solve.problem import Choice, Domain, Limit, Problem
from hwprune.surgery import masked_original
from tests.nets import NETS
from tests.surgery.helpers import prepared, random_keep

Data = list[tuple[torch.Tensor, torch.Tensor]]


def _data(classes: int, count: int = 3, seed: int = 0) -> Data:
    generator = torch.Generator().manual_seed(seed)
    return [
        (torch.randn(6 + i, 3, 8, 8, generator=generator), torch.arange(6 + i) % classes)
        for i in range(count)
    ]


def _domains(deps: Dependencies) -> dict[str, tuple[int, ...]]:
    return {g.name: tuple(sorted({max(1, g.size // 4), g.size // 2, g.size})) for g in deps.groups}


def _scores(deps: Dependencies) -> dict[str, np.ndarray]:
    generator = np.random.default_rng(0)
    return {g.name: generator.random(g.size) for g in deps.groups}


# -- the shape of a curve ---------------------------------------------------------------------------


def test_a_curve_goes_through_what_was_measured_and_falls_in_between() -> None:
    widths = (16, 32, 48, 64, 80, 96)
    curve = loss_curve({16: 2.0, 48: 0.5}, widths)
    assert (curve[0], curve[2]) == pytest.approx((2.0, 0.5)) and curve[-1] == 0.0
    assert all(a > b for a, b in itertools.pairwise(curve))


def test_losses_that_fall_by_a_factor_are_found_between_the_measured_ones() -> None:
    widths = tuple(range(8, 129, 8))
    truth = {width: float(np.exp(-width / 20)) for width in widths}
    curve = loss_curve({width: truth[width] for width in (8, 40, 80)}, widths)
    assert np.abs(np.array(curve) - list(truth.values())).max() < 0.02 * truth[8]


def test_curves_scale_with_the_loss() -> None:
    widths = (16, 32, 48, 64)
    one, thousand = (loss_curve({16: 2.0 * k, 32: 0.3 * k}, widths) for k in (1.0, 1000.0))
    assert thousand == pytest.approx([1000 * change for change in one])


def test_noise_is_levelled_and_improvements_count_as_nothing() -> None:
    # The nearest falling sequence to 0.2, 0.4 is 0.3, 0.3.
    assert loss_curve({8: 0.2, 16: 0.4, 24: -0.1}, (8, 16, 24, 32)) == pytest.approx((0.3, 0.3, 0.0, 0.0))
    assert loss_curve({8: -1.0, 16: -2.0}, (8, 16, 24)) == (0.0, 0.0, 0.0)
    assert loss_curve({}, (8,)) == (0.0,)


def test_an_infinite_loss_is_worse_than_all_others_and_nan_is_refused() -> None:
    curve = loss_curve({8: float("inf"), 16: 3.0}, (8, 16, 24))
    assert np.isfinite(curve).all() and curve[0] > curve[1] == pytest.approx(3.0)
    with pytest.raises(CriterionError, match="NaN"):
        loss_curve({8: float("nan")}, (8, 16))
    with pytest.raises(CriterionError, match="width 4"):
        loss_curve({4: 1.0}, (8, 16))


def test_below_the_least_measured_width_the_curve_stays() -> None:
    assert loss_curve({16: 1.0}, (8, 16, 24)) == pytest.approx((1.0, 1.0, 0.0))


@pytest.mark.parametrize("points", [1, 2, 3, 5, 9])
def test_probes_hold_the_least_width_and_never_the_full_one(points: int) -> None:
    widths = tuple(range(16, 129, 16))
    found = probe_widths(widths, points)
    assert found[0] == 16 and 128 not in found and len(found) == min(points, 7)
    assert list(found) == sorted(set(found) & set(widths))
    assert probe_widths((64,), points) == ()


# -- losses -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NETS)
def test_losses_are_those_of_the_recalibrated_masked_original(name: str) -> None:
    captured, deps = prepared(name)
    data = _data(4)
    state = {k: v.clone() for k, v in captured.graph.state_dict().items()}
    meter = Meter(captured, deps, data)
    for seed in range(2):
        keep = random_keep(deps, seed)
        masked = masked_original(captured, deps, keep)
        # Its statistics are those of the original, which must not change.
        masked.load_state_dict({k: v.clone() for k, v in masked.state_dict().items()}, assign=True)
        recalibrate_batchnorm(masked, data)
        with torch.no_grad():
            total = sum(float(F.cross_entropy(masked(x), y, reduction="sum")) for x, y in data)
        assert meter.kept(keep) == pytest.approx(total / sum(len(y) for _, y in data), rel=1e-4)
    assert all(torch.equal(state[k], v) for k, v in captured.graph.state_dict().items())


def test_a_repair_that_ruins_the_model_is_an_infinite_loss() -> None:
    captured, deps = prepared("plain")

    def ruin(model: nn.Module) -> None:
        with torch.no_grad():
            next(p for n, p in model.named_parameters() if n.endswith("head.weight")).fill_(float("nan"))

    meter = Meter(captured, deps, _data(4), repair=ruin)
    assert meter.kept(random_keep(deps)) == float("inf") and np.isfinite(meter.dense)


# -- calibration ------------------------------------------------------------------------------------


class Uneven(nn.Module):
    """The head listens to one branch only; of the other, any width will do."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.heard, self.mute = nn.Conv2d(3, 8, 3), nn.Conv2d(3, 8, 3)
        self.from_heard, self.from_mute = nn.Linear(8, 4), nn.Linear(8, 4)
        with torch.no_grad():
            self.from_mute.weight.zero_()
            self.from_heard.weight.mul_(20)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        heard, mute = torch.relu(self.heard(x)).mean((2, 3)), torch.relu(self.mute(x)).mean((2, 3))
        return self.from_heard(heard) + self.from_mute(mute)


def _uneven() -> tuple[Captured, Dependencies, Data]:
    model = Uneven()
    captured = capture(model, torch.randn(2, 3, 8, 8))
    inputs = [x for x, _ in _data(4)]
    with torch.no_grad():
        return captured, analyse(captured), [(x, model(x).argmax(1)) for x in inputs]


def test_a_branch_that_nobody_hears_costs_nothing_and_the_other_one_everything() -> None:
    captured, deps, data = _uneven()
    domains = {"heard": (2, 4, 6, 8), "mute": (2, 4, 6, 8)}
    told: list[tuple[int, int]] = []
    found = calibrate(
        captured,
        deps,
        domains,
        data,
        scores=_scores(deps),
        points=2,
        progress=lambda what, done, total: told.append((done, total)),
    )
    assert found.curves["mute"] == (0.0, 0.0, 0.0, 0.0)
    assert found.curves["heard"][0] > 0.05 and found.curves["heard"][-1] == 0.0
    assert list(found.measured["heard"]) == [2, 6]
    assert told == [(1, 4), (2, 4), (3, 4), (4, 4)] and found.losses == 5
    # What the data cannot tell apart is decided by the width; it never outweighs a loss.
    assert list(found.values["mute"]) == sorted(set(found.values["mute"]))
    assert found.values["mute"][-1] <= WIDTH_ITSELF < found.values["heard"][-1]


def test_scores_decide_which_units_stay() -> None:
    captured, deps, data = _uneven()
    scores = {"heard": np.array([0, 0, 0, 0, 0, 0, 1.0, 2.0]), "mute": np.zeros(8)}
    found = calibrate(captured, deps, {"heard": (2, 8)}, data, scores=scores, batches=2)
    meter = Meter(captured, deps, data, batches=2)
    assert found.measured["heard"][2] == meter.kept({"heard": (6, 7)}) - meter.dense
    assert found.measured["heard"][2] != meter.kept({"heard": (0, 1)}) - meter.dense


def _residual() -> tuple[Captured, Dependencies, tuple[Block, ...]]:
    captured, deps = prepared("residual")
    return captured, deps, tuple(b for b in find_blocks(captured, deps) if b.reason is None)


def test_every_choice_is_worth_one_minus_its_harm() -> None:
    captured, deps, blocks = _residual()
    assert blocks
    domains = _domains(deps)
    found = calibrate(captured, deps, domains, _data(5), scores=_scores(deps), blocks=blocks, points=2)
    assert set(found.blocks) == {b.name for b in blocks}
    problem = _problem(found, domains, blocks)
    assert problem.value(problem.dense) == pytest.approx(1.0, abs=1e-9)
    home = {g: b.name for b in blocks for g in b.groups}
    unit: float | None = None
    for removed in itertools.chain.from_iterable(itertools.combinations(found.blocks, k) for k in range(3)):
        gone = frozenset(removed)
        rest = [g for g in domains if home.get(g) not in gone]
        for widths in itertools.product(*(domains[g] for g in rest)):
            chosen = dict(zip(rest, widths, strict=True))
            choice = Choice({g: chosen.get(g, 0) for g in domains}, gone)
            harm = sum(found.curves[g][domains[g].index(w)] ** POWER for g, w in chosen.items())
            harm += sum(max(0.0, found.block_losses[name]) ** POWER for name in gone)
            lost = 1.0 - problem.value(choice)
            if unit is None and harm > 0.1:
                unit = lost / harm
            if unit is not None:
                assert lost == pytest.approx(unit * harm, abs=2 * WIDTH_ITSELF)
    assert unit is not None


def _problem(found: Calibration, domains: dict[str, tuple[int, ...]], blocks: tuple[Block, ...]) -> Problem:
    home = {g: b.name for b in blocks for g in b.groups}
    made = tuple(Domain(g, w, found.values[g], home.get(g)) for g, w in domains.items())
    removable = tuple(Removable(name, value) for name, value in found.blocks.items())
    return Problem(made, (Limit("latency", (), 0.0),), removable)


def test_a_group_in_nested_blocks_counts_once_and_flat_curves_are_harmless() -> None:
    inside = {"inner": ("g",), "outer": ("g", "h")}
    curves, domains = {"g": (4.0, 0.0), "h": (1.0, 0.0)}, {"g": (1, 2), "h": (1, 2)}
    worth = worth_of(curves, domains, {"inner": 9.0, "outer": 16.0}, inside, {}, power=0.5)
    total = sum(v[-1] for v in worth.groups.values()) + sum(worth.blocks.values())
    assert total == pytest.approx(1.0)
    assert worth.blocks["outer"] == pytest.approx((1 - WIDTH_ITSELF) * (4 - 1) / 7)
    flat = worth_of({"g": (0.0, 0.0)}, {"g": (1, 2)}, {}, {}, {(4, 4): float("inf")})
    assert flat.groups["g"] == (0.0, WIDTH_ITSELF) and np.isfinite(flat.resolutions[4, 4])


def test_another_resolution_costs_what_resized_images_cost() -> None:
    captured, deps = prepared("residual")
    data = _data(5)
    found = calibrate(captured, deps, {}, data, scores={}, resolutions=[(6, 6)])
    twin = capture(captured.model, torch.randn(2, 3, 6, 6)).graph
    small = [(F.interpolate(x, size=(6, 6), mode="bilinear", align_corners=False), y) for x, y in data]
    recalibrate_batchnorm(twin, small)
    with torch.no_grad():
        total = sum(float(F.cross_entropy(twin(x), y, reduction="sum")) for x, y in small)
    expected = total / sum(len(y) for _, y in data) - found.dense_loss
    assert found.resolution_losses[6, 6] == pytest.approx(expected, abs=1e-5)
    assert found.resolutions[6, 6] <= 0.0
    flat = capture(nn.Linear(3, 2), torch.randn(2, 3))
    with pytest.raises(CriterionError, match="no images"):
        pairs = [(torch.randn(4, 3), torch.arange(4) % 2)]
        calibrate(flat, analyse(flat), {}, pairs, scores={}, resolutions=[(6, 6)])


def test_objectives_of_the_same_widths_can_be_blended() -> None:
    first, second = {"a": (0.0, 1.0), "b": (0.0, 0.0)}, {"a": (0.0, 0.0), "b": (0.2, 0.4)}
    assert blended(first, second, 0.25)["a"] == pytest.approx((0.0, 0.75))
    assert blended(first, second, 0.25)["b"] == pytest.approx((0.05, 0.1))
    with pytest.raises(PlanError, match="widths of group b"):
        blended(first, {"a": (0.0, 0.0), "b": (0.2,)})


def test_floors_keep_groups_from_ruining_the_model_alone() -> None:
    domains = {"a": (8, 16, 24), "b": (8, 16), "c": (8, 16)}
    curves = {"a": (0.9, 0.2, 0.0), "b": (0.1, 0.0), "c": (5.0, 0.0)}
    floor = floors(curves, domains, 0.5)
    assert floor == {"a": 16, "b": 8, "c": 16}
    with pytest.raises(UsageError, match="loss change of 0"):
        floors(curves, domains, 0.0)


def test_without_labels_the_outputs_are_compared() -> None:
    captured, deps = prepared("plain")
    images = [x for x, _ in _data(5)]
    domains, scores = _domains(deps), _scores(deps)
    found = calibrate(captured, deps, domains, images, scores=scores, against="outputs", points=1)
    assert found.dense_loss == 0.0
    meter = Meter(captured, deps, images, against="outputs", repair=lambda model: None)
    keep = random_keep(deps)
    masked = masked_original(captured, deps, keep)
    total = 0.0
    with torch.no_grad():
        for x in images:
            wanted = captured.model.eval()(x)
            total += len(x) * float((masked(x) - wanted).square().sum() / wanted.square().sum())
    assert meter.kept(keep) == pytest.approx(total / sum(map(len, images)), rel=1e-3)
    with pytest.raises(UsageError, match="'labels' or 'outputs'"):
        Meter(captured, deps, images, against="inputs")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="own loss"):
        Meter(captured, deps, images, lambda outputs, _: outputs.sum(), against="outputs")


# -- memory -----------------------------------------------------------------------------------------


def test_an_interrupted_calibration_goes_on_and_ends_the_same(tmp_path: Path) -> None:
    captured, deps, blocks = _residual()
    domains, scores, data = dict(list(_domains(deps).items())[:1]), _scores(deps), _data(5, 1)
    options: dict[str, Any] = {"scores": scores, "blocks": blocks, "points": 2}
    whole = calibrate(captured, deps, domains, data, **options)
    memory = tmp_path / "kept" / "losses.json"

    def interrupt(what: str, done: int, total: int) -> None:
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        calibrate(captured, deps, domains, data, memory=memory, progress=interrupt, **options)
    again = calibrate(captured, deps, domains, data, memory=memory, **options)
    assert again.measured == whole.measured and again.worth == whole.worth
    assert again.losses == whole.losses - 2
    # Nothing is taken over from other data, or another order of units.
    for changed in (
        {"data": _data(5, 1, seed=1)},
        {"scores": {g: -s for g, s in scores.items()}},
    ):
        arguments = {"data": data, **options, **changed}
        assert calibrate(captured, deps, domains, memory=memory, **arguments).losses == whole.losses
    with pytest.raises(UsageError, match="after the repair other"):
        calibrate(captured, deps, domains, data, memory=memory, repair_name="other", **options)
    # Nor is anything forgotten over it: the first calibration is still known.
    assert calibrate(captured, deps, domains, data, memory=memory, **options).losses == 1


def test_losses_of_one_name_are_told_apart_and_old_calibrations_are_forgotten(tmp_path: Path) -> None:
    path = tmp_path / "losses.json"
    captured, deps = prepared("plain")
    domains, scores = dict(list(_domains(deps).items())[:1]), _scores(deps)
    for factor in (1.0, 2.0):
        found = calibrate(
            captured,
            deps,
            domains,
            _data(5, 1),
            lambda outputs, target, factor=factor: factor * F.cross_entropy(outputs, target),
            scores=scores,
            memory=path,
        )
        assert found.losses > 1
    for number in range(KEPT + 3):
        Memory(path, f"key {number}").put("a=1", float(number))
    assert Memory(path, "key 3").get("a=1") == 3.0
    assert Memory(path, "key 2").get("a=1") is None
    size = path.stat().st_size
    Memory(path, "key 99").put("a=1", 0.0)
    assert path.stat().st_size <= size + 8
    Memory(path, "key 98").put("worst", math.inf)
    assert Memory(path, "key 98").get("worst") == math.inf


def test_a_file_of_another_kind_is_not_overwritten(tmp_path: Path) -> None:
    captured, deps = prepared("plain")
    other = tmp_path / "notes.json"
    other.write_text('{"mine": 1}')
    with pytest.raises(ArtifactError, match="not a file written by hwprune"):
        calibrate(captured, deps, _domains(deps), _data(5), scores=_scores(deps), memory=other)
    assert other.read_text() == '{"mine": 1}'


# -- bad input --------------------------------------------------------------------------------------


def test_what_is_wrong_is_named() -> None:
    captured, deps = prepared("plain")
    domains, scores, data = _domains(deps), _scores(deps), _data(5)
    name = next(iter(domains))
    with pytest.raises(CriterionError, match="held-out batches is empty"):
        calibrate(captured, deps, domains, [], scores=scores)
    with pytest.raises(CriterionError, match=r"does not take the held-out batches: .*\(4, 3, 9, 9\)"):
        calibrate(captured, deps, domains, [(torch.zeros(4, 3, 9, 9), torch.arange(4))], scores=scores)
    with pytest.raises(CriterionError, match="labels"):
        calibrate(captured, deps, domains, [x for x, _ in data], scores=scores)
    with pytest.raises(CriterionError, match=f"group {name} has no scores"):
        calibrate(captured, deps, domains, data, scores={})
    with pytest.raises(CriterionError, match=f"group {name} has scores of shape"):
        calibrate(captured, deps, domains, data, scores=scores | {name: np.ones(3)})
    with pytest.raises(CriterionError, match="not finite"):
        calibrate(
            captured, deps, domains, data, scores=scores | {name: np.full(deps.group(name).size, np.nan)}
        )
    with pytest.raises(CriterionError, match="the loss is nan"):
        calibrate(captured, deps, domains, [(x * float("nan"), y) for x, y in data], scores=scores)
    for bad in ({"points": 0}, {"batches": 0}):
        with pytest.raises(UsageError, match="at least 1"):
            calibrate(captured, deps, domains, data, scores=scores, **bad)
