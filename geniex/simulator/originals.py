"""A copy of the model to be converted that computes the same and whose weights are plain parameters."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.lazy import LazyModuleMixin
from torch.nn.utils import parametrize, prune, remove_spectral_norm, remove_weight_norm
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

from geniex.errors import ConversionError
from geniex.simulator.layers.crossbar import CrossbarLayer
from geniex.simulator.matrix import CrossbarMatrix
from geniex.simulator.replace import find_outside_hooks, remove_wrappers

_DERIVING = (prune.BasePruningMethod, WeightNorm, SpectralNorm)
"""torch's forward pre-hooks that compute a tensor of their module from others."""


def copy_model(model: nn.Module) -> nn.Module:
    """A copy of ``model`` in evaluation mode, without the wrappers of parallel and compiled modules.

    Hooks that belong to none of its modules are shared with the original, as functions are.

    Raises:
        ConversionError: the model is converted already, is compiled by ``torch.jit``, has no weights yet, or cannot be
            copied.
    """
    _check(model)
    memo: dict[int, Any] = {id(hook): hook for hook in find_outside_hooks(model)}
    for module in model.modules():
        for value in (*vars(module).values(), *module._buffers.values(), *module._parameters.values()):
            # deepcopy refuses tensors with a graph and tensors that are not strided.
            if isinstance(value, Tensor) and (not value.is_leaf or value.layout != torch.strided):
                new = value.detach().clone()
                memo[id(value)] = nn.Parameter(new, value.requires_grad) if isinstance(value, nn.Parameter) else new
    try:
        with torch.no_grad():  # otherwise the weights of copied scripted modules have a graph
            copied = copy.deepcopy(model, memo)
    except Exception as error:  # the model's attributes may raise anything
        raise ConversionError(f"model: it cannot be copied: {type(error).__name__}: {error}") from error
    return remove_wrappers(copied).eval()


def find_derived_tensors(module: nn.Module) -> dict[str, str]:
    """The names of tensors that torch computes from others, each with the call that makes it a parameter again."""
    found: dict[str, str] = {}
    for hook in module._forward_pre_hooks.values():
        if isinstance(hook, prune.BasePruningMethod):
            found[hook._tensor_name] = f"torch.nn.utils.prune.remove(layer, {hook._tensor_name!r})"
        elif isinstance(hook, WeightNorm):
            found[hook.name] = f"torch.nn.utils.remove_weight_norm(layer, {hook.name!r})"
        elif isinstance(hook, SpectralNorm):
            found[hook.name] = f"torch.nn.utils.remove_spectral_norm(layer, {hook.name!r})"
    for name in module.parametrizations if parametrize.is_parametrized(module) else ():  # type: ignore[union-attr]
        found[name] = f"torch.nn.utils.parametrize.remove_parametrizations(layer, {name!r})"
    return found


@torch.no_grad()
def make_plain(module: nn.Module) -> None:
    """Replace derived tensors by parameters with their values, and drop the tensors that they were computed from."""
    names = find_derived_tensors(module)
    hooks = [hook for hook in module._forward_pre_hooks.values() if isinstance(hook, _DERIVING)]
    for hook in hooks:  # the attribute may be stale, for example after load_state_dict
        hook(module, ())
    values = {name: getattr(module, name).detach().clone() for name in names}
    for hook in reversed(hooks):
        _remove(hook, module)
    if parametrize.is_parametrized(module):
        # remove_parametrizations would change the class, which the original shares.
        kind = parametrize.type_before_parametrizations(module)
        del module._modules["parametrizations"]
        module.__class__ = kind
    for name, value in values.items():
        module._parameters.pop(name, None)
        module.register_parameter(name, nn.Parameter(value, requires_grad=False))


def _remove(hook: Any, module: nn.Module) -> None:
    if isinstance(hook, WeightNorm):
        remove_weight_norm(module, hook.name)
    elif isinstance(hook, SpectralNorm):
        remove_spectral_norm(module, hook.name)
    else:
        # Removing a mask writes into the masked tensor, which another layer may share.
        whole = f"{hook._tensor_name}_orig"
        module._parameters[whole] = nn.Parameter(module._parameters[whole].clone())  # type: ignore[union-attr]
        prune.remove(module, hook._tensor_name)


def find_ties(model: nn.Module) -> Iterator[list[tuple[str, str]]]:
    """The (module, parameter) names of all places of each parameter that is trained in more than one place."""
    places: dict[int, list[tuple[str, str]]] = {}
    for module_name, module in model.named_modules():
        for name, parameter in module._parameters.items():
            if parameter is not None and parameter.requires_grad:
                places.setdefault(id(parameter), []).append((module_name, name))
    return (found for found in places.values() if len(found) > 1)


def _check(model: nn.Module) -> None:
    if not isinstance(model, nn.Module):
        raise ConversionError(f"model: got a {type(model).__name__}; it must be a torch.nn.Module")
    if isinstance(model, torch.jit.ScriptModule):
        what = f"model: a {type(model).__name__} is compiled by torch.jit, and its layers cannot be exchanged"
        raise ConversionError(f"{what}: convert the module that it was made from")
    for name, module in model.named_modules():
        if isinstance(module, (CrossbarLayer, CrossbarMatrix)):
            raise ConversionError(
                f"model: layer {name!r} is on crossbars already: convert the original model; to_digital gives it back"
                " if it was converted with trainable=True; to change the emulator only, use replace_emulator"
            )
        if isinstance(module, LazyModuleMixin) and module.has_uninitialized_params():  # type: ignore[misc]
            kind = type(module).__name__
            raise ConversionError(f"layer {name!r}: a {kind} has no weights yet: run a batch through the model first")
