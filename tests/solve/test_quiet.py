"""Native code cannot write into the data on standard output."""

from __future__ import annotations

import ctypes
import logging
import os
import subprocess
import sys
import threading

import pytest

from hwprune.solve.quiet import quiet_stdout


def _native(text: str) -> None:
    ctypes.CDLL(None).puts(text.encode())


def test_native_output_goes_to_the_log(
    capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "hwprune")
    os.write(1, b"before\n")
    with quiet_stdout():
        _native("noise")
        with quiet_stdout():
            _native("inner")
    os.write(1, b"after\n")
    assert capfd.readouterr() == ("before\nafter\n", "")
    assert "noise" in caplog.text and "inner" in caplog.text


def test_output_returns_after_an_error(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(KeyboardInterrupt), quiet_stdout():
        raise KeyboardInterrupt
    os.write(1, b"here")
    assert capfd.readouterr().out == "here"


def test_overlapping_threads_restore_the_output(capfd: pytest.CaptureFixture[str]) -> None:
    inside, leave = threading.Event(), threading.Event()

    def hold() -> None:
        with quiet_stdout():
            inside.set()
            leave.wait(10)

    thread = threading.Thread(target=hold)
    thread.start()
    inside.wait(10)
    with quiet_stdout():
        leave.set()
        thread.join()
        os.write(1, b"hidden")
    os.write(1, b"seen")
    assert capfd.readouterr().out == "seen"


@pytest.mark.parametrize("closed", ["", "import os; os.close(1)"])
def test_buffered_text_keeps_its_side_even_in_a_pipe(closed: str) -> None:
    # Into a pipe, C and Python buffer whole blocks, which the switch must not misplace.
    script = f"""
import ctypes
from hwprune.solve.quiet import quiet_stdout
{closed}
puts = ctypes.CDLL(None).puts
puts(b"one")
with quiet_stdout():
    puts(b"noise")
puts(b"two")
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.stderr == "" and done.returncode == 0
    assert done.stdout == ("" if closed else "one\ntwo\n")
