"""A compiled program that is loaded on a remote device, with its arguments."""

from __future__ import annotations

import json
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file

from hwprune.compile.bundle import load_bundle
from hwprune.compile.remote import CPU, RemoteSession
from hwprune.compile.vm_runtime import ffi
from hwprune.errors import ArtifactError


class RemoteProgram:
    """A library whose ``main`` has been called once.

    Parameters
    ----------
    session
        With the device.
    library
        The shared object.
    arguments
        Tensors on the device: inputs, then weights. The virtual machine copies each of them, so they
        may share memory.
    threads
        Threads of the library.
    copies
        Kernel calls in one run.
    """

    def __init__(
        self,
        session: RemoteSession,
        library: Path,
        arguments: Sequence[Any],
        threads: int = 1,
        copies: int = 1,
    ) -> None:
        self._session, self.copies = session, copies
        if threads > 1:
            session.use_threads(threads)
        module = session.load(library)
        with session.talking("preparing a run"):
            self._machine: Any = module["vm_load_executable"]()
            self._machine["vm_initialization"](CPU, 0, 2, 1, 0, 2)
            self._machine["set_input"]("main", *arguments)
        with session.talking("running"):
            self._machine["invoke_stateful"]("main")

    def time(self, number: int, repeat: int) -> list[float]:
        """``repeat`` samples, each the mean over ``number`` runs: seconds per single kernel call.

        The device's clock counts, around the runs alone.
        """
        least_ms, zeros, pause_ms, until_pause, flush_bytes, before = 0, 100, 0, 1, 0, ""
        with self._session.talking("timing"):
            evaluator = ffi().get_global_func("runtime.RPCTimeEvaluator")(
                self._machine,
                "invoke_stateful",
                self._session.device_type,
                0,
                number,
                repeat,
                least_ms,
                zeros,
                pause_ms,
                until_pause,
                flush_bytes,
                before,
            )
            blob = bytes(evaluator("main"))
        return [seconds / self.copies for seconds in struct.unpack(f"<{repeat}d", blob)]

    def outputs(self) -> list[np.ndarray]:
        """Results of the last run, physical layout."""
        with self._session.talking("reading results"):
            count = int(self._machine["get_output_arity"]("main"))
            tensors = [self._machine["get_output"]("main", i) for i in range(count)]
        return [self._session.array(tensor) for tensor in tensors]


def open_library(session: RemoteSession, path: Path) -> RemoteProgram:
    """A library of :mod:`hwprune.compile.kernel_library` or ``program_library``.

    Its arguments hold the numbers that :class:`hwprune.compile.kernel_runner.KernelRunner` fills them
    with.

    Raises
    ------
    ArtifactError
        The sidecar is missing or malformed.
    """
    sidecar = path.with_suffix(".json")
    try:
        info: dict[str, Any] = json.loads(sidecar.read_text())
        shapes = [tuple(s) for s in [*info["inputs"], *info["weights"]]]
        copies, threads = int(info["copies"]), int(info["threads"])
    except (OSError, ValueError, KeyError) as error:
        raise ArtifactError(f"{sidecar} is missing or malformed: {error}") from error
    block = (0.05 * np.random.default_rng(0).standard_normal(4096)).astype(np.float32)
    longest = max((int(np.prod(s, dtype=np.int64)) for s in shapes), default=1)
    with session.talking("sending numbers"):
        numbers = session.repeated(block, longest)
        arguments = [session.view(numbers, shape) for shape in shapes]
    return RemoteProgram(session, path, arguments, threads, copies)


def open_bundle(session: RemoteSession, directory: Path, inputs: Sequence[np.ndarray]) -> RemoteProgram:
    """A bundle of :mod:`hwprune.compile.bundle` with its own weights.

    Parameters
    ----------
    inputs
        float32 arrays of the manifest's shapes.

    Raises
    ------
    ArtifactError
        The bundle is damaged.
    """
    bundle = load_bundle(directory)
    weights = load_file(directory / "weights.safetensors")
    with session.talking("sending weights"):
        arguments = [session.tensor(a) for a in [*inputs, *(weights[name] for name in sorted(weights))]]
    return RemoteProgram(session, directory / "model.so", arguments, bundle.manifest.target.threads)
