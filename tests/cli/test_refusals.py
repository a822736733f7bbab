"""Bad input: one clear error that names the thing, a hint, the exit code, and nothing half-written."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from hwprune.api import analyse_model
from hwprune.compile import pipeline_hash
from hwprune.measure.device import describe_device
from hwprune.measure.stopping import QUICK
from hwprune.measure.table_writer import TableWriter
from hwprune.planner.workbench import Workbench
from hwprune.target import load_target
from tests.cli.conftest import Command, Ran
from tests.planner.fakes import MANIFEST, row
from tests.small import SHAPE, Other, Small

SMALL = ("tests.small:Small", "-i", "1x1x8x8")


class Trap:
    """Unpickling it leaves a file behind."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return (Path.touch, (self.path,))


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A directory with something of everything in it."""
    (tmp_path / "a-file").write_text("mine")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("mine")
    (tmp_path / "net.py").write_text("import torch\n\ndef make():\n    return torch.nn.Linear(3, 3)\n")
    (tmp_path / "syntax.py").write_text("def make(:\n")
    (tmp_path / "exits.py").write_text("raise SystemExit('usage: exits')\n")
    (tmp_path / "bad.toml").write_text('kind = "cpu"\nthread = 2\n[tvm]\nkind = "llvm"\n')
    (tmp_path / "text.pt").write_text("no weights at all")
    (tmp_path / "text.safetensors").write_text("no weights at all")
    (tmp_path / "other.json").write_text('{"kept": []}')
    save_file(Other().state_dict(), tmp_path / "other.safetensors")
    torch.save({"weight": torch.zeros(1), "trap": Trap(tmp_path / "sprung")}, tmp_path / "trap.pt")
    torch.save([1, 2], tmp_path / "list.pt")
    return tmp_path


def tree(directory: Path) -> dict[str, bytes]:
    files = [p for p in directory.rglob("*") if "__pycache__" not in p.parts]
    return {str(p.relative_to(directory)): p.read_bytes() if p.is_file() else b"" for p in files}


def assert_refused(ran: Ran, code: int, *needles: str) -> None:
    assert ran.code == code, ran.err
    assert ran.out == ""
    assert "Traceback" not in ran.err
    lines = ran.err.splitlines()
    errors = [i for i, line in enumerate(lines) if line.startswith("error: ")]
    assert len(errors) == 1, ran.err
    said = "\n".join(lines[errors[0] :])
    assert "what to do: " in said
    for needle in needles:
        assert needle in said, ran.err


REPAIR_DATA = ("--data", "tests.small:train")
PLAN, INSPECT = ("plan", *SMALL), ("inspect", *SMALL)

CASES: dict[str, tuple[tuple[str, ...], int, tuple[str, ...]]] = {
    "target": ((*INSPECT, "-t", "hots"), 2, ("unknown target 'hots'", "host")),
    "target of plan": ((*PLAN, "-t", "hots"), 2, ("unknown target 'hots'", "host")),
    "target file": ((*PLAN, "-t", "bad.toml"), 2, ("bad.toml", "unknown key 'thread'", "'threads'")),
    "target to show": (("targets", "x86-avx512"), 2, ("x86-avx512", "x86-64-avx512")),
    "threads": ((*PLAN, "--threads", "4096"), 2, ("4096 threads", "--threads")),
    "include": ((*PLAN, "--include", "nosuch*"), 2, ("include pattern 'nosuch*'", "stem.0")),
    "exclude": ((*INSPECT, "--exclude", "stemm*"), 2, ("exclude pattern 'stemm*'", "stem.0")),
    "criterion": ((*PLAN, "--criterion", "l3"), 2, ("unknown criterion 'l3'", "l2")),
    "care": ((*PLAN, "--profile", "slow"), 2, ("unknown measurement profile 'slow'", "publish")),
    "care of bench": (("bench", "gone", "--profile", "slow"), 2, ("profile 'slow'", "publish")),
    "budget": ((*PLAN, "-l", "fast"), 1, ("budget 'fast' cannot be read", "8ms")),
    "budget without unit": ((*PLAN, "-l", "8"), 1, ("budget '8' has no unit", "8ms")),
    "negative budget": ((*PLAN, "-l", "0%"), 1, ("budget '0%' is not above zero",)),
    "two budgets": ((*PLAN, "-l", "50%", "-l", "60%"), 2, ("2 latency budgets", "-l host=50%")),
    "budget of no target": ((*PLAN, "-l", "hots=50%"), 2, ("latency budget for 'hots'", "'host'")),
    "targets without a budget": (
        (*PLAN, "-t", "host", "-t", "x86-64-avx2", "-l", "host=50%"),
        2,
        ("target x86-64-avx2 has no latency budget",),
    ),
    "device of a fleet": (
        (*PLAN, "-t", "host", "-t", "x86-64-avx2", "--rpc", "h:1"),
        2,
        ("--rpc, --tracker, --key and --device are about one target",),
    ),
    "floor": ((*PLAN, "--floor", "much"), 2, ("'much' is not a share of the importance", "95%")),
    "parameters": ((*PLAN, "--parameters", "5Q"), 1, ("limit '5Q' on parameters", "unknown unit 'Q'")),
    "memory": ((*PLAN, "--memory", "5"), 1, ("limit '5' on memory has no unit", "8MB")),
    "limit": ((*PLAN, "--limit", "a.*"), 2, ("'a.*' is no limit on layers", "50%..100%")),
    "limit range": ((*PLAN, "--limit", "a.*=x"), 2, ("'x' is not a range of shares",)),
    "limit twice": ((*PLAN, "--limit", "a=..1", "--limit", "a=..0.5"), 2, ("two entries for 'a'",)),
    "limit of nothing": ((*PLAN, "--limit", "zz*=50%"), 2, ("limit pattern 'zz*' matches no layer",)),
    "limits against each other": (
        (*PLAN, "--limit", "a.0=..50%", "--limit", "a.*=60%.."),
        2,
        ("'a.*' and 'a.0' contradict each other",),
    ),
    "limit without a width": (
        (*PLAN, "--limit", "a.0=60%..90%"),
        1,
        ("no aligned width of group 'a.0'", "32"),
    ),
    "weight": ((*PLAN, "--weight", "host=much"), 2, ("weight 'much' of host is not a number",)),
    "plot alone": ((*PLAN, "--plot", "x.svg"), 2, ("--plot draws a frontier", "--pareto 12")),
    "plot as what": ((*PLAN, "--pareto", "3", "--plot", "x.png"), 2, ("x.png is not an .svg file",)),
    "frontier with a budget": ((*PLAN, "--pareto", "3", "-l", "50%"), 2, ("--pareto shows all latencies",)),
    "verdict with a budget": ((*PLAN, "--verdict", "-l", "50%"), 2, ("--verdict says what can be saved",)),
    "verdict with a file": ((*PLAN, "--verdict", "-o", "x.json"), 2, ("nothing would be in x.json",)),
    "frontier with a floor": ((*PLAN, "--pareto", "3", "--floor", "0.9"), 2, ("--pareto shows all floors",)),
    "form": ((*PLAN, "--criterion", "l1:power=2"), 2, ("'l1' has no parameter power", "variant, keep")),
    "criteria": ((*PLAN, "--criterion", "l1,l2"), 2, ("plans by l1 and l2", "--calibrate")),
    "harm": ((*PLAN, "--most-harm", "0.5"), 2, ("--most-harm is about a loss", "--calibrate")),
    "repair": (
        (*PLAN, "--calibrate-repair", "scales"),
        2,
        ("--calibrate-repair is about losses", "--calibrate"),
    ),
    "repair without data": (
        (*PLAN, "--calibrate", "tests.small:evaluation", "--calibrate-repair", "least-squares"),
        2,
        ("after the repair least_squares", "no data for it", "--data"),
    ),
    "repair of no kind": (
        (*PLAN, "--calibrate", "tests.small:evaluation", "--calibrate-repair", "lasso"),
        2,
        ("option 'method' of the repair is 'lasso'", "least_squares"),
    ),
    "checkpoint": ((*PLAN, "--checkpoint", "x.json"), 2, ("--checkpoint keeps losses", "--calibrate")),
    "joint alone": ((*PLAN, "--joint", "iterations=8"), 2, ("--joint is about a search", "--solver joint")),
    "joint without data": ((*PLAN, "--solver", "joint"), 2, ("judges networks by held-out data",)),
    "joint option": (
        (*PLAN, "--solver", "joint", "--calibrate", "tests.small:evaluation", "--joint", "steps=8"),
        2,
        ("'steps' of the joint search", "iterations"),
    ),
    "frontier by another solver": (
        (*PLAN, "--pareto", "3", "--solver", "greedy"),
        2,
        ("a frontier is solved by milp at all of its points, not by greedy",),
    ),
    "frontier of two criteria": (
        (*PLAN, "--pareto", "3", "--criterion", "l1,l2", "--calibrate", "tests.small:evaluation"),
        2,
        ("a frontier is by one criterion",),
    ),
    "plans where a file is": (
        (*PLAN, "--pareto", "3", "-o", "a-file.json"),
        1,
        ("the plans of a-file.json belong into a-file, which is a file",),
    ),
    "input": (("inspect", SMALL[0], "-i", "1x1xA"), 2, ("'1x1xA' is not an input shape", "1x3x224x224")),
    "input shape": (("inspect", SMALL[0], "-i", "1x3x8x8"), 1, ("layer 'stem.0'", "(1, 3, 8, 8)")),
    "input rank": (("plan", SMALL[0], "-i", "64"), 1, ("layer 'stem.0'", "(64,)")),
    "two inputs": (("inspect", SMALL[0], "-i", "1x1x8x8", "-i", "1x1"), 1, ("positional",)),
    "export": (("plan", "tests.small:Undecided", "-i", "1x1x8x8"), 1, ("Undecided", "data-dependent")),
    "nothing to prune": (("plan", "tests.small:Frozen", "-i", "1x8"), 1, ("head", "output of the model")),
    "factory name": (("inspect", "tests.small", "-i", "1x1"), 2, ("'tests.small'", "package.module:factory")),
    "factory colon": (("inspect", ":Small", "-i", "1x1"), 2, ("':Small'", "package.module:factory")),
    "factory": (("inspect", "tests.small:Smal", "-i", "1x1"), 2, ("no factory 'Smal'", "Small")),
    "module": (("inspect", "tests.smal:Small", "-i", "1x1"), 2, ("'tests.smal'", "ModuleNotFoundError")),
    "file": (("inspect", "gone.py:Net", "-i", "1x1"), 2, ("gone.py does not exist",)),
    "file's factory": (("inspect", "net.py:mak", "-i", "1x1"), 2, ("'net.py' has no factory 'mak'", "make")),
    "syntax": (("inspect", "syntax.py:make", "-i", "1x1"), 2, ("syntax.py", "SyntaxError")),
    "exits": (("inspect", "exits.py:make", "-i", "1x1"), 2, ("exits.py", "usage: exits")),
    "raises": (("inspect", "tests.small:broken", "-i", "1x1"), 2, ("ValueError: the dog ate the weights",)),
    "arguments": (
        ("inspect", "tests.small:needs_argument", "-i", "1x1"),
        2,
        ("'width'", "without arguments"),
    ),
    "no module": (("inspect", "tests.small:number", "-i", "1x1"), 2, ("returned int, not an nn.Module",)),
    "data": ((*PLAN, "--data", "tests.small:number"), 2, ("data factory", "returned int")),
    "weights": ((*INSPECT, "--weights", "gone.pt"), 2, ("gone.pt does not exist",)),
    "weights of another": ((*INSPECT, "--weights", "other.safetensors"), 2, ("missing", "conv.weight")),
    "pickle": ((*PLAN, "--weights", "trap.pt"), 2, ("trap.pt", "pickle", "--trust-pickle")),
    "text": ((*INSPECT, "--weights", "text.pt"), 2, ("text.pt cannot be read",)),
    "safetensors": ((*INSPECT, "--weights", "text.safetensors"), 2, ("text.safetensors is not a",)),
    "list": ((*INSPECT, "--weights", "list.pt"), 2, ("list.pt holds a list",)),
    "plan file": (("prune", *SMALL, "-p", "gone.json"), 1, ("gone.json does not exist", "hwprune.plan")),
    "foreign plan": (("prune", *SMALL, "-p", "other.json"), 1, ("other.json is not a file written by",)),
    "plan on a directory": ((*PLAN, "-o", "mine"), 1, ("mine is a directory", "--out")),
    "plan below a file": ((*PLAN, "-o", "a-file/plan.json"), 1, ("a-file is not a directory", "--out")),
    "prune on a file": (("prune", *SMALL, "-p", "x", "-o", "a-file"), 1, ("a-file exists and is not a dir",)),
    "prune over files": (("prune", *SMALL, "-p", "x", "-o", "mine"), 1, ("mine holds other files", "--out")),
    "compile on a file": (("compile", *SMALL, "-o", "a-file"), 1, ("a-file exists and is not a directory",)),
    "compile over files": (("compile", *SMALL, "-o", "mine"), 1, ("mine holds other files",)),
    "no time to tune": (("compile", *SMALL, "--tune", "0"), 2, ("0 minutes is none", "positive number")),
    "tune without search": (
        ("compile", *SMALL, "--tune", "1", "--no-search"),
        2,
        ("--no-search leaves that out",),
    ),
    "repair over files": (
        ("repair", SMALL[0], "--pruned", "gone", "--data", "tests.small:train", "-o", "mine"),
        1,
        ("mine holds other files",),
    ),
    "repair of nothing": (
        ("repair", SMALL[0], "--pruned", "gone", "--data", "tests.small:train"),
        1,
        ("gone/plan.json does not exist",),
    ),
    "repair with test data that end": (
        ("repair", SMALL[0], "--pruned", "gone", *REPAIR_DATA, "--evaluate", "tests.cli.test_iterate:once"),
        2,
        ("once' returned a generator", "read only once"),
    ),
    "optimizer": (
        ("repair", SMALL[0], "--pruned", "gone", "--data", "tests.small:train", "--optimizer", "adam"),
        2,
        ("'optimizer'", "adamw"),
    ),
    "quickstart on a file": (("quickstart", "-o", "a-file"), 1, ("a-file", "--out")),
    "quickstart's care": (("quickstart", "--profile", "slow"), 2, ("profile 'slow'", "publish")),
    "bundle": (("bench", "gone"), 1, ("gone",)),
    "bench on a directory": (("bench", "gone", "-o", "mine"), 1, ("mine is a directory",)),
    "report": (("report", "gone.json"), 1, ("gone.json",)),
    "compile of nothing": (("compile", *SMALL, "--pruned", "gone"), 1, ("gone/plan.json does not exist",)),
}


@pytest.mark.parametrize("name", CASES)
def test_bad_input(name: str, hw: Command, place: Path):
    arguments, code, needles = CASES[name]
    before = tree(place)
    assert_refused(hw(*arguments), code, *needles)
    assert tree(place) == before


def test_trusted_pickle_is_loaded(hw: Command, place: Path):
    """The trap springs only when asked to: the case above would not see a trap that cannot."""
    assert_refused(
        hw(*INSPECT, "--weights", "trap.pt", "--trust-pickle"), 2, "does not fit the model", "trap"
    )
    assert (place / "sprung").exists()


@pytest.mark.parametrize(
    "arguments",
    [
        ("plna",),
        ("plan",),
        ("inspect", "tests.small:Small"),
        ("plan", *SMALL, "--latncy", "50%"),
        ("plan", *SMALL, "--checks", "-1"),
        ("plan", *SMALL, "--minimum", "1.5"),
        ("plan", *SMALL, "--threads", "0"),
        ("repair", SMALL[0], "--pruned", "p"),
    ],
)
def test_usage(arguments: tuple[str, ...], hw: Command, place: Path):
    before = tree(place)
    ran = hw(*arguments)
    assert ran.code == 2
    assert ran.out == ""
    assert "Usage: hwprune" in ran.err
    assert "Traceback" not in ran.err
    assert tree(place) == before


@pytest.mark.usefixtures("fake_device")
@pytest.mark.parametrize(
    ("latency", "needles"),
    [
        ("1%", ("cannot be reached: the least reachable latency is ", " ms or more")),
        ("1ns", ("the budget of 1e-06 ms cannot be reached",)),
        ("100%", ("the dense model already meets the budget '100%'", " ms")),
        ("3s", ("the dense model already meets the budget '3s'", "use the dense model as it is")),
    ],
)
def test_budgets_out_of_range(latency: str, needles: tuple[str, ...], hw: Command, place: Path):
    before = tree(place)
    assert_refused(hw(*PLAN, "-l", latency, "--json"), 1, *needles)
    assert tree(place) == before


@pytest.mark.usefixtures("fake_device")
def test_a_criterion_that_needs_data(hw: Command, place: Path):
    before = tree(place)
    assert_refused(hw(*PLAN, "--criterion", "taylor2019"), 1, "taylor2019", "data")
    assert tree(place) == before


@pytest.mark.usefixtures("fake_device")
def test_a_place_that_nobody_can_write(hw: Command, place: Path):
    assert hw(*PLAN).code == 0
    before = tree(place)
    assert_refused(
        hw("prune", *SMALL, "-p", "plan.json", "-o", "/proc/pruned"), 1, "/proc/pruned cannot be written"
    )
    assert_refused(hw(*PLAN, "-o", "/proc/plan.json"), 1, "/proc/plan.json cannot be written")
    assert tree(place) == before


@pytest.mark.usefixtures("fake_device")
def test_plans_are_for_one_model_and_must_be_consistent(hw: Command, place: Path):
    assert hw(*PLAN).code == 0
    ran = hw("prune", "tests.small:Other", "-i", "1x1x8x8", "-p", "plan.json")
    assert_refused(ran, 1, "another model ('Small')", "no group 'stem.0'")
    plan = json.loads((place / "plan.json").read_text())
    for edit, needle in (
        ({"kept": "0-3,900"}, "900"),
        ({"width": 1}, "width is 1"),
        ({"kapt": "0-3"}, "unknown field 'groups.0.kapt'"),
    ):
        edited = json.loads(json.dumps(plan))
        edited["payload"]["groups"][0].update(edit)
        (place / "plan.json").write_text(json.dumps(edited))
        before = tree(place)
        assert_refused(hw("prune", *SMALL, "-p", "plan.json"), 1, "plan.json", needle)
        assert tree(place) == before
    (place / "plan.json").write_text(json.dumps(plan)[:-20])
    assert_refused(hw("prune", *SMALL, "-p", "plan.json"), 1, "plan.json is not valid JSON")
    (place / "plan.json").write_text(json.dumps(plan | {"version": 99}))
    assert_refused(hw("prune", *SMALL, "-p", "plan.json"), 1, "version 99")


def here() -> dict[str, object]:
    """What a table says that was measured on this machine by this version."""
    return {"pipeline": pipeline_hash(load_target("host")), "device": describe_device().to_dict()}


@pytest.fixture
def foreign_table(place: Path) -> Path:
    """A table where this machine's table for the network would be looked for."""
    captured, deps = analyse_model(Small(), torch.zeros(SHAPE))
    bench = Workbench.open(captured, deps, load_target("host"), profile=QUICK, tables=place / "tables")
    with TableWriter(bench.directory, MANIFEST.model_copy(update=here())) as writer:
        for spec in bench.model.specs():
            writer.append(row(spec, 1000.0))
        writer.compact()
    return bench.directory


@pytest.mark.parametrize("verb", ["plan", "profile"])
@pytest.mark.parametrize(
    ("damage", "needles"),
    [
        ("pipeline", ("measured through pipeline feedfeedfeed", "hwprune profile")),
        ("device", ("measured on pocket-calculator", "hwprune profile")),
        ("csv", ("table.csv is not the file", "truncated or edited")),
        ("manifest", ("manifest.json is not valid JSON", "restore")),
        ("edited", ("manifest.json", "edited or damaged")),
    ],
)
def test_tables_that_do_not_fit(
    verb: str, damage: str, needles: tuple[str, ...], hw: Command, place: Path, foreign_table: Path
):
    manifest, csv = foreign_table / "manifest.json", foreign_table / "table.csv"
    if damage in ("pipeline", "device"):
        change = (
            {"pipeline": "feedfeedfeed"}
            if damage == "pipeline"
            else {"device": {"slug": "pocket-calculator"}}
        )
        for path in foreign_table.iterdir():
            path.unlink()
        TableWriter(foreign_table, MANIFEST.model_copy(update={**here(), **change})).close()
    elif damage == "csv":
        csv.write_text(csv.read_text()[:-30])
    elif damage == "manifest":
        manifest.write_text(manifest.read_text()[:100])
    else:
        manifest.write_text(manifest.read_text().replace('"fake"', '"real"'))
    before = {k: v for k, v in tree(place).items() if not k.endswith(".lock")}
    assert_refused(hw(verb, *SMALL, "--tables", str(place / "tables")), 1, *needles)
    assert {k: v for k, v in tree(place).items() if not k.endswith(".lock")} == before


def test_a_table_that_is_being_written(hw: Command, place: Path, foreign_table: Path):
    manifest = MANIFEST.model_copy(update=here())
    with TableWriter(foreign_table, manifest):
        assert_refused(
            hw("profile", *SMALL, "--tables", str(place / "tables")), 1, "is being written by process", "wait"
        )
