"""Sessions of ONNX Runtime's CPU provider: one set of options for whatever is timed or shipped."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from hwprune.errors import CompileError, MissingExtraError

#: Session settings that are part of the pipeline hash.
#:
#: Spinning threads would slow down whoever runs next in an interleaved comparison; kernels and
#: networks are timed without it, so that tables and benchmarks agree.
CONFIG = {"session.intra_op.allow_spinning": "0"}
PROVIDERS = ["CPUExecutionProvider"]


def make_session(
    model: bytes | Path | str,
    threads: int,
    *,
    weights: Mapping[str, np.ndarray] | None = None,
    optimise: bool = True,
    save: Path | None = None,
) -> Any:
    """An ``onnxruntime.InferenceSession``.

    Parameters
    ----------
    model
        A file, or what one would hold.
    threads
        Intra-op threads; there is one inter-op thread.
    weights
        Values of weights of which the model has names and shapes only.
    optimise
        Rewrite the graph for this machine; False for a graph that was rewritten before.
    save
        Also write the rewritten graph here.

    Raises
    ------
    MissingExtraError
        onnxruntime is not installed.
    CompileError
        ONNX Runtime refuses the model.
    """
    try:
        import onnxruntime
    except ImportError as error:
        raise MissingExtraError(
            f"onnxruntime cannot be imported: {error}", hint="pip install 'hwprune[onnx]'"
        ) from error
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    for key, value in CONFIG.items():
        options.add_session_config_entry(key, value)
    levels = onnxruntime.GraphOptimizationLevel
    options.graph_optimization_level = levels.ORT_ENABLE_ALL if optimise else levels.ORT_DISABLE_ALL
    if save is not None:
        options.optimized_model_filepath = str(save)
    if weights:
        values = [onnxruntime.OrtValue.ortvalue_from_numpy(array) for array in weights.values()]
        options.add_external_initializers(list(weights), values)
    given = model if isinstance(model, bytes) else str(model)
    try:
        return onnxruntime.InferenceSession(given, options, providers=PROVIDERS)
    except Exception as error:  # its exceptions have no common base but this
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise CompileError(
            f"ONNX Runtime {onnxruntime.__version__} cannot load the model: {reason[:300]}",
            hint="hwprune writes models for ONNX Runtime 1.22 and later",
        ) from error


def random_array(shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    """Small normal random numbers, a block of them over and over: quick to fill, and touched."""
    block = (0.05 * np.random.default_rng(seed).standard_normal(4096)).astype(np.float32)
    return np.resize(block, shape)


def run_session(session: Any, inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Outputs of a session for inputs in its order."""
    names = [entry.name for entry in session.get_inputs()]
    return [np.asarray(value) for value in session.run(None, dict(zip(names, inputs, strict=True)))]
