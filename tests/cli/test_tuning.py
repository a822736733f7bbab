"""What people read about a tuning run."""

from __future__ import annotations

import pytest

from hwprune.cli.tuning import show_tuning
from hwprune.measure.tune import TunedKernel, TuneReport


def test_every_kernel_is_listed_with_what_came_of_it(capsys: pytest.CaptureFixture[str]):
    won = TunedKernel("conv one", "20 of 200 GFLOP/s", 0.5, trials=24, earlier=12, failed=3, gain=1.25)
    lost = TunedKernel("pool two", "1 of 9 GB/s", 0.1, trials=12)
    left = TunedKernel("add three", "2 of 9 GB/s", 0.1, note="no time was left")
    show_tuning(TuneReport([won, lost, left], 61.0))
    lines = capsys.readouterr().out.splitlines()

    def line(label: str) -> str:
        return next(line for line in lines if label in line)

    for words in ("20 of 200 GFLOP/s", "24 schedules, 12 earlier, 3 failed", "1.25x faster"):
        assert words in line("conv one")
    assert "nothing faster" in line("pool two")
    for words in ("nothing", "no time was left"):
        assert words in line("add three")
    assert (
        lines[-1] == "tuning: 36 schedules of 2 kernels in 61 s: 1 kernels became faster, the most by 1.25x"
    )


def test_no_gain_is_said(capsys: pytest.CaptureFixture[str]):
    show_tuning(TuneReport([TunedKernel("pool two", "1 of 9 GB/s", 0.1, trials=12)], 61.0))
    assert "none was faster than what the kernels have already" in capsys.readouterr().out
    show_tuning(TuneReport([], 1.0))
    assert "no kernel stays behind" in capsys.readouterr().out
