"""Folding an order of outputs: it need not be undone if the next crossbar's word lines can be wired in this order."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.fx
import torch.nn.functional as F
from torch import Tensor, nn

from geniex.simulator import CrossbarConv, CrossbarLayer, CrossbarLinear, find_crossbar_layers

_ELEMENTWISE = (
    *(nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.ELU, nn.CELU, nn.SELU, nn.GELU, nn.SiLU, nn.Mish, nn.Softplus, nn.Tanh),
    *(nn.Sigmoid, nn.Hardswish, nn.Hardsigmoid, nn.Hardtanh, nn.Identity, nn.Dropout),
)
_BY_CHANNEL = {
    1: (nn.BatchNorm1d, nn.MaxPool1d, nn.AvgPool1d, nn.AdaptiveAvgPool1d, nn.AdaptiveMaxPool1d),
    2: (nn.BatchNorm2d, nn.Dropout2d, nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d),
    3: (nn.BatchNorm3d, nn.Dropout3d, nn.MaxPool3d, nn.AvgPool3d, nn.AdaptiveAvgPool3d, nn.AdaptiveMaxPool3d),
}
"""Modules that treat channels alike, by the number of spatial dimensions; a pool of more dimensions would pool over
channels."""
_FUNCTIONS = (
    F.relu,
    torch.relu,
    F.relu6,
    F.gelu,
    F.silu,
    F.leaky_relu,
    F.hardswish,
    F.dropout,
    torch.sigmoid,
    torch.tanh,
)
_METHODS = ("relu", "relu_", "sigmoid", "tanh", "contiguous")
_POOLS = {1: (F.max_pool1d, F.avg_pool1d), 2: (F.max_pool2d, F.avg_pool2d), 3: (F.max_pool3d, F.avg_pool3d)}

_VECTOR = 0
"""Form of a vector: channels are in the last dimension, each with one or several positions. The form of a map is the
number of its spatial dimensions: its channels are in dimension 1."""


@dataclass(frozen=True)
class Folds:
    """The consumers of an output whose channels can come in another order."""

    consumers: tuple[str, ...]
    """Crossbar layers that have this output as their whole input."""


def find_foldable(model: nn.Module) -> dict[str, Folds]:
    """The crossbar layers of a converted ``model`` whose outputs may come in any order, with their consumers.

    Tracing (torch.fx) must show that all operations on an output treat channels alike (activations, batch norms,
    pools, flattening) and end in crossbar layers of one group. Sums, concatenations, the network's own output and
    everything that cannot be traced need the natural order. If a module cannot be traced, its children are traced.
    """
    graphs: dict[nn.Module, int] = {}
    found = dict(_foldable(model, "", graphs))
    known, modules = find_crossbar_layers(model), dict(model.named_modules(remove_duplicate=False))

    def told(*names: str) -> bool:
        """Whether one graph alone calls each of these layers, so that it shows all their uses."""
        return all(name in known and graphs[modules[name]] == 1 for name in names)

    return {name: folds for name, folds in found.items() if told(name, *folds.consumers)}


def expand_order(order: Tensor, inputs: int) -> Tensor:
    """The order of a consumer's ``inputs`` (inputs,) for a producer's ``order`` of outputs (outputs,).

    Each output makes several consecutive inputs: a convolution's kernel elements, or a map's positions after
    flattening.
    """
    spread = inputs // len(order)
    return (order[:, None] * spread + torch.arange(spread, device=order.device)).flatten()


class _Tracer(torch.fx.Tracer):
    def is_leaf_module(self, module: nn.Module, module_qualified_name: str) -> bool:
        """Whether the module is a crossbar layer, or one of torch's own leaves."""
        return isinstance(module, CrossbarLayer) or super().is_leaf_module(module, module_qualified_name)


def _foldable(module: nn.Module, prefix: str, graphs: dict[nn.Module, int]) -> Iterator[tuple[str, Folds]]:
    if isinstance(module, CrossbarLayer):
        return
    try:
        graph = _Tracer().trace(module)
    except Exception:  # tracing runs the model's own code, which may raise anything
        for name, child in module.named_children():
            yield from _foldable(child, f"{prefix}{name}.", graphs)
        return
    modules = dict(module.named_modules())
    calls: dict[str, int] = {}
    for node in graph.nodes:
        if node.op == "call_module":
            calls[node.target] = calls.get(node.target, 0) + 1
    for layer in {modules[name] for name in calls}:
        graphs[layer] = graphs.get(layer, 0) + 1
    for node in graph.nodes:
        layer = modules.get(node.target) if node.op == "call_module" else None
        if not isinstance(layer, CrossbarLayer) or calls[node.target] > 1:
            continue
        form = layer.geometry.dims if isinstance(layer, CrossbarConv) else _VECTOR
        found = _consumers(node, form, modules)
        if found and all(calls[name] == 1 for name in found):
            yield prefix + node.target, Folds(tuple(prefix + name for name in found))


def _consumers(node: torch.fx.Node, form: int, modules: Mapping[str, nn.Module]) -> list[str] | None:
    """Names of the crossbar layers that consume a node's value; None if anything needs the natural order."""
    found: list[str] = []
    for user in node.users:
        if user.args[:1] != (node,) or sum(argument is node for argument in user.all_input_nodes) != 1:
            return None
        module = modules.get(str(user.target)) if user.op == "call_module" else None
        if isinstance(module, CrossbarLayer):
            fits = isinstance(module, CrossbarConv if form else CrossbarLinear)
            if not fits or module.packing.groups != 1:
                return None
            found.append(str(user.target))
            continue
        after = follow_form(user, module, form)
        below = None if after is None else _consumers(user, after, modules)
        if below is None:
            return None
        found += below
    return found or None


def follow_form(user: torch.fx.Node, module: nn.Module | None, form: int) -> int | None:
    """The form (see ``_VECTOR``) after an operation; None if the operation does not treat channels alike."""
    if user.op == "call_module":
        by_channel = _BY_CHANNEL[form] if form else (nn.BatchNorm1d,)
        if isinstance(module, (*_ELEMENTWISE, *by_channel)):
            return form
        flat = isinstance(module, nn.Flatten) and (module.start_dim, module.end_dim) == (1, -1)
        return _VECTOR if flat and form else None
    if user.target in _FUNCTIONS or user.target in _METHODS or (form and user.target in _POOLS[form]):
        return form
    if not form:
        return None
    if user.target in (torch.flatten, "flatten"):
        given = _arguments(user, "start_dim", "end_dim")
        return _VECTOR if (given.get("start_dim"), given.get("end_dim", -1)) == (1, -1) else None
    if user.target in (torch.mean, "mean"):
        given, whole = _arguments(user, "dim", "keepdim"), range(2, form + 2)
        dim = given.get("dim")
        if not isinstance(dim, list | tuple) or sorted(d % (form + 2) for d in dim) != [*whole]:
            return None
        return form if given.get("keepdim", False) else _VECTOR
    return None


def _arguments(user: torch.fx.Node, *names: str) -> dict[str, Any]:
    """The arguments of a call after its tensor, by name."""
    return dict(zip(names, user.args[1:], strict=False)) | dict(user.kwargs)
