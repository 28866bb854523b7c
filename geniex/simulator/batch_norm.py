"""Batch norms folded into the convolutions before them: the same function with fewer digital layers."""

from __future__ import annotations

import copy
from collections import Counter
from typing import TypeVar

import torch.fx
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from geniex.simulator.replace import has_hooks

Model = TypeVar("Model", bound=nn.Module)

_NORM_OF: dict[type[nn.Module], type[nn.Module]] = {
    nn.Conv1d: nn.BatchNorm1d,
    nn.Conv2d: nn.BatchNorm2d,
    nn.Conv3d: nn.BatchNorm3d,
    nn.ConvTranspose1d: nn.BatchNorm1d,
    nn.ConvTranspose2d: nn.BatchNorm2d,
    nn.ConvTranspose3d: nn.BatchNorm3d,
}
"""A batch norm after a Linear is not folded: on sequences it normalises positions, and only shapes could tell."""


def fold_batch_norm(model: Model) -> Model:
    """A copy of ``model`` in evaluation mode whose batch norms are part of the convolutions before them.

    The norms become ``nn.Identity``. A norm is folded where tracing (torch.fx) shows that it alone takes the
    convolution's output in the model's whole forward. Where a module cannot be traced, its children are tried.
    """
    folded = copy.deepcopy(model).eval()
    fold_in_place(folded)
    return folded


def fold_in_place(model: nn.Module) -> dict[str, str]:
    """Fold the norms of ``model``, which is in evaluation mode; return each norm's name with its convolution's."""
    folded: dict[str, str] = {}
    for conv_name, norm_name in _pairs(model):
        conv, norm = model.get_submodule(conv_name), model.get_submodule(norm_name)
        transposed = isinstance(conv, nn.modules.conv._ConvTransposeNd)
        # Grouped transposed kernels are (in, out / groups, ...): torch's fusion would scale the wrong axis.
        if transposed and conv.groups != 1:
            continue
        hooks = conv._forward_pre_hooks, conv._forward_pre_hooks_with_kwargs, conv._backward_pre_hooks
        fused = fuse_conv_bn_eval(conv, norm, transposed)  # type: ignore[type-var, arg-type]
        # The original hooks replace the copies that fusing made.
        fused._forward_pre_hooks, fused._forward_pre_hooks_with_kwargs, fused._backward_pre_hooks = hooks
        _put(model, conv_name, fused)
        _put(model, norm_name, nn.Identity().eval())
        folded[norm_name] = conv_name
    return folded


def _pairs(model: nn.Module, prefix: str = "") -> list[tuple[str, str]]:
    """The (convolution, norm) names of pairs that can be folded."""
    shared = Counter(id(m) for _, m in model.named_modules(remove_duplicate=False))
    try:
        graph = torch.fx.Tracer().trace(model)
    except Exception:  # a model may do anything that tracing cannot follow
        return [
            pair
            for name, child in model.named_children()
            if shared[id(child)] == 1
            for pair in _pairs(child, f"{prefix}{name}.")
        ]
    calls = Counter(node.target for node in graph.nodes if node.op == "call_module")
    pairs = []
    for node in graph.nodes:
        if node.op != "call_module" or len(node.all_input_nodes) != 1:
            continue
        before = node.all_input_nodes[0]
        if before.op != "call_module" or len(before.users) != 1:
            continue
        names = (str(before.target), str(node.target))
        modules = [model.get_submodule(name) for name in names]
        once = all(calls[name] == 1 and shared[id(m)] == 1 for name, m in zip(names, modules, strict=True))
        if once and _foldable(*modules):
            pairs.append((prefix + names[0], prefix + names[1]))
    return pairs


def _foldable(conv: nn.Module, norm: nn.Module) -> bool:
    # A hook between the two would see, or change, a tensor that no longer exists.
    return not (has_hooks(conv, before=False) or has_hooks(norm)) and (
        type(norm) is _NORM_OF.get(type(conv))
        and isinstance(norm, nn.modules.batchnorm._BatchNorm)
        and norm.running_mean is not None
        and norm.running_var is not None
    )


def _put(model: nn.Module, name: str, module: nn.Module) -> None:
    around, _, last = name.rpartition(".")
    setattr(model.get_submodule(around), last, module)
