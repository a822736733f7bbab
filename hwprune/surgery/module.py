"""``cut_module``: the user's own class with smaller parameters."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import nn
from torch.nn.modules.batchnorm import _NormBase  # pyright: ignore[reportPrivateUsage] - base of all BatchNorms
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd  # pyright: ignore[reportPrivateUsage]

from hwprune.capture.parametrized import plain_copy
from hwprune.capture.tensors import named_tensors, of_same_kind, shapes_of
from hwprune.dependency.groups import Dependencies
from hwprune.errors import SurgeryError
from hwprune.surgery.selection import Cuts, cut_tensor, select


def cut_module(model: nn.Module, deps: Dependencies, keep: Mapping[str, Sequence[int]]) -> nn.Module:
    """Deep-copy a module and slice its parameters by name.

    Attributes that state widths (``out_channels``, ``in_channels``, ``groups``, ``num_features``,
    ``in_features``, ``out_features``, ``num_parameters``, the sizes of norms and embeddings) follow.
    Shared parameters stay shared; gradients are dropped; parametrised weights (weight norm) become
    plain ones; training flags are those of ``model``. Python code with widths of its own is not
    seen here: verify the result.

    Raises
    ------
    PlanError
        ``keep`` does not fit the groups.
    SurgeryError
        A tensor that must shrink is not a parameter or buffer of the module.
    """
    twin = plain_copy(model)
    shapes = shapes_of(twin)
    for group in deps.groups:
        for member in group.members:
            if member.param not in shapes and group.name in keep:
                raise SurgeryError(
                    f"constant {member.param!r} of group {group.name!r} lives in the code of "
                    f"{type(model).__name__}, not in its parameters or buffers",
                    hint="register it as a buffer to keep the class",
                )
    return _cut_copy(twin, select(deps, keep, shapes))


def cut_parameters(model: nn.Module, cuts: Cuts) -> nn.Module:
    """The same, from kept indices by parameter name (first name of shared parameters)."""
    return _cut_copy(plain_copy(model), cuts)


def _cut_copy(twin: nn.Module, cuts: Cuts) -> nn.Module:
    originals = named_tensors(twin)  # held, so that no id is used twice
    first: dict[int, str] = {}
    for name, tensor in originals.items():
        first.setdefault(id(tensor), name)
    made: dict[int, torch.Tensor] = {}
    touched: list[nn.Module] = []
    for module in twin.modules():
        for store in (module._parameters, module._buffers):  # pyright: ignore[reportPrivateUsage]
            for key, tensor in list(store.items()):
                if tensor is None:
                    continue
                tensor.grad = None
                dims = cuts.get(first[id(tensor)])
                if dims is None:
                    continue
                if id(tensor) not in made:
                    made[id(tensor)] = of_same_kind(tensor, cut_tensor(tensor, dims))
                store[key] = made[id(tensor)]  # pyright: ignore[reportArgumentType] - same kind as before
                touched.append(module)
    for module in touched:
        _update_attributes(module)
    return twin


def _update_attributes(module: nn.Module) -> None:
    for kind, update in _ATTRIBUTES:
        if isinstance(module, kind):
            update(module)
            return


def _convolution(module: nn.Module) -> None:
    assert isinstance(module, _ConvNd)
    made, read = int(module.weight.shape[0]), int(module.weight.shape[1])
    if 1 < module.groups == module.in_channels:  # depthwise: one group per input channel
        module.groups = made * module.in_channels // module.out_channels
    module.out_channels, module.in_channels = made, read * module.groups


def _transposed(module: nn.Module) -> None:
    assert isinstance(module, _ConvNd)
    if 1 < module.groups == module.in_channels:
        module.groups = int(module.weight.shape[0])
    module.in_channels = int(module.weight.shape[0])
    module.out_channels = int(module.weight.shape[1]) * module.groups


def _linear(module: nn.Module) -> None:
    assert isinstance(module, nn.Linear)
    module.out_features, module.in_features = (int(n) for n in module.weight.shape)


def _norm(module: nn.Module) -> None:
    assert isinstance(module, _NormBase)
    vector = next((v for v in (module.weight, module.running_mean, module.bias) if v is not None), None)
    if vector is not None:
        module.num_features = int(vector.shape[0])


def _group_norm(module: nn.Module) -> None:
    assert isinstance(module, nn.GroupNorm)
    channels = int(module.weight.shape[0])
    if module.num_groups > 1:  # whole groups go
        module.num_groups = module.num_groups * channels // module.num_channels
    module.num_channels = channels


def _layer_norm(module: nn.Module) -> None:
    assert isinstance(module, nn.LayerNorm | nn.RMSNorm)
    module.normalized_shape = tuple(int(n) for n in module.weight.shape)


def _embedding(module: nn.Module) -> None:
    assert isinstance(module, nn.Embedding)
    module.num_embeddings, module.embedding_dim = (int(n) for n in module.weight.shape)


def _prelu(module: nn.Module) -> None:
    assert isinstance(module, nn.PReLU)
    module.num_parameters = int(module.weight.shape[0])


_ATTRIBUTES: tuple[tuple[type[nn.Module], Callable[[nn.Module], None]], ...] = (
    (_ConvTransposeNd, _transposed),
    (_ConvNd, _convolution),
    (nn.Linear, _linear),
    (_NormBase, _norm),
    (nn.PReLU, _prelu),
    (nn.GroupNorm, _group_norm),
    (nn.LayerNorm, _layer_norm),
    (nn.RMSNorm, _layer_norm),
    (nn.Embedding, _embedding),
)
