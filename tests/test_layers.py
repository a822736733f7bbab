"""The one-way order of the stages, and what importing the package costs."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import hwprune

ROOT = Path(__file__).resolve().parent.parent


def imported(statement: str, *modules: str) -> list[str]:
    """Which of ``modules`` are loaded in a fresh interpreter after ``statement``."""
    code = f"import sys; {statement}; print(*[m for m in {modules!r} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def test_data_flows_one_way():
    done = subprocess.run(
        [sys.executable, "-c", "from importlinter.cli import lint_imports_command as c; c()", "--no-cache"],
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=120,
        env={"PYTHONPATH": str(ROOT), "PATH": ""},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "0 broken" in done.stdout


def test_importing_the_package_is_cheap():
    assert imported("import hwprune; hwprune.__version__; dir(hwprune)", "torch", "tvm", "numpy") == []
    assert imported("import hwprune; hwprune.load_target('host')", "torch", "tvm") == []
    # What `hwprune --help` and `hwprune targets` need.
    assert imported("import hwprune.cli", "torch", "tvm", "scipy") == []


def test_the_api_does_not_load_tvm():
    assert imported("import hwprune.api, hwprune.fxpass, hwprune.cli", "torch", "tvm", "tvm_ffi") == ["torch"]


@pytest.mark.parametrize("name", hwprune.__all__)
def test_public_names_resolve(name: str):
    found = getattr(hwprune, name)
    assert found.__doc__
    assert found.__module__.startswith("hwprune.")
    assert name in dir(hwprune)


def test_unknown_names_are_attribute_errors():
    with pytest.raises(AttributeError, match="no attribute 'prunes'"):
        _ = hwprune.prunes


def test_compile_is_the_function_whatever_was_imported_first():
    # Each order in a process of its own, forked where other packages are loaded already.
    code = """
import importlib, os, pydantic, scipy.interpolate, scipy.linalg, scipy.optimize, torch.export

def imported(first):
    importlib.import_module(first)
    import hwprune
    import hwprune.api
    from hwprune.compile import pipeline_hash
    from hwprune import compile
    assert compile is hwprune.compile is hwprune.api.compile, first
    assert callable(pipeline_hash), first

for first in ("hwprune.api", "hwprune.compile", "hwprune.compile.pipeline"):
    child = os.fork()
    if not child:
        try:
            imported(first)
        except BaseException as error:
            os.write(2, repr(error).encode())
            os._exit(1)
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0, first
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, timeout=120)
    assert done.returncode == 0, done.stderr
