"""Runs and compares whole bundles, with their own weights, on a remote device."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from hwprune.measure.compare import Comparison, Ratio, Standing, max_relative_error
from hwprune.measure.contenders import load_arrays, save_arrays
from hwprune.measure.network import runs_per_sample, take_turns
from hwprune.measure.runners.rpc import Ask, RpcRunner
from hwprune.measure.runners.rpc_networks import LOAD_S
from hwprune.measure.stats import ratio_interval, summarise
from hwprune.measure.stopping import MeasureProfile

#: Weights travel at least this fast.
BYTES_PER_S = 1e6
#: A session may last as long as if every sample took this long.
SLOW_SAMPLE_S = 10.0


def run_bundle(
    directory: Path, inputs: Sequence[np.ndarray], runner: RpcRunner, timeout_s: float = LOAD_S
) -> list[np.ndarray]:
    """Outputs of a bundle on the device.

    Raises
    ------
    MeasureError
        It could not be loaded or run there.
    """
    with _loaded([directory], inputs, runner, timeout_s) as (ask, folder):
        return _outputs(ask, 0, folder)


def compare_bundles(
    bundles: Mapping[str, Path],
    inputs: Sequence[np.ndarray],
    runner: RpcRunner,
    *,
    profile: MeasureProfile,
    threads: int,
    expected: Mapping[str, Sequence[np.ndarray]] | None = None,
    seed: int = 0,
    progress: Callable[[int, int, str], None] | None = None,
) -> Comparison:
    """Time bundles in turn on one device; ratios refer to the first.

    Parameters
    ----------
    bundles
        Directories by name.
    inputs
        Arrays that all of them get.
    expected
        What bundles should return, by name; outputs of the others are compared with the first one's.

    Raises
    ------
    MeasureError
        One of them could not be loaded or run there.
    """
    names = list(bundles)
    turns = profile.rounds * (profile.samples_per_round + 1) * len(names)
    limit = LOAD_S + turns * max(SLOW_SAMPLE_S, profile.sample_s)
    with _loaded(list(bundles.values()), inputs, runner, limit) as (ask, folder):

        def time(name: str, number: int, repeat: int) -> list[float]:
            answer = ask("turn", index=names.index(name), number=number, repeat=repeat)
            return [float(ns) for ns in answer["samples_ns"]]

        outputs = {name: _outputs(ask, index, folder) for index, name in enumerate(names)}
        numbers = {name: runs_per_sample(time(name, 1, 3), profile) for name in names}
        samples = take_turns(numbers, time, profile, seed, progress)
    first = names[0]
    standings: list[Standing] = []
    for name in names:
        ratio = Ratio(*ratio_interval(samples[name], samples[first], seed=seed))
        reference = (expected or {}).get(name, outputs[first])
        error = max_relative_error(outputs[name], reference)
        summary = summarise(samples[name], seed=seed)
        if name == first:
            ratio = Ratio(1.0, 1.0, 1.0)
        standings.append(Standing(name, summary, tuple(samples[name]), ratio, error))
    return Comparison(first, threads, seed, profile.name, tuple(standings), {})


@contextmanager
def _loaded(
    bundles: Sequence[Path], inputs: Sequence[np.ndarray], runner: RpcRunner, timeout_s: float
) -> Generator[tuple[Ask, Path]]:
    size = sum((path / "weights.safetensors").stat().st_size for path in bundles)
    with tempfile.TemporaryDirectory(prefix="hwprune-remote-") as scratch:
        folder = Path(scratch)
        save_arrays(folder / "inputs.npz", list(inputs))
        made = {"paths": [str(path) for path in bundles], "inputs": str(folder / "inputs.npz")}
        with runner.session("RemoteBundles", timeout_s + size / BYTES_PER_S, **made) as ask:
            yield ask, folder


def _outputs(ask: Ask, index: int, folder: Path) -> list[np.ndarray]:
    path = folder / f"outputs{index}.npz"
    ask("save_outputs", index=index, path=str(path))
    return load_arrays(path)
