"""``hwprune iterate``: cutting and training in rounds."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import hwprune
from hwprune.planning.schedules import shares
from hwprune.repair import evaluate_accuracy
from tests.cli.conftest import Command, Ran
from tests.nets import settle
from tests.small import Small, evaluation, train

HERE = "tests.cli.test_iterate"
MODEL = (f"{HERE}:wide", "-i", "1x1x8x8")
SHORT = (
    "--rounds",
    "2",
    "--schedule",
    "linear",
    "-l",
    "40%",
    "--every",
    "2",
    "--lr",
    "0.02",
    "--checks",
    "0",
)
TRAIN = ("--data", "tests.small:train")
BASE = ("iterate", *MODEL, *SHORT, "--json", "--evaluate", "tests.small:evaluation")


def wide() -> nn.Module:
    return settle(Small(96), 1).eval()


def untrained() -> nn.Module:
    """Other weights each time."""
    model = Small(96)
    nn.init.uniform_(
        model.head.weight, generator=torch.Generator().manual_seed(int.from_bytes(os.urandom(4)))
    )
    return model


class Interrupting:
    """Presses Ctrl-C in front of some batches, counted over all passes and calls; the file is the count."""

    def __init__(self, presses: tuple[int, ...]) -> None:
        self.presses, self.count = presses, Path("count.txt")

    def __len__(self) -> int:
        return len(train())

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        for batch in train():
            drawn = int(self.count.read_text()) + 1 if self.count.exists() else 1
            self.count.write_text(str(drawn))
            if drawn in self.presses:
                os.kill(os.getpid(), signal.SIGINT)
            yield batch


def interrupting() -> Interrupting:
    return Interrupting((3,))


def once() -> Iterator[tuple[Tensor, Tensor]]:
    yield from train()


def endless() -> Any:
    class Endless:
        def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
            while True:
                yield from train()

    return Endless()


def images() -> list[Tensor]:
    return [x for x, _ in train()]


def nothing() -> list[Tensor]:
    return []


def done(ran: Ran) -> dict[str, Any]:
    assert ran.code == 0, ran.err
    return json.loads(ran.out)


def names(directory: Path) -> set[str]:
    return {path.name for path in directory.iterdir() if not path.name.startswith((".", "__"))}


@pytest.mark.usefixtures("fake_device")
def test_rounds_and_what_is_made_of_the_result(hw: Command, tmp_path: Path) -> None:
    fit = ("--fit", "least-squares", "--fit-examples", "40", "--ridge", "0.01")
    ran = hw(*BASE, *TRAIN, *fit, "--final", "epochs=2")
    found = done(ran)
    dense = found["dense_ns"]
    budgets = [share * dense for share in shares("linear", 0.4, 2)]
    assert [each["round"] for each in found["rounds"]] == [1, 2]
    assert [each["budget_ns"] for each in found["rounds"]] == pytest.approx(budgets)
    assert all(each["predicted_ns"] <= each["budget_ns"] for each in found["rounds"])
    assert found["predicted_ns"] == found["rounds"][-1]["predicted_ns"]
    assert found["accuracy_dense"] == evaluate_accuracy(wide(), evaluation())
    assert found["budget_asked"] == "40% in 2 rounds" and found["criterion"].startswith("taylor2019")
    for line in ("round 1: plan", "round 1: train (4/4)", "round 2: plan", "round 2: train (8/8)"):
        assert line in ran.err
    assert names(tmp_path) == {"iterated"}, "nothing is left beside the output"

    # What was reported is what lies there, and other verbs take it.
    model = hwprune.load(tmp_path / "iterated", wide)
    assert evaluate_accuracy(model, evaluation()) == found["rounds"][-1]["accuracy_trained"]
    widths = {group["name"]: group["achieved"] for group in found["groups"]}
    assert widths == found["rounds"][-1]["widths"] and model.a[0].out_channels == widths["a.0"] < 96
    (record,) = json.loads((tmp_path / "iterated/plan.json").read_text())["payload"]["repairs"]
    assert record["rounds"][1]["widths"] == widths
    asked = record["options"]["repair"]
    assert (asked["method"], asked["examples"], asked["ridge"]) == ("least_squares", 40, 0.01)
    for each, kept in zip(found["rounds"], record["rounds"], strict=True):
        assert each["accuracy_fitted"] == kept["fitted_metric"] is not None
        assert each["layers_fitted"] == len(kept["fit"]["layers"]) > 0
    assert record["options"]["finetune"]["epochs"] == 1 and record["options"]["final"]["epochs"] == 2
    assert done(hw("plan", "show", "iterated", "--json"))["budget_asked"] == "40% in 2 rounds"
    repair = ("repair", MODEL[0], "--pruned", "iterated", *TRAIN, "--epochs", "0", "--json")
    assert done(hw(*repair))["batchnorms"] == 3
    later = json.loads((tmp_path / "repaired/plan.json").read_text())["payload"]["repairs"]
    assert len(later) == 2 and later[0] == record

    # For people, over the directory of before.
    text = hw(*(part for part in BASE if part != "--json"), *TRAIN, *fit, "--rounds", "1")
    assert text.code == 0, text.err
    for word in (
        "accuracy fitted",
        "accuracy trained",
        "dense",
        "192",
        "taylor2019",
        "Small with",
        "in iterated",
    ):
        assert word in text.out


@pytest.mark.usefixtures("fake_device")
def test_an_interrupted_run_ends_like_one_that_was_not(hw: Command, tmp_path: Path) -> None:
    scored = ("--scored", "tests.small:train")
    base = (*BASE, *scored, "--fit", "none")
    whole = done(hw(*base, *TRAIN, "-o", "whole"))
    stopped = hw(*base, "--data", f"{HERE}:interrupting")
    assert stopped.code == 1 and stopped.out == ""
    assert "the same command goes on from there" in stopped.err
    assert names(tmp_path) == {"whole", "iterated.rounds", "count.txt"}
    # Another run must not take it up.
    other = hw(*base, "--data", f"{HERE}:interrupting", "--momentum", "0.5", "-t", "x86-64-avx2")
    assert other.code == 1 and "was written with other options, target" in other.err
    found = done(hw(*base, "--data", f"{HERE}:interrupting"))
    assert all(each["accuracy_fitted"] is each["layers_fitted"] is None for each in found["rounds"])
    # Three batches at first; the same again on the way back to them, and five that had not been seen.
    assert (tmp_path / "count.txt").read_text() == "11"
    assert names(tmp_path) == {"whole", "iterated", "count.txt"}
    assert found["rounds"] == whole["rounds"] and found["accuracy_dense"] == whole["accuracy_dense"]
    first, second = (load_file(tmp_path / name / "weights.safetensors") for name in ("whole", "iterated"))
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.usefixtures("fake_device")
def test_other_ways_of_scoring_and_training(hw: Command, tmp_path: Path) -> None:
    save_file(wide().state_dict(), tmp_path / "dense.safetensors")
    # Images alone: the dense model teaches, as its weights are given.
    ways = ("--weights", "dense.safetensors", "--data", f"{HERE}:images", "--criterion", "l2")
    ways += (
        "--calibrate",
        "tests.small:evaluation",
        "--optimizer",
        "adamw",
        "--train",
        "label_smoothing=0.1",
    )
    found = done(hw(*BASE, *ways, "--train", "keep_best=true"))
    assert found["criterion"] == "l2"
    (record,) = json.loads((tmp_path / "iterated/plan.json").read_text())["payload"]["repairs"]
    assert record["options"]["finetune"]["optimizer"] == "adamw"
    assert record["options"]["finetune"]["label_smoothing"] == 0.1
    part = done(hw(*BASE, *TRAIN, "--include", "a.*", "-l", "80%", "--rounds", "1", "-o", "part"))
    assert hwprune.load(tmp_path / "part", wide).stem[0].out_channels == 96
    assert part["rounds"][-1]["widths"].keys() == {"a.0"}


REFUSED: dict[str, tuple[tuple[str, ...], int, tuple[str, ...]]] = {
    "schedule": (
        (*TRAIN, "--schedule", "cosine"),
        2,
        ("option 'schedule' of pruning in rounds", "'cosine'", "agp"),
    ),
    "momentum": ((*TRAIN, "--momentum", "1"), 2, ("option 'momentum'", "less than 1")),
    "optimizer": ((*TRAIN, "--optimizer", "adam"), 2, ("option 'optimizer' of the training", "adamw")),
    "option": ((*TRAIN, "--train", "decay=0"), 2, ("option 'decay' of the training", "weight_decay")),
    "no option": ((*TRAIN, "--train", "steps"), 2, ("'steps' is no option of the training", "--train")),
    "final": ((*TRAIN, "--final", "epochs=0"), 2, ("option 'epochs' of the training is '0'",)),
    "said twice": ((*TRAIN, "--train", "epochs=3"), 2, ("--train epochs=3 and --epochs", "--epochs 3")),
    "best": (
        (*TRAIN, "--final", "keep_best=true"),
        2,
        ("keep its best epoch", "--evaluate"),
    ),
    "budget": ((*TRAIN, "-l", "fast"), 1, ("budget 'fast' cannot be read", "8ms")),
    "budget without unit": ((*TRAIN, "-l", "8"), 1, ("budget '8' has no unit",)),
    "criterion": ((*TRAIN, "--criterion", "taylor2018"), 2, ("taylor2018", "taylor2019")),
    "fit": ((*TRAIN, "--fit", "lasso"), 2, ("--fit lasso", "use least-squares, scales, none")),
    "ridge": ((*TRAIN, "--fit", "scales", "--ridge", "-1"), 2, ("option 'ridge' of the repair", "0")),
    "examples of a fit": ((*TRAIN, "--fit-examples", "0"), 2, ("option 'examples' of the repair",)),
    "target": ((*TRAIN, "-t", "hots"), 2, ("unknown target 'hots'",)),
    "care": ((*TRAIN, "--profile", "slow"), 2, ("unknown measurement profile 'slow'",)),
    "include": ((*TRAIN, "--include", "nosuch*"), 2, ("include pattern 'nosuch*'",)),
    "data": (("--data", "tests.small:number"), 2, ("returned int, not an iterable",)),
    "held-out data": ((*TRAIN, "--calibrate", "tests.small:number"), 2, ("returned int",)),
    "test data": ((*TRAIN, "--evaluate", "tests.small:number"), 2, ("returned int",)),
    "no data": (("--data", f"{HERE}:nothing"), 1, ("the training loader is empty",)),
    "a generator": (
        ("--data", f"{HERE}:once"),
        2,
        ("once' returned a generator", "read only once"),
    ),
    "endless": (("--data", f"{HERE}:endless", "--batches", "2"), 1, ("no length", "steps_per_epoch")),
    "labels": (("--data", f"{HERE}:images", "--criterion", "l2"), 2, ("batch 0 has no labels", "distil")),
    "nothing to score": (
        (*TRAIN, "--scored", f"{HERE}:nothing"),
        2,
        ("no batches for criterion taylor2019",),
    ),
    "test data that end": ((*TRAIN, "--evaluate", f"{HERE}:once"), 2, ("read only once",)),
    "unlabelled test data": ((*TRAIN, "--evaluate", f"{HERE}:images"), 1, ("accuracy needs labels",)),
    "weights": ((*TRAIN, "--weights", "gone.pt"), 2, ("gone.pt does not exist",)),
    "output": ((*TRAIN, "-o", "mine"), 1, ("mine holds other files", "--out")),
    "output on a file": ((*TRAIN, "-o", "a-file"), 1, ("a-file exists and is not a directory",)),
    "place of the checkpoint": ((*TRAIN, "-o", "taken"), 1, ("taken.rounds holds other files",)),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_done_is_refused_before_anything_is_measured(
    name: str, hw: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def measured(*_: object, **__: object) -> None:
        raise AssertionError("something was measured")

    monkeypatch.setattr("hwprune.planner.workbench.Workbench.measure_kernels", measured)
    (tmp_path / "a-file").write_text("mine")
    for directory in ("mine", "taken.rounds"):
        (tmp_path / directory).mkdir()
        (tmp_path / directory / "thesis.txt").write_text("mine")
    before = names(tmp_path)
    arguments, code, needles = REFUSED[name]
    ran = hw("iterate", *MODEL, "--rounds", "2", *arguments)
    assert (ran.code, ran.out) == (code, ""), ran.err
    assert ran.err.count("error: ") == 1 and "what to do: " in ran.err and "Traceback" not in ran.err
    for needle in needles:
        assert needle in ran.err
    assert names(tmp_path) == before


@pytest.mark.usefixtures("fake_device")
def test_budgets_that_pruning_cannot_meet_leave_no_output(hw: Command, tmp_path: Path) -> None:
    met = hw("iterate", *MODEL, *TRAIN, "-l", "100%")
    assert met.code == 1 and "the dense model already meets the budget '100%'" in met.err
    far = hw("iterate", *MODEL, *TRAIN, "-l", "1%")
    assert far.code == 1 and "cannot be reached: the least reachable latency is" in far.err
    assert "train" not in far.err
    assert names(tmp_path) == set()


@pytest.mark.usefixtures("fake_device")
def test_a_run_is_not_taken_up_with_other_weights(hw: Command, tmp_path: Path) -> None:
    base = (
        "iterate",
        f"{HERE}:untrained",
        *MODEL[1:],
        *SHORT,
        "--data",
        f"{HERE}:interrupting",
        "--fit",
        "none",
    )
    assert hw(*base, "--scored", "tests.small:train").code == 1
    again = hw(*base, "--scored", "tests.small:train")
    assert again.code == 1 and "was written with other model" in again.err
    assert "delete iterated.rounds to start again" in again.err
