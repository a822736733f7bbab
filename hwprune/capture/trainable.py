"""A graph module that can be trained: ``train()`` and ``eval()`` reach BatchNorm and dropout."""

from __future__ import annotations

from typing import Any, Self

import torch
from torch import fx, nn

from hwprune.capture.copies import silent_about_trees
from hwprune.errors import UsageError

# Where the training flag sits among the positional arguments of an operator.
_MODE_ARGUMENT = {
    "aten.batch_norm.default": 5,
    "aten.instance_norm.default": 5,
    "aten.dropout.default": 2,
    "aten.feature_dropout.default": 2,
    "aten.alpha_dropout.default": 2,
    "aten.feature_alpha_dropout.default": 2,
}
_EVAL_VALUE = "hwprune_eval_mode"  # node.meta key: the flag's value in eval mode


class TrainableGraph(fx.GraphModule):
    """``fx.GraphModule`` whose ``train()`` and ``eval()`` do what a module's do.

    In an exported graph the mode of BatchNorm and dropout is an argument of the node, frozen at
    export. Here the two methods rewrite those arguments. A BatchNorm that uses batch statistics
    even in eval mode (``track_running_stats=False``) keeps doing so. One with ``momentum=None``
    (average over all batches) takes an exponential average with momentum 0.1 here. Python that runs
    in training mode only (stochastic depth, auxiliary heads) is not part of the graph.

    Sizes in the graph are those of the example inputs: inputs that differ from them in more than
    the batch size are refused.
    """

    def __init__(self, root: nn.Module | dict[str, Any], graph: fx.Graph, class_name: str) -> None:
        super().__init__(root, graph, class_name)
        self.register_forward_pre_hook(_check_sizes)

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        with silent_about_trees():
            twin = super().__deepcopy__(memo)
        # Every graph module is the only one of its class, which copying gives torch's own name.
        type(twin).__name__ = type(self).__name__
        return twin  # pyright: ignore[reportReturnType] - of this class

    def train(self, mode: bool = True) -> Self:
        """Set training mode in every node that has one.

        Parameters
        ----------
        mode
            True for training, False for evaluation.
        """
        super().train(mode)
        changed = False
        for node in self.graph.nodes:
            index = _MODE_ARGUMENT.get(str(node.target)) if node.op == "call_function" else None
            if index is None or len(node.args) <= index:
                continue
            value = mode or bool(node.meta.get(_EVAL_VALUE, False))
            if bool(node.args[index]) != value:
                node.update_arg(index, value)
                changed = True
        if changed:
            self.recompile()
        return self


def remember_eval_mode(graph: fx.Graph) -> None:
    """Note on every node with a training flag what the flag is in eval mode.

    ``graph`` must have been exported in eval mode.
    """
    for node in graph.nodes:
        index = _MODE_ARGUMENT.get(str(node.target)) if node.op == "call_function" else None
        if index is not None and len(node.args) > index:
            node.meta.setdefault(_EVAL_VALUE, bool(node.args[index]))


def _check_sizes(module: nn.Module, inputs: tuple[object, ...]) -> None:
    """A graph would compute with sizes of the example without a word, where torch does not fail."""
    assert isinstance(module, TrainableGraph)
    wanted = [n.meta.get("val") for n in module.graph.nodes if n.op == "placeholder"]
    for position, (value, like) in enumerate(zip(inputs, wanted, strict=False)):
        if not isinstance(value, torch.Tensor) or not isinstance(like, torch.Tensor):
            continue
        if value.dim() != like.dim() or value.shape[1:] != like.shape[1:]:
            sizes = ", ".join(["batch", *map(str, like.shape[1:])])
            raise UsageError(
                f"input {position} has shape {tuple(value.shape)}; this graph was captured for ({sizes})",
                hint="only the batch size may change; capture the model again at the other size",
            )
