"""Layers that pruning has left with fewer channels than their architecture gives them."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from geniex.errors import InputError

Widths = dict[str, list[int]]
"""Widths by layer name: [outputs, inputs] of a convolution or a linear layer, [channels] of a batch norm."""

_NORM = nn.modules.batchnorm._BatchNorm
_CONV = nn.modules.conv._ConvNd


def layer_widths(network: nn.Module) -> Widths:
    """The widths of all convolutions, linear layers and batch norms of ``network``."""
    found: Widths = {}
    for name, module in network.named_modules():
        if isinstance(module, _CONV):
            found[name] = [module.out_channels, module.in_channels]
        elif isinstance(module, nn.Linear):
            found[name] = [module.out_features, module.in_features]
        elif isinstance(module, _NORM):
            found[name] = [module.num_features]
    return found


def set_widths(network: nn.Module, widths: Mapping[str, object]) -> None:
    """Give layers of ``network`` other ``widths``, in place; their parameters are then arbitrary, to be loaded.

    Raises:
        InputError: there is no such layer, the widths do not fit its kind, or a grouped convolution would get
            different numbers of inputs and outputs.
    """
    known = layer_widths(network)
    for name, given in widths.items():
        if name not in known:
            raise InputError(f"widths[{name!r}]", given, f"the layers are {', '.join(map(repr, known))}")
        sizes = list(given) if isinstance(given, list | tuple) else []
        if len(sizes) != len(known[name]) or not all(type(n) is int and n > 0 for n in sizes):
            raise InputError(
                f"widths[{name!r}]",
                given,
                f"it must be a list of {len(known[name])} positive whole numbers, such as {known[name]}",
            )
        module = network.get_submodule(name)
        if isinstance(module, _CONV) and module.groups > 1 and sizes != known[name] and sizes[0] != sizes[1]:
            raise InputError(f"widths[{name!r}]", given, "a grouped convolution must have as many inputs as outputs")
        if sizes != known[name]:
            select_channels(module, *(torch.zeros(size, dtype=torch.int64) for size in sizes))


@torch.no_grad()
def select_channels(module: nn.Module, outputs: Tensor | None = None, inputs: Tensor | None = None) -> None:
    """Keep only these ``outputs`` and ``inputs`` of a layer (int64 indices, in this order), in place; None keeps all.

    The outputs of a batch norm are its channels. A depthwise convolution (one input channel per group) keeps the groups
    of its outputs, and ``inputs`` are ignored; other grouped convolutions raise ``InputError``.
    """
    if isinstance(module, _NORM):
        _select_norm(module, outputs)
        return
    weight = module.weight
    assert isinstance(weight, Tensor)
    trained = weight.requires_grad
    if isinstance(module, _CONV) and module.groups > 1:
        if not module.groups == module.in_channels == module.out_channels:
            raise InputError(
                "module", f"{module.groups} groups", "a convolution must have one group, or one for each channel"
            )
        if outputs is not None:
            module.groups = module.in_channels = module.out_channels = len(outputs)
        inputs = None
    first, second = (1, 0) if isinstance(module, nn.modules.conv._ConvTransposeNd) and module.groups == 1 else (0, 1)
    if outputs is not None:
        weight = weight.index_select(first, outputs.to(weight.device))
        if isinstance(module.bias, Tensor):
            module.bias = nn.Parameter(module.bias.index_select(0, outputs.to(weight.device)))
    if inputs is not None:
        weight = weight.index_select(second, inputs.to(weight.device))
    module.weight = nn.Parameter(weight.clone(), requires_grad=trained)
    names = ("out_features", "in_features") if isinstance(module, nn.Linear) else ("out_channels", "in_channels")
    for name, chosen in zip(names, (outputs, inputs), strict=True):
        if chosen is not None:
            setattr(module, name, len(chosen))


def _select_norm(norm: nn.modules.batchnorm._BatchNorm, channels: Tensor | None) -> None:
    if channels is None:
        return
    norm.num_features = len(channels)
    for name in ("weight", "bias"):
        parameter = getattr(norm, name)
        if parameter is not None:
            setattr(norm, name, nn.Parameter(parameter.index_select(0, channels.to(parameter.device))))
    for name in ("running_mean", "running_var"):
        buffer = getattr(norm, name)
        if buffer is not None:
            setattr(norm, name, buffer.index_select(0, channels.to(buffer.device)))
