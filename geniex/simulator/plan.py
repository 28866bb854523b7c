"""The plan of a conversion: which layers of a model go onto crossbars, and why the others do not."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

from geniex.errors import ConversionError, InputError
from geniex.mapping import Architecture, ConvGeometry, LayerLayout, Layout, Packing, lay_out, pack, unrolls
from geniex.simulator.layers.attention import ATTENDING, PROJECTIONS, leave_fast_path, project_attention
from geniex.simulator.layers.crossbar import CrossbarLayer, find_crossbar_kind, find_registered_kind
from geniex.simulator.originals import find_derived_tensors, find_ties, make_plain
from geniex.simulator.replace import find_kept_aside, replace_modules
from geniex.simulator.rules import Choice, Rules
from geniex.simulator.scales import FullScale

_NO_PRODUCT = (
    nn.modules.batchnorm._NormBase,
    nn.LayerNorm,
    nn.GroupNorm,
    nn.RMSNorm,
    nn.PReLU,
    nn.Embedding,
    nn.EmbeddingBag,
)
"""Layers whose parameters do not form a matrix product with the input."""


@dataclass(frozen=True)
class PlannedLayer:
    """A layer that goes onto crossbars."""

    name: str
    module: nn.Module
    kind: type[CrossbarLayer]
    architecture: Architecture
    layout: Layout
    map_size: tuple[int, ...] | None = None
    """Spatial size of the input maps for which a convolution is unrolled."""
    weight_full_scale: FullScale | None = None
    """Magnitude that the weights are scaled by; None takes it from the weights."""

    @cached_property
    def weight(self) -> Tensor:
        """The layer's weight matrices (groups, outputs, inputs)."""
        weight = self.kind.weight_of(self.module)
        if weight.dim() != 3:
            returned = f"{self.kind.__name__}.weight_of returned the shape {tuple(weight.shape)}"
            allowed = "it must be (groups, outputs, inputs), where a layer without groups has one"
            raise ConversionError(f"layer {self.name!r}: {returned}: {allowed}")
        return weight

    @cached_property
    def geometry(self) -> ConvGeometry | None:
        """The geometry of a convolution; None for a layer without positions."""
        return self.kind.geometry_of(self.module)

    @cached_property
    def packing(self) -> Packing:
        """The packing of the layer's weights into matrices; it needs the size of maps that are to be unrolled."""
        try:
            return pack(self.weight, self.architecture, self.layout, self.geometry, self.map_size)
        except InputError as error:
            raise ConversionError(f"layer {self.name!r}: {error}") from error

    @cached_property
    def placement(self) -> LayerLayout:
        """The layout of the layer's matrices on tiles, found once for the weights as they are when it is asked for."""
        packing = self.packing
        try:
            return lay_out(self.weight.detach(), self.architecture, self.layout, packing=packing)
        except InputError as error:
            raise ConversionError(f"layer {self.name!r}: {error}") from error

    @property
    def unsized(self) -> bool:
        """Whether the layer is to be unrolled while the size of its maps is unknown."""
        return self.map_size is None and unrolls(self.layout)

    def sized(self, x: Tensor) -> PlannedLayer:
        """This layer, unrolled for maps of the size of ``x`` if its layout unrolls; maps must have one size."""
        if self.geometry is None or not unrolls(self.layout):
            return self
        size = tuple(x.shape[-self.geometry.dims :])
        if self.map_size not in (None, size):
            both = f"maps of {self.map_size} and of {size}"
            raise ConversionError(
                f"layer {self.name!r}: layout {self.layout!r} is for maps of one size, but this layer gets {both}"
            )
        return self if self.map_size == size else replace(self, map_size=size)

    def vectors_of(self, x: Tensor) -> Tensor:
        """The vectors (count, inputs of all matrices) that the layer's matrices see for its input ``x``."""
        return self.kind.read_fields(x, self.packing, self.geometry)

    def pieces(self, x: Tensor) -> Iterator[Tensor]:
        """``x`` in pieces whose vectors fit into memory: one map at a time for convolutions, whose fields overlap."""
        batched = self.geometry is not None and x.dim() > self.geometry.dims + 1
        return iter(x.split(1)) if batched else iter((x,))


@dataclass(frozen=True)
class DigitalLayer:
    """A module with parameters that stays digital, and the reason."""

    name: str
    module: nn.Module
    reason: str


def plan_layers(model: nn.Module, rules: Rules) -> list[PlannedLayer | DigitalLayer]:
    """Every module of ``model`` that owns parameters, on crossbars or digital, in the model's order.

    Raises:
        ConversionError: a rule matches no module, or asks for something impossible.
    """
    plan = list(_plan(model, rules))
    rules.check_all_used()
    return plan


def split_attention(model: nn.Module, rules: Rules) -> nn.Module:
    """``model`` with attention split into projections that can be converted, where the rules want them on crossbars."""
    if not any(isinstance(module, ATTENDING) for module in model.modules()):
        return model
    leave_fast_path(model)
    for name, module in list(model.named_modules()):
        if not isinstance(module, nn.MultiheadAttention) or not _wanted(name, rules):
            continue
        attention = project_attention(module)
        if attention is not None:
            # torch reads out_proj's weight without calling it: hooks of out_proj never ran, and are not carried over.
            model = replace_modules(model, {id(module): attention})
    return model


def check_trainable(model: nn.Module, rules: Rules) -> None:
    """Raise ``ConversionError`` for a weight that cannot be trained on crossbars as it is trained in ``model``.

    A weight on crossbars is a separate parameter: it can neither be shared with another module nor be computed from
    other tensors.
    """
    for name, module in model.named_modules():
        for tensor, remedy in find_derived_tensors(module).items() if _goes(name, module, rules) else ():
            raise ConversionError(
                f"layer {name!r}: its {tensor} is computed from other tensors, which trainable=True cannot train:"
                f" make it a parameter first with {remedy}, or keep the layer digital by a rule"
            )
    for places in find_ties(model):
        on_crossbars = [name for name, _ in places if _goes(name, model.get_submodule(name), rules)]
        if on_crossbars:
            both = " and ".join(f"{name}.{parameter}".lstrip(".") for name, parameter in places)
            raise ConversionError(
                f"{both} share one parameter, which trainable=True would split in two: keep"
                f" {on_crossbars[-1]!r} digital by a rule (per_layer={{{on_crossbars[-1]!r}: None}}), or convert with"
                " trainable=False"
            )


def make_weights_plain(model: nn.Module) -> None:
    """Make the effective weights of layers that have a crossbar form plain parameters, in place."""
    for module in list(model.modules()):
        if find_derived_tensors(module) and (find_crossbar_kind(module) or isinstance(module, nn.MultiheadAttention)):
            make_plain(module)


def _goes(name: str, module: nn.Module, rules: Rules) -> bool:
    """Whether the rules put a module on crossbars, judged by its name and its kind."""
    if isinstance(module, nn.MultiheadAttention):
        return _wanted(name, rules)
    return find_crossbar_kind(module) is not None and rules.choice(name).architecture is not None


def _wanted(attention: str, rules: Rules) -> bool:
    names = [attention, *(f"{attention}.{part}".lstrip(".") for part in PROJECTIONS)]
    return any(rules.choice(name).architecture is not None for name in names)


def _plan(model: nn.Module, rules: Rules) -> Iterator[PlannedLayer | DigitalLayer]:
    closed: tuple[str, ...] = ()
    for name, module in model.named_modules():
        if name.startswith(closed):
            continue
        kind = find_crossbar_kind(module)
        why = _digital_form(module, kind)
        if kind is None and why is None and next(module.parameters(recurse=False), None) is None:
            continue
        choice = rules.choice(name)
        if kind is not None or why is not None or isinstance(module, nn.MultiheadAttention):
            closed += (f"{name}." if name else "",)  # what lies below is part of this layer
        if choice.architecture is None:
            yield DigitalLayer(name, module, "by rule")
        elif kind is not None and why is None:
            yield _plan_layer(name, module, kind, choice)
        elif choice.pattern == name and not any(True for _ in module.children()):
            because = "" if why is None else f": {why}"
            raise ConversionError(f"per_layer[{name!r}]: {type(module).__name__} cannot run on crossbars{because}")
        else:
            yield DigitalLayer(name, module, why or _reason(module))
    yield from _unregistered(model)


def _unregistered(model: nn.Module) -> Iterator[DigitalLayer]:
    """Modules with parameters that are kept in lists and the like, which torch does not register as submodules."""
    seen = {id(module) for module in model.modules()}
    for owner, module in model.named_modules():
        for name, aside in find_kept_aside(module):
            new = {id(m) for m in aside.modules()} - seen
            if new and any(True for _ in aside.parameters()):
                reason = "not a submodule: keep it in an nn.ModuleList or nn.ModuleDict"
                yield DigitalLayer(f"{owner}.{name}".lstrip("."), aside, reason)
            seen |= new


def _plan_layer(name: str, module: nn.Module, kind: type[CrossbarLayer], choice: Choice) -> PlannedLayer:
    assert choice.architecture is not None
    layout, size, by_name = choice.layout, choice.map_size, choice.pattern == name
    unrolled = unrolls(layout)
    if unrolled and kind.geometry_of(module) is None:
        if by_name:
            raise ConversionError(
                f"per_layer[{name!r}]: a {type(module).__name__} has no positions to unroll: use another layout"
            )
        layout, unrolled = "dense", False
    if size is not None and not unrolled:
        if by_name:
            raise ConversionError(f"per_layer[{name!r}]: map_size is only for convolutions with layout 'toeplitz'")
        size = None
    layer = PlannedLayer(name, module, kind, choice.architecture, layout, size, choice.weight_full_scale)
    if size is not None or not unrolled:
        _ = layer.packing  # raises the error of a layer that cannot be packed before anything is programmed
    return layer


def _digital_form(module: nn.Module, kind: type[CrossbarLayer] | None) -> str | None:
    """The obstacle, other than a class without crossbar form, that keeps a module digital; None without one."""
    if isinstance(module, torch.jit.ScriptModule):
        return "compiled by torch.jit"
    if hasattr(module, "_packed_params") or hasattr(module, "_all_weight_values"):  # as torch.ao's modules have
        return "quantised weights that are no parameters"
    if kind is None:
        return None
    weight = getattr(module, "weight", None)
    if not isinstance(weight, Tensor):
        return "no parameter 'weight'"
    if "weight" not in module._parameters and "weight" not in module._buffers:
        return "its weight is not a parameter, because something else sets it"
    if weight.layout != torch.strided:
        return "sparse weight: make it dense with to_dense()"
    if is_traceable_wrapper_subclass(weight) or weight.is_quantized:
        return f"unsupported weight ({type(weight).__name__}, {weight.dtype})"
    if isinstance(weight, Tensor) and weight.numel() == 0:
        return "it has no weights"
    if weight.dtype not in (torch.float16, torch.bfloat16, torch.float32, torch.float64):
        return f"weights of {weight.dtype}"
    return None


def _reason(module: nn.Module) -> str:
    if isinstance(module, _NO_PRODUCT):
        return "no matrix product"
    base = nn.MultiheadAttention if isinstance(module, nn.MultiheadAttention) else find_registered_kind(module)
    if base is not None:
        return f"computes something else than {base.__name__}"
    if any(True for _ in module.children()):
        return "own parameters outside of its layers"
    return "no crossbar form for this kind of layer"
