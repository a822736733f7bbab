"""Blocks and channels out of one model, in one cut that is verified as a whole."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from torch import fx, nn

from hwprune.capture.captured import Captured
from hwprune.capture.trainable import TrainableGraph
from hwprune.dependency.blocks import Block
from hwprune.dependency.groups import Dependencies, Refusal
from hwprune.dependency.restrict import restrict
from hwprune.errors import SurgeryError
from hwprune.surgery.apply import cut_graph
from hwprune.surgery.blocks import remove_blocks, without_blocks, zeroed_original
from hwprune.surgery.lively import lively
from hwprune.surgery.masked import masked_original
from hwprune.surgery.prune import prune_model
from hwprune.surgery.verify import verify


@dataclass(frozen=True)
class Cut:
    """A smaller model, why it is not of the user's class (None if it is), and what it was verified with.

    ``error`` is the largest difference from ``reference``, relative to its output's scale; ``ledger``
    names the layers of what is left that could not be pruned.
    """

    model: nn.Module
    reason: str | None
    error: float
    reference: TrainableGraph
    ledger: tuple[Refusal, ...]


def cut(
    captured: Captured, deps: Dependencies, keep: Mapping[str, Sequence[int]], blocks: Sequence[Block] = ()
) -> Cut:
    """Take blocks and channels out of a model, and verify it against the original without them.

    The reference is the original at full size, in which the branches of the blocks are zero and
    the consumers of removed channels are deaf to them.

    Parameters
    ----------
    captured, deps
        The model and its groups; the model is not changed.
    keep
        Group to its kept units, sorted; groups that go with a block are not in it, others that are
        not named stay whole.
    blocks
        Blocks without a ``reason``, from :func:`hwprune.dependency.blocks.find_blocks`.

    Raises
    ------
    PlanError
        ``keep`` does not fit the groups.
    SurgeryError
        A block cannot be removed.
    VerificationError
        Not even the graph form equals the reference.
    """
    if not blocks:
        model, reason = prune_model(captured, deps, keep)
        error = verify(captured, deps, keep, model)
        return Cut(model, reason, error, masked_original(captured, deps, keep), deps.ledger)
    shorter, fewer, reason = shorten(captured, deps, blocks)
    kept = _of(fewer, keep)
    if reason is None:
        model, reason = prune_model(shorter, fewer, kept)
    else:
        model = cut_graph(shorter, fewer, kept)
        verify(shorter, fewer, kept, model)
        stand_in = lively(shorter)
        if stand_in is not None:
            verify(stand_in, fewer, kept, cut_graph(stand_in, fewer, kept))
        model.train(captured.model.training)
    silent = replace(captured, graph=zeroed_original(captured, blocks))
    error = verify(silent, deps, keep, model)
    return Cut(model, reason, error, masked_original(silent, deps, keep), fewer.ledger)


def shorten(
    captured: Captured, deps: Dependencies, blocks: Sequence[Block]
) -> tuple[Captured, Dependencies, str | None]:
    """A model without blocks, with what is left of its analysis.

    Returns
    -------
    captured, deps, reason
        The shorter graph with the user's class in which the blocks are identities, and None; or
        with the graph as the model, and why. Groups that went with a block are not in ``deps``.
    """
    model, reason, _ = remove_blocks(captured, blocks)
    graph, fewer = shorter_graph(captured, deps, blocks)
    return Captured(graph, model, captured.example_inputs), fewer, reason


def cut_to_graph(
    captured: Captured, deps: Dependencies, keep: Mapping[str, Sequence[int]], blocks: Sequence[Block]
) -> fx.GraphModule:
    """The graph form of :func:`cut`, not verified.

    Raises
    ------
    PlanError
        ``keep`` does not fit the groups.
    SurgeryError
        A block cannot be removed.
    """
    for block in blocks:
        if block.reason is not None:
            raise SurgeryError(f"block {block.name!r} cannot be removed: {block.reason}")
    if not blocks:
        return cut_graph(captured, deps, keep)
    graph, fewer = shorter_graph(captured, deps, blocks)
    return cut_graph(replace(captured, graph=graph), fewer, _of(fewer, keep))


def shorter_graph(
    captured: Captured, deps: Dependencies, blocks: Sequence[Block]
) -> tuple[TrainableGraph, Dependencies]:
    """The graph without blocks, under the same names, and what is left of its analysis."""
    graph = without_blocks(captured, blocks)
    return graph, restrict(deps, captured.graph.graph, graph.graph)


def _of(deps: Dependencies, keep: Mapping[str, Sequence[int]]) -> dict[str, Sequence[int]]:
    """Without what went with the blocks."""
    names = {group.name for group in deps.groups}
    return {name: units for name, units in keep.items() if name in names}
