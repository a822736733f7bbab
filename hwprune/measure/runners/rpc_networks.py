"""Times whole networks on a remote device, interleaved."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

from hwprune.errors import DeviceLostError
from hwprune.measure.network import LOADS, one_load, runs_per_sample, summarise_loads, take_turns
from hwprune.measure.runners.rpc import Ask, RpcRunner
from hwprune.measure.stats import Summary
from hwprune.measure.stopping import MeasureProfile

#: Sending and loading a network may take this long, beside the time limit of a measurement.
LOAD_S = 120.0

_log = logging.getLogger(__name__)


def time_networks(
    libraries: Mapping[str, Path], runners: Sequence[RpcRunner], profile: MeasureProfile, seed: int = 0
) -> dict[str, Summary]:
    """Time networks in turn on one device: the first that stays until the end.

    All of them are loaded in one session, as a server has one session at a time.

    Raises
    ------
    MeasureError
        A network hung, or could not be loaded.
    DeviceLostError
        No device stayed, or a network crashed.
    """
    lost: list[DeviceLostError] = []
    for runner in runners:
        try:
            return _on_one(libraries, runner, profile, seed)
        except DeviceLostError as error:
            _log.warning("%s while networks were timed", error.message)
            lost.append(error)
    raise DeviceLostError(
        f"networks could not be timed: {lost[-1].message}",
        hint="start the devices' servers and run the same command again; kernels that were measured are kept",
    )


def _on_one(
    libraries: Mapping[str, Path], runner: RpcRunner, profile: MeasureProfile, seed: int
) -> dict[str, Summary]:
    limit = profile.job_timeout_s + LOAD_S
    profile = one_load(profile)
    numbers: dict[str, int] = {}
    expected_s = 0.0
    for name, path in libraries.items():
        # Alone first: a network that hangs ends with the short session, not with the long one.
        with runner.session("RemoteNetworks", limit, paths=[str(path)]) as ask:
            first = [float(ns) for ns in ask("turn", index=0, number=1, repeat=3)["samples_ns"]]
        numbers[name] = runs_per_sample(first, profile)
        runs = profile.rounds * (profile.samples_per_round + 1) * numbers[name]
        expected_s += runs * min(first) * 1e-9
    names = list(libraries)
    paths = [str(path) for path in libraries.values()]
    parts: list[dict[str, list[float]]] = []
    for load in range(LOADS):
        with runner.session("RemoteNetworks", 3 * expected_s + limit, paths=paths) as ask:

            def time(name: str, number: int, repeat: int, ask: Ask = ask) -> list[float]:
                answer = ask("turn", index=names.index(name), number=number, repeat=repeat)
                return [float(ns) for ns in answer["samples_ns"]]

            parts.append(take_turns(numbers, time, profile, seed + load))
    return summarise_loads(parts, seed)
