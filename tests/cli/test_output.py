"""What the verbs print, and where: data on stdout, the rest on stderr."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import typer
from safetensors.torch import load_file, save_file

from hwprune.cli import app
from hwprune.importance import available as criteria
from hwprune.solve.plan import Plan
from tests.cli.conftest import Command
from tests.small import Small

SMALL = ("tests.small:Small", "-i", "1x1x8x8")
VERBS = (
    "targets",
    "inspect",
    "profile",
    "plan",
    "prune",
    "iterate",
    "repair",
    "compile",
    "bench",
    "report",
    "quickstart",
)


def one_object(text: str) -> dict[str, object]:
    """Exactly one JSON object and nothing else."""
    found, end = json.JSONDecoder().raw_decode(text)
    assert text[end:] == "\n"
    assert isinstance(found, dict)
    return found


def test_help_names_all_verbs_and_exit_codes(hw: Command):
    ran = hw("--help")
    assert ran.code == 0
    for verb in VERBS:
        assert f" {verb} " in ran.out
    assert "Exit codes: 0 done" in ran.out


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_help_and_json(verb: str, hw: Command):
    ran = hw(verb, "--help")
    assert ran.code == 0
    assert ran.err == ""
    assert f"Usage: hwprune {verb}" in ran.out
    assert "--json" in ran.out
    command = typer.main.get_command(app).commands[verb]  # type: ignore[attr-defined]
    assert command.help
    for parameter in command.params:
        assert parameter.help or parameter.name == "help", f"{verb} {parameter.name} has no help"


def test_help_says_where_the_criteria_are(hw: Command):
    command = typer.main.get_command(app).commands["plan"]  # type: ignore[attr-defined]
    text = next(p.help for p in command.params if p.name == "criterion")
    assert "hwprune inspect --criteria" in text
    ran = hw("inspect", "--criteria", "--json")
    assert ran.code == 0, ran.err
    for name in criteria():
        assert name in ran.out


def test_targets(hw: Command):
    listed = one_object(hw("targets", "--json").out)
    assert {"host", "x86-64-avx2"} <= {t["name"] for t in listed["targets"]}  # type: ignore[index,union-attr]
    one = one_object(hw("targets", "x86-64-avx2", "--json").out)
    assert one["isa"] == "avx2"
    assert one["alignment"] == {"float32": {"conv2d": 8, "depthwise": 8, "linear": 8}}
    text = hw("targets", "x86-64-avx2").out
    assert "core-avx2" in text
    assert hw("targets").out.count("x86-64") == 4  # name and description


def test_inspect(hw: Command):
    ran = hw("inspect", *SMALL, "-t", "x86-64-avx512", "--kernels", "--json")
    found = one_object(ran.out)
    groups = {g["name"]: g for g in found["groups"]}  # type: ignore[index,union-attr]
    assert set(groups) == {"stem.0", "a.0"}
    assert groups["stem.0"]["channels"] == 32
    assert groups["stem.0"]["widths"] == [16, 32]
    assert groups["stem.0"]["layers"] == ["a.0", "b.0", "b.1", "head", "stem.0", "stem.1"]
    assert found["ledger"] == [{"name": "head", "channels": 4, "reason": "output of the model"}]
    kernels = found["kernels"]
    assert [k["groups"] for k in kernels][:2] == [["stem.0"], ["stem.0", "a.0"]]  # type: ignore[index,union-attr]
    narrow = one_object(hw("inspect", *SMALL, "--include", "a.*", "--json").out)
    assert [g["name"] for g in narrow["groups"]] == ["a.0"]  # type: ignore[index,union-attr]
    text = hw("inspect", *SMALL, "--kernels").out
    for word in ("2 groups of channels", "output of the model", "conv2d+relu"):
        assert word in text


def test_text_is_not_read_as_markup(hw: Command, tmp_path: Path):
    """Square brackets in a path or a name belong to it, and long paths stay in one piece."""
    directory = tmp_path / "[bold]red[/bold]" / ("long" * 40)
    directory.mkdir(parents=True)
    (directory / "net.py").write_text(
        "import torch\nfrom tests.small import Small\ndef make():\n    return Small()\n"
    )
    ran = hw("inspect", f"{directory / 'gone.py'}:make", "-i", "1x1x8x8")
    assert str(directory / "gone.py") in ran.err
    assert hw("inspect", f"{directory / 'net.py'}:make", "-i", "1x1x8x8").code == 0


@pytest.mark.usefixtures("fake_device")
class TestPlanAndPrune:
    def test_plan_prints_one_object_and_progress_on_stderr(self, hw: Command, tmp_path: Path):
        ran = hw("plan", *SMALL, "-t", "x86-64-avx512", "-l", "60%", "-o", "some/where/plan.json", "--json")
        assert ran.code == 0, ran.err
        found = one_object(ran.out)
        assert found["plan"] == "some/where/plan.json"
        assert found["budget_asked"] == "60%"
        assert found["criterion"] == "lamp"
        assert found["predicted_ns"] <= found["budget_ns"] < found["dense_ns"]  # type: ignore[operator]
        # What calling kernels of a few microseconds costs in a network is guessed before it is measured.
        assert found["measured_ns"] == pytest.approx(found["predicted_ns"], rel=0.2)
        assert [g["multiple"] for g in found["groups"]] == [16, 16]  # type: ignore[index,union-attr]
        assert "score channels by lamp" in ran.err
        assert "profile made-up kernels" in ran.err
        written = Plan.load(tmp_path / "some/where/plan.json").model_dump(mode="json")
        assert all(found[key] == value for key, value in written.items())

    def test_plan_for_people(self, hw: Command):
        ran = hw("plan", *SMALL, "-t", "x86-64-avx512", "-l", "60%", "--data", "tests.small:train")
        assert ran.code == 0, ran.err
        for word in (
            "stem.0",
            "budget",
            "(60%)",
            "predicted",
            "head (4 channels): output of the model",
            "plan.json",
        ):
            assert word in ran.out
        assert "score channels by taylor2019" in ran.err
        assert "score" not in ran.out

    def test_minimum_and_checks(self, hw: Command):
        base = ("plan", *SMALL, "-t", "x86-64-avx512", "-l", "60%", "--json")
        wide = hw(*base, "--minimum", "0.9")
        assert wide.code == 1
        assert "cannot be reached" in wide.err
        assert one_object(hw(*base, "--checks", "0").out)["measured_ns"] is None

    def test_prune_writes_what_it_says(self, hw: Command, tmp_path: Path):
        torch.manual_seed(1)
        dense = Small()
        for parameter in dense.parameters():
            torch.nn.init.normal_(parameter)
        save_file(dense.state_dict(), tmp_path / "dense.safetensors")
        weights = ("--weights", "dense.safetensors")
        assert hw("plan", *SMALL, *weights, "-t", "x86-64-avx512", "-l", "60%").code == 0
        ran = hw("prune", *SMALL, *weights, "-p", "plan.json", "--json")
        assert ran.err == ""
        found = one_object(ran.out)
        assert found["directory"] == "pruned"
        assert found["class"] == "Small"
        assert found["max_rel_error"] <= 1e-4  # type: ignore[operator]
        assert found["edited"] is False
        state = load_file(tmp_path / "pruned" / "weights.safetensors")
        plan = json.loads((tmp_path / "plan.json").read_text())["payload"]
        stem, a = ({g["name"]: g["width"] for g in plan["groups"]}[name] for name in ("stem.0", "a.0"))
        assert min(stem, a) == 16
        assert state["a.0.weight"].shape == (a, stem, 3, 3)
        # The units that the plan lists are the units of the given weights.
        kept = next(g["kept"] for g in plan["groups"] if g["name"] == "stem.0")
        units = [
            unit
            for part in kept.split(",")
            for unit in range(int(part.split("-")[0]), int(part.split("-")[-1]) + 1)
        ]
        assert torch.equal(state["stem.0.weight"], dense.stem[0].weight[units])

    def test_a_plan_edited_by_hand_is_applied_and_said_to_be_edited(
        self, hw: Command, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ):
        assert hw("plan", *SMALL, "-t", "x86-64-avx512", "-l", "60%").code == 0
        path = tmp_path / "plan.json"
        plan = json.loads(path.read_text())
        group = next(g for g in plan["payload"]["groups"] if g["name"] == "stem.0")
        group.update(kept="1,4-6,30", width=5)
        path.write_text(json.dumps(plan))
        ran = hw("prune", *SMALL, "-p", "plan.json", "--json")
        assert ran.code == 0, ran.err
        found = one_object(ran.out)
        assert found["edited"] is True
        assert found["max_rel_error"] <= 1e-4  # type: ignore[operator]
        assert "edited by hand" in caplog.text
        state = load_file(tmp_path / "pruned" / "weights.safetensors")
        assert torch.equal(state["stem.0.weight"], Small().stem[0].weight[[1, 4, 5, 6, 30]])

    def test_a_plan_for_some_layers_knows_its_scope(self, hw: Command):
        avx512 = ("-t", "x86-64-avx512")
        assert hw("plan", *SMALL, *avx512, "-l", "80%", "--include", "a.*").code == 0
        assert hw("prune", *SMALL, "-p", "plan.json").code == 0
        ran = hw("prune", *SMALL, "-p", "plan.json", "--include", "*")
        assert ran.code == 1
        assert "does not mention group 'stem.0'" in ran.err
        assert "same include and exclude patterns" in ran.err

    def test_a_plan_keeps_to_limits_and_says_what_it_uses(self, hw: Command, tmp_path: Path):
        options = ("--parameters", "90%", "--memory", "0.95", "--limit", "a.*=50%..100%")
        ran = hw("plan", *SMALL, "-t", "x86-64-avx512", "-l", "90%", *options, "--json")
        assert ran.code == 0, ran.err
        found = one_object(ran.out)
        limits = {line["name"]: line for line in found["limits"]}  # type: ignore[index,union-attr]
        assert set(limits) == {"parameters", "memory"}
        dense = sum(p.numel() for p in Small().parameters())
        for line in limits.values():
            assert line["used"] <= line["at_most"]
        assert limits["parameters"]["at_most"] == int(0.9 * dense)
        groups = {g["name"]: g for g in found["groups"]}  # type: ignore[index,union-attr]
        assert groups["a.0"]["allowed"] == "16,32"
        assert groups["stem.0"]["allowed"] is None
        assert hw("prune", *SMALL, "-p", "plan.json").code == 0
        state = load_file(tmp_path / "pruned" / "weights.safetensors")
        counted = sum(v.numel() for k, v in state.items() if "running" not in k and "num_batches" not in k)
        assert counted == limits["parameters"]["used"]

    def test_a_floor_gives_the_least_latency(self, hw: Command):
        ran = hw("plan", *SMALL, "-t", "x86-64-avx512", "--floor", "60%", "--json")
        assert ran.code == 0, ran.err
        found = one_object(ran.out)
        assert found["objective"]["asked"] == "60%"  # type: ignore[index]
        assert found["objective"]["least"] == "latency"  # type: ignore[index]
        assert 0.6 <= found["value"] < 1.0  # type: ignore[operator]
        assert found["budget_asked"] == "least with 60% of the importance"
        assert found["predicted_ns"] < found["dense_ns"]  # type: ignore[operator]

    def test_a_frontier_is_plans_a_file_and_a_drawing(self, hw: Command, tmp_path: Path):
        pytest.importorskip("matplotlib")
        base = ("plan", *SMALL, "-t", "x86-64-avx512", "--pareto", "3")
        ran = hw(*base, "-o", "out/front.json", "--plot", "out/front.svg", "--json")
        assert ran.code == 0, ran.err
        found = one_object(ran.out)
        assert found["points"]
        for point in found["points"]:  # type: ignore[union-attr]
            path = tmp_path / "out" / point["plan"]
            assert json.loads(path.read_text())["payload"]["predicted_ns"] == point["predicted_ns"]
            assert hw("prune", *SMALL, "-p", str(path), "-o", str(tmp_path / path.stem)).code == 0
        assert "<svg" in (tmp_path / "out" / "front.svg").read_text()
        text = hw(*base).out
        for word in ("frontier of Small", "greedy", "uniform", "written to frontier.json"):
            assert word in text
        ran = hw("plan", "show", "frontier.json")
        assert ran.code == 0 and "frontier/01.json" in ran.out and "importance" in ran.out
        shown = one_object(hw("plan", "show", "frontier.json", "--json").out)
        assert len(shown["points"]) == len(found["points"])  # type: ignore[arg-type]
        ran = hw("plan", "diff", "frontier.json", "frontier/01.json")
        assert ran.code == 1 and "is a frontier of" in ran.err and "frontier/01.json" in ran.err
        ran = hw("plan", "show", "frontier")
        assert ran.code == 1 and "holds no plan.json" in ran.err and "frontier/01.json" in ran.err

    def test_plans_by_two_criteria_are_compared(self, hw: Command, tmp_path: Path):
        base = ("plan", *SMALL, "-t", "x86-64-avx512", "-l", "80%", "--checks", "0")
        asked = (
            "--calibrate",
            "tests.small:evaluation",
            "--criterion",
            "l1:variant=greedy,l2",
            "--most-harm",
            "9",
        )
        ran = hw(*base, *asked, "--checkpoint", "losses.json", "--json")
        assert ran.code == 0, ran.err
        found = one_object(ran.out)
        rechecked = found["rechecked"]
        assert rechecked["criteria"][found["criterion"]] == rechecked["loss"]  # type: ignore[index]
        assert set(rechecked["criteria"]) == {"l1:variant=greedy", "l2"}  # type: ignore[index]
        assert all(group["floor"] for group in found["groups"])  # type: ignore[union-attr]
        before = (tmp_path / "losses.json").read_bytes()
        text = hw(*base, *asked, "--checkpoint", "losses.json").out
        assert "by criteria: l1:variant=greedy " in text and "at least 16" in text
        assert (tmp_path / "losses.json").read_bytes() == before

    def test_cuts_are_judged_after_a_repair(self, hw: Command):
        base = ("plan", *SMALL, "-t", "x86-64-avx512", "-l", "80%", "--checks", "0", "--checkpoint", "l.json")
        asked = ("--data", "tests.small:train", "--calibrate", "tests.small:evaluation", "--criterion", "l1")
        fit = ("--calibrate-repair", "least-squares:examples=48")
        ran = hw(*base, *asked, *fit, "--json")
        assert ran.code == 0, ran.err
        found = one_object(ran.out)
        assert found["judged_after"] == "least_squares:examples=48" and found["rechecked"]
        assert "after the repair least_squares:examples=48 of every cut" in hw(*base, *asked, *fit).out
        ran = hw(*base, *asked)
        assert ran.code == 2
        assert "the checkpoint l.json holds losses after the repair least_squares:examples=48" in ran.err

    def test_a_joint_search_among_resolutions(self, hw: Command):
        asked = ("--solver", "joint", "--calibrate", "tests.small:evaluation", "--data", "tests.small:train")
        steps = [f"--joint={option}" for option in ("iterations=2", "every=1", "samples=1", "pairs=1")]
        base = ("plan", *SMALL, "-t", "x86-64-avx512", "--checks", "0", *asked, *steps, "--json")
        ran = hw(*base, "-l", "20%")
        assert ran.code == 1 and "cannot be reached" in ran.err
        ran = hw(*base, "-l", "25%", "--resolution", "8,4")
        assert ran.code == 0, ran.err
        found = one_object(ran.out)
        assert (found["solver"], found["resolution"]) == ("joint", [4, 4])

    def test_a_verdict_makes_no_plan(self, hw: Command, tmp_path: Path):
        ran = hw("plan", *SMALL, "-t", "x86-64-avx512", "--verdict", "--json")
        assert ran.code == 0, ran.err
        found = one_object(ran.out)
        assert 0.0 <= found["saving"] <= 1.0  # type: ignore[operator]
        assert found["least_ns"] <= found["dense_ns"]  # type: ignore[operator]
        assert {k["name"] for k in found["kernels"]} >= {"stem.0", "a.0"}  # type: ignore[index,union-attr]
        assert not (tmp_path / "plan.json").exists()
        assert "pruning can save at most" in hw("plan", *SMALL, "-t", "x86-64-avx512", "--verdict").out

    def test_pruning_again_replaces_only_our_own(self, hw: Command, tmp_path: Path):
        assert hw("plan", *SMALL, "-t", "x86-64-avx512", "-l", "60%").code == 0
        assert hw("prune", *SMALL, "-p", "plan.json").code == 0
        assert hw("prune", *SMALL, "-p", "plan.json").code == 0
        assert sorted(p.name for p in (tmp_path / "pruned").iterdir()) == ["plan.json", "weights.safetensors"]
        assert not list(tmp_path.glob(".*.tmp"))

    def test_repair(self, hw: Command, tmp_path: Path):
        assert hw("plan", *SMALL, "-t", "x86-64-avx512", "-l", "60%").code == 0
        assert hw("prune", *SMALL, "-p", "plan.json").code == 0
        data = ("--data", "tests.small:train", "--evaluate", "tests.small:evaluation")
        base = ("repair", SMALL[0], "--pruned", "pruned", *data, "--json")
        only = one_object(hw(*base, "--epochs", "0", "-o", "zero").out)
        assert (only["steps"], only["batchnorms"]) == (0, 3)
        ran = hw(*base, "--epochs", "3", "--lr", "0.05")
        found = one_object(ran.out)
        assert found["steps"] == 12
        assert found["accuracy_after"] >= found["accuracy_before"]  # type: ignore[operator]
        assert "fine-tune" in ran.err
        assert sorted(p.name for p in tmp_path.iterdir() if not p.name.startswith(".")) == [
            "plan.json",
            "pruned",
            "repaired",
            "zero",
        ]

    def test_only_a_teacher_with_weights_teaches_unasked(
        self, hw: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ):
        teachers: list[object] = []

        def repair(*arguments: object, teacher: object, **options: object) -> dict[str, object]:
            teachers.append(teacher)
            return {"accuracy_before": None, "accuracy_after": None}

        monkeypatch.setattr("hwprune.repair.saved.repair_saved", repair)
        save_file(Small().state_dict(), tmp_path / "dense.safetensors")
        base = ("repair", SMALL[0], "--pruned", "pruned", "--data", "tests.small:train", "--fit", "none")
        for extra in ((), ("--weights", "dense.safetensors"), ("--distill",)):
            assert hw(*base, *extra).code == 0
        assert hw(*base, "--weights", "dense.safetensors", "--no-distill").code == 0
        assert [teacher is not None for teacher in teachers] == [False, True, True, False]
