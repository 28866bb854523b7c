"""Groups of layers that share channels: removing a channel changes all layers of its group."""

from __future__ import annotations

import operator
from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
import torch.fx
from torch import nn

from geniex.errors import InputError
from geniex.mitigation.remap.propagate import follow_form

LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
"""Torch layers that have a weight matrix."""
_NORM = nn.modules.batchnorm._BatchNorm
_SUMS = (operator.add, operator.iadd, operator.sub, operator.isub, operator.mul, operator.imul, torch.add, torch.mul)
_SUM_METHODS = ("add", "add_", "sub", "sub_", "mul", "mul_")


@dataclass
class Space:
    """A set of channels shared by all tensors that sums and channel-wise operations connect."""

    channels: int = 0
    producers: list[str] = field(default_factory=list)
    """Layers that have these channels as outputs."""
    consumers: list[str] = field(default_factory=list)
    """Layers that have these channels as inputs; a linear layer may have several consecutive inputs per channel."""
    followers: list[str] = field(default_factory=list)
    """Batch norms and depthwise convolutions, which have these channels as inputs and as outputs."""
    outside: bool = False
    """Whether these channels are the network's input or output, from which none can be removed."""
    mixed: bool = False
    """Whether an operation uses these channels that is not known to treat them alike; they cannot be removed then, but
    only set to 0."""

    @property
    def removable(self) -> bool:
        """Whether channels of this space can be removed."""
        return not (self.outside or self.mixed) and bool(self.producers)


def find_channel_spaces(network: nn.Module) -> list[Space]:
    """The channel spaces of ``network``, in the order of its layers.

    Each layer's outputs belong to one space and its inputs to one. Tracing (torch.fx) follows each layer's outputs.
    Activations, batch norms, pools, flattening, means over maps and depthwise convolutions keep channels apart. Sums
    (shortcuts) join the channels of their terms. All other operations mix channels.

    Raises:
        InputError: the network cannot be traced.
    """
    return _Spaces(network).found()


def count_inputs(module: nn.Module) -> int:
    """The number of input channels or features of a layer or a batch norm."""
    for name in ("in_features", "in_channels", "num_features"):
        if hasattr(module, name):
            return int(getattr(module, name))
    raise InputError("module", type(module).__name__, "it must be a layer or a batch norm")


def count_outputs(module: nn.Module) -> int:
    """The number of output channels or features of a layer or a batch norm."""
    for name in ("out_features", "out_channels", "num_features"):
        if hasattr(module, name):
            return int(getattr(module, name))
    raise InputError("module", type(module).__name__, "it must be a layer or a batch norm")


class _Spaces:
    """Finds the spaces by joining those of connected tensors; keys are graph nodes and layers' inputs and outputs."""

    def __init__(self, network: nn.Module) -> None:
        self.modules = dict(network.named_modules())
        self.joined: dict[str, str] = {}
        self.spaces: dict[str, Space] = {}
        self.called: set[str] = set()
        self.forms: dict[torch.fx.Node, int | None] = {}
        """Number of spatial dimensions of each node's maps; 0 for vectors, None if it is not known."""
        for name, module in self.modules.items():
            if type(module) in LAYERS:
                self._add_layer(name, module)
        try:
            graph = torch.fx.Tracer().trace(network)
        except Exception as error:  # tracing runs the network's own code, which may raise anything
            why = f"{type(error).__name__}: {error}".splitlines()[0]
            allowed = f"torch.fx cannot trace it to find its channels ({why}): use 'xcs' or 'xrs'"
            raise InputError("network", type(network).__name__, allowed) from error
        for node in graph.nodes:
            self._visit(node)
        known = {name for name in self.modules if f"out:{name}" in self.spaces or f"out:{name}" in self.joined}
        for name in known - self.called:  # its use does not show in the graph
            self._space(f"out:{name}").outside = self._space(f"in:{name}").outside = True
        for names in _shared(self.modules):  # layers that share one tensor cannot be changed separately
            for name in known.intersection(names):
                self._space(f"out:{name}").mixed = self._space(f"in:{name}").mixed = True

    def found(self) -> list[Space]:
        """Each space with a producer or a consumer, once."""
        return [space for space in self.spaces.values() if space.producers or space.consumers]

    def _add_layer(self, name: str, module: nn.Module) -> None:
        linear, groups = isinstance(module, nn.Linear), getattr(module, "groups", 1)
        outputs, inputs = count_outputs(module), count_inputs(module)
        out, into = f"out:{name}", f"in:{name}"
        if groups > 1 and groups == inputs == outputs:
            self.spaces[out] = Space(channels=outputs, followers=[name])
            self.joined[into] = out
            return
        self.spaces[out] = Space(channels=outputs, producers=[name], mixed=groups > 1)
        # A linear layer may have several inputs per channel: the producer knows the number of channels.
        self.spaces[into] = Space(channels=0 if linear else inputs, consumers=[name], mixed=groups > 1)

    def _visit(self, node: torch.fx.Node) -> None:
        key, inputs = f"node:{node.name}", node.all_input_nodes
        if node.op in ("placeholder", "get_attr"):
            outside = node.op == "placeholder"
            self.spaces[key], self.forms[node] = Space(outside=outside, mixed=not outside), None
            owner = str(node.target).rpartition(".")[0]
            if type(self.modules.get(owner)) in LAYERS:
                self._space(f"out:{owner}").mixed = self._space(f"in:{owner}").mixed = True
            return
        if node.op == "output":
            for source in inputs:
                self._space(f"node:{source.name}").outside = True
            return
        module = self.modules.get(str(node.target)) if node.op == "call_module" else None
        if module is not None and type(module) in LAYERS:
            self._call_layer(node, str(node.target), module, key)
            return
        self.spaces[key] = Space()
        for source in inputs:
            self._join(key, f"node:{source.name}")
        form = self._form(node, module, inputs)
        self.forms[node] = form
        if form is None:
            self._space(key).mixed = True
        elif isinstance(module, _NORM):
            self._space(key).followers.append(str(node.target))

    def _form(self, node: torch.fx.Node, module: nn.Module | None, inputs: list[torch.fx.Node]) -> int | None:
        """The form of maps (see ``forms``) after an operation that treats channels alike; None after any other."""
        forms = [self.forms[source] for source in inputs]
        if not forms or None in forms:
            return None
        sums = node.target in _SUMS or (node.op == "call_method" and node.target in _SUM_METHODS)
        if sums:
            same = all(isinstance(a, torch.fx.Node | int | float) for a in (*node.args, *node.kwargs.values()))
            return forms[0] if same and len(set(forms)) == 1 else None
        if len(inputs) != 1 or node.args[:1] != (inputs[0],):
            return None
        return follow_form(node, module, forms[0])  # type: ignore[arg-type]

    def _call_layer(self, node: torch.fx.Node, name: str, module: nn.Module, key: str) -> None:
        form = 0 if isinstance(module, nn.Linear) else len(module.kernel_size)  # type: ignore[arg-type]
        source = node.args[0] if node.args else None
        self.forms[node] = form
        self.called.add(name)
        self.spaces[key] = Space()
        self._join(f"out:{name}", key)
        if not isinstance(source, torch.fx.Node) or len(node.all_input_nodes) != 1:
            self._space(f"in:{name}").mixed = self._space(key).mixed = True
            return
        known = self.forms.get(source)
        self._join(f"in:{name}", f"node:{source.name}")
        if known != form:
            self._space(f"in:{name}").mixed = True

    def _join(self, one: str, other: str) -> None:
        a, b = self._root(one), self._root(other)
        if a == b:
            return
        first, second = self.spaces[a], self.spaces[b]
        if first.channels and second.channels and first.channels != second.channels:
            first.mixed = True  # broadcast, or after an operation that mixes channels
        first.channels = first.channels or second.channels
        for name in ("producers", "consumers", "followers"):
            mine = getattr(first, name)
            mine += [layer for layer in getattr(second, name) if layer not in mine]
        first.outside |= second.outside
        first.mixed |= second.mixed
        self.joined[b] = a
        del self.spaces[b]

    def _root(self, key: str) -> str:
        while key in self.joined:
            key = self.joined[key]
        return key

    def _space(self, key: str) -> Space:
        return self.spaces[self._root(key)]


def _shared(modules: dict[str, nn.Module]) -> Iterator[list[str]]:
    """Lists of names of modules that share a parameter."""
    owners: dict[int, list[str]] = {}
    for name, module in modules.items():
        for parameter in module.parameters(recurse=False):
            owners.setdefault(id(parameter), []).append(name)
    yield from (names for names in owners.values() if len(names) > 1)
