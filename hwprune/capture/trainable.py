"""A graph module that can be trained: ``train()`` and ``eval()`` reach BatchNorm and dropout."""

from __future__ import annotations

from typing import Self

from torch import fx

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
    (average over all batches) takes an exponential average with momentum 0.1 here.
    """

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
