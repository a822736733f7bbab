"""Computed weights of the module's own (weight norm, spectral norm, ...) become plain weights.

A norm over input channels changes when channels go, so a cut of what the weight is computed from
is not a cut of the weight. In a copy of the model the weight is computed once and stored; that copy
is what is exported and cut. It computes the same; in training it learns the weight itself.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.utils import parametrize, remove_spectral_norm, remove_weight_norm
from torch.nn.utils.spectral_norm import SpectralNorm, SpectralNormLoadStateDictPreHook
from torch.nn.utils.weight_norm import WeightNorm

from hwprune.capture.copies import quiet_copy


def plain_copy(model: nn.Module) -> nn.Module:
    """Deep copy of a module with its parametrisations computed.

    Parameters
    ----------
    model
        Any module; it is not changed. Training flags of the copy are the same.

    Returns
    -------
    nn.Module
        Modules of their own classes again, with weights under their plain names
        (``conv.weight``). Weights that were computed from one shared tensor are no longer shared.
        Tensors among a module's attributes that still hang on an autograd graph are detached.
    """
    twin = deep_copy(model)
    for module in twin.modules():
        flags = [(child, child.training) for child in module.modules()]
        if parametrize.is_parametrized(module):
            module.eval()  # spectral norm iterates in training mode
            _store_plainly(module)
        for hook in list(module._forward_pre_hooks.values()):  # pyright: ignore[reportPrivateUsage] - how torch finds them
            if isinstance(hook, WeightNorm):
                remove_weight_norm(module, hook.name)
            elif isinstance(hook, SpectralNorm):
                remove_spectral_norm(module, hook.name)
                _forget_loading(module)
        for child, flag in flags:
            child.training = flag
    return twin


def deep_copy(model: nn.Module) -> nn.Module:
    """Deep copy, also of what ``deepcopy`` refuses (the weight that old weight norm keeps)."""
    detached = {
        id(value): value.detach().clone()
        for module in model.modules()
        for value in vars(module).values()
        if isinstance(value, torch.Tensor) and value.grad_fn is not None
    }
    return quiet_copy(model, detached)


def _forget_loading(module: nn.Module) -> None:
    """Torch leaves behind what expects ``weight_orig`` when a state is loaded."""
    hooks = module._load_state_dict_pre_hooks  # pyright: ignore[reportPrivateUsage]
    for key, hook in list(hooks.items()):
        if isinstance(getattr(hook, "hook", hook), SpectralNormLoadStateDictPreHook):
            del hooks[key]


def _store_plainly(module: nn.Module) -> None:
    """Undo parametrisations of one module.

    Torch's own removal also edits the class that it made for the module, which copies share with
    the original.
    """
    parametrizations = module._modules["parametrizations"]  # pyright: ignore[reportPrivateUsage]
    assert isinstance(parametrizations, nn.ModuleDict)
    values = {name: getattr(module, name).detach().clone() for name in parametrizations}
    trained = {name: list(parametrizations[name].parameters(recurse=False)) for name in parametrizations}
    module.__class__ = type(module).__bases__[0]
    del module._modules["parametrizations"]  # pyright: ignore[reportPrivateUsage]
    for name, value in values.items():
        if trained[name]:
            learns = any(original.requires_grad for original in trained[name])
            module.register_parameter(name, nn.Parameter(value, requires_grad=learns))
        else:
            module.register_buffer(name, value)
