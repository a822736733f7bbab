"""``prune_model``: the user's class where its code allows, else the graph."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import nn

from hwprune.capture.captured import Captured
from hwprune.dependency.groups import Dependencies
from hwprune.errors import SurgeryError
from hwprune.surgery.apply import cut_graph
from hwprune.surgery.lively import lively
from hwprune.surgery.module import cut_module
from hwprune.surgery.training import untrainable
from hwprune.surgery.verify import cut_error, verify


def prune_model(
    captured: Captured,
    deps: Dependencies,
    keep: Mapping[str, Sequence[int]],
    *,
    tolerance: float = 1e-4,
) -> tuple[nn.Module, str | None]:
    """Cut a model and verify it against the masked original.

    Where layers are silent (a head that is zero, a layer scale of 1e-6) the same cut of a stand-in
    with live weights is verified too, since no error could show otherwise.

    Parameters
    ----------
    captured, deps
        The model and its groups; the model is not changed.
    keep
        Group to its kept units, sorted; groups that are not named stay whole.
    tolerance
        Largest accepted error, relative to the output's scale.

    Returns
    -------
    model, reason
        A copy of the user's module with smaller parameters and None; or, when the module's own
        Python code fixes widths, the graph form and the reason for the ledger. Either has the
        training mode of the user's module.

    Raises
    ------
    PlanError
        ``keep`` does not fit the groups.
    VerificationError
        Not even the graph form equals the masked original.
    """
    stand_in = lively(captured)
    try:
        model = cut_module(captured.model, deps, keep)
        error = cut_error(captured, deps, keep, model, tolerance)
        if error <= tolerance and stand_in is not None:
            smaller = cut_module(stand_in.model, deps, keep)
            error = cut_error(stand_in, deps, keep, smaller, tolerance)
        if error <= tolerance:
            reason = untrainable(captured, model)
            if reason is None:
                return model, None
        else:
            reason = f"the class, cut, differs from the masked original by {error:.2e} of the output's scale"
    except SurgeryError as failure:
        reason = failure.message
    graph = cut_graph(captured, deps, keep)
    verify(captured, deps, keep, graph, tolerance=tolerance)
    if stand_in is not None:
        verify(stand_in, deps, keep, cut_graph(stand_in, deps, keep), tolerance=tolerance)
    graph.train(captured.model.training)
    return graph, f"the class {type(captured.model).__name__} is not kept, its graph form is: {reason}"
