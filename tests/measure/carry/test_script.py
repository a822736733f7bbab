"""The script that travels is made of hwprune's own definitions and needs nothing but Python 3.8."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

import pytest

from hwprune.errors import CompileError
from hwprune.measure.carry.pack import device_script
from hwprune.measure.carry.script import join_script

#: Builtin names and methods that came after Python 3.8 and are easily used by mistake.
LATER = (
    "removeprefix",
    "removesuffix",
    "bit_count",
    "file_digest",
    "pairwise",
    "import UTC",
    "aiter",
    "strict=",
)


@pytest.fixture(scope="module")
def script() -> str:
    return device_script()


def test_script_is_python_3_8(script: str):
    tree = ast.parse(script, feature_version=(3, 8))
    imported = {alias.name for node in tree.body if isinstance(node, ast.Import) for alias in node.names}
    imported |= {node.module or "" for node in tree.body if isinstance(node, ast.ImportFrom)}
    assert {name.partition(".")[0] for name in imported} <= sys.stdlib_module_names
    assert not [word for word in LATER if word in script]


def test_script_defines_every_name_once_and_measures_with_our_own_functions(script: str):
    tree = ast.parse(script)
    names = [node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.ClassDef)]
    assert len(names) == len(set(names))
    assert {"sample", "calibrate", "warm_up", "Stopping", "describe_device", "Watch"} <= set(names)
    assert script == device_script(), "a bundle packed twice must be the same"


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A place for modules that look like hwprune's own."""
    import hwprune

    monkeypatch.setattr(hwprune, "__path__", [*hwprune.__path__, str(tmp_path)])
    return tmp_path


def test_only_what_is_used_is_taken_and_private_names_step_aside(package: Path):
    (package / "one.py").write_text(
        "from hwprune.two import double\n_factor = 3\n\ndef start():\n    return double(_factor)\n"
        "\ndef unused():\n    import numpy\n    return numpy\n"
    )
    (package / "two.py").write_text("_factor = 2\n\ndef double(x):\n    return x * _factor\n")
    text = join_script("hwprune.one", "start", "Test.", {})
    space: dict[str, object] = {"__name__": "device"}
    exec(compile(text, "run.py", "exec"), space)
    assert space["start"]() == 6  # type: ignore[operator]
    assert "unused" not in text


def test_replaced_definitions_are_found_under_their_old_name(package: Path):
    (package / "one.py").write_text("from hwprune.two import heavy\n\ndef start():\n    return heavy()\n")
    (package / "two.py").write_text("import numpy\n\ndef heavy():\n    return numpy.pi\n")
    (package / "three.py").write_text("def light():\n    return 3\n")
    with pytest.raises(CompileError, match=r"hwprune\.two needs numpy"):
        join_script("hwprune.one", "start", "Test.", {})
    text = join_script(
        "hwprune.one", "start", "Test.", {("hwprune.two", "heavy"): ("hwprune.three", "light")}
    )
    space: dict[str, object] = {"__name__": "device"}
    exec(compile(text, "run.py", "exec"), space)
    assert space["start"]() == 3  # type: ignore[operator]


def test_two_public_definitions_of_one_name_are_refused(package: Path):
    (package / "one.py").write_text(
        "from hwprune.two import double\n\ndef twin():\n    return 1\n"
        "\ndef start():\n    return double() + twin()\n"
    )
    (package / "two.py").write_text("def twin():\n    return 2\n\ndef double():\n    return 2 * twin()\n")
    with pytest.raises(CompileError, match=r"'twin' is defined by hwprune\.\w+ and by hwprune\.\w+"):
        join_script("hwprune.one", "start", "Test.", {})
