"""Which of a model's layers go onto crossbars, and why the others do not."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from torch import Tensor, nn

from geniex.errors import ConversionError, InputError
from geniex.mapping import Architecture, Layout, Packing, TileLayout, Unrolling
from geniex.simulator.attention import PROJECTIONS, leave_fast_path, project_attention
from geniex.simulator.layers import CROSSBAR_LAYERS, CrossbarConv, CrossbarLayer, tile_layouts
from geniex.simulator.ranges import FullScale
from geniex.simulator.rules import Choice, Rules

_NO_PRODUCT = (
    nn.modules.batchnorm._NormBase,
    nn.LayerNorm,
    nn.GroupNorm,
    nn.RMSNorm,
    nn.PReLU,
    nn.Embedding,
    nn.EmbeddingBag,
)
"""Layers with parameters that are no matrix product with the input."""


@dataclass(frozen=True)
class PlannedLayer:
    """A layer that goes onto crossbars."""

    name: str
    module: nn.Module
    kind: type[CrossbarLayer]
    architecture: Architecture
    layout: Layout
    packing: Packing
    """Of a layer that is to be unrolled, but for no size as yet, as if it were dense."""
    map_size: tuple[int, ...] | None = None
    """For which a convolution is unrolled."""
    weight_full_scale: FullScale | None = None
    """What its weights are scaled by, where that is given."""

    @property
    def layouts(self) -> list[TileLayout]:
        """Its matrices on their tiles."""
        blocks = self.packing.blocks(self.kind.weight_of(self.module)) if self.layout == "squeezed" else []
        return tile_layouts(self.packing, blocks, self.architecture, self.layout)

    @property
    def unsized(self) -> bool:
        """Whether it is to be unrolled and nothing has told the size of its maps."""
        return self.layout == "sparse" and self.map_size is None

    def sized(self, x: Tensor) -> PlannedLayer:
        """Unrolled for maps such as ``x``, if it is to be unrolled; they must be of the size that is known."""
        if self.layout != "sparse":
            return self
        size = tuple(x.shape[-len(self.module.kernel_size) :])  # type: ignore[arg-type]
        if self.map_size not in (None, size):
            both = f"maps of {self.map_size} and of {size}"
            raise ConversionError(f"layer {self.name!r}: layout 'sparse' is for maps of one size, it has {both}")
        if self.map_size == size:
            return self
        return replace(self, map_size=size, packing=_packed(self, size))

    def vectors_of(self, x: Tensor) -> Tensor:
        """The vectors (count, inputs of all matrices) that the matrices of the torch layer see for its input."""
        if isinstance(self.packing, Unrolling):
            return self.packing.vectors(x if x.dim() > self.packing.geometry.dims + 1 else x[None])
        return self.kind.fields_of(self.module, x)

    def pieces(self, x: Tensor) -> Iterator[Tensor]:
        """Inputs in pieces whose vectors fit into memory: receptive fields overlap. A single map has no batch."""
        batched = issubclass(self.kind, CrossbarConv) and x.dim() > len(self.module.kernel_size) + 1  # type: ignore[arg-type]
        return iter(x.split(1)) if batched else iter((x,))


@dataclass(frozen=True)
class DigitalLayer:
    """A module with parameters that stays as it is."""

    name: str
    module: nn.Module
    reason: str


def planned(model: nn.Module, rules: Rules) -> list[PlannedLayer | DigitalLayer]:
    """Every module that owns parameters, in the model's order; the rules must all have had a say.

    Raises:
        ConversionError: a rule names nothing, or asks for what cannot be.
    """
    plan = list(_planned(model, rules))
    rules.check_all_used()
    return plan


def projected(model: nn.Module, rules: Rules) -> nn.Module:
    """``model`` with attention in the form that projections can be converted in, where the rules want that."""
    leave_fast_path(model)
    for name, module in list(model.named_modules()):
        if not isinstance(module, nn.MultiheadAttention) or not _wanted(name, rules):
            continue
        attention = project_attention(module)
        if attention is not None:
            model = replaced(model, {id(module): attention})
    return model


def replaced(model: nn.Module, made: dict[int, nn.Module]) -> nn.Module:
    """``model`` with modules exchanged wherever they are referred to, also where one is used twice."""
    if id(model) in made:
        return made[id(model)]
    for parent in list(model.modules()):
        for name, child in parent._modules.items():
            if child is not None and id(child) in made:
                parent._modules[name] = made[id(child)]
    return model


def _wanted(attention: str, rules: Rules) -> bool:
    names = [attention, *(f"{attention}.{part}".lstrip(".") for part in PROJECTIONS)]
    return any(rules.choice(name).architecture is not None for name in names)


def _planned(model: nn.Module, rules: Rules) -> Iterator[PlannedLayer | DigitalLayer]:
    closed: list[str] = []
    for name, module in model.named_modules():
        if any(outer == "" or name.startswith(f"{outer}.") for outer in closed):
            continue
        kind = _crossbar_kind(module)
        if kind is None and not any(True for _ in module.parameters(recurse=False)):
            continue
        choice = rules.choice(name)
        if kind is not None or isinstance(module, nn.MultiheadAttention):
            closed.append(name)
        if choice.architecture is None:
            yield DigitalLayer(name, module, "by rule")
        elif kind is not None:
            yield _planned_layer(name, module, kind, choice)
        elif choice.pattern == name and not any(True for _ in module.children()):
            raise ConversionError(f"per_layer[{name!r}]: {type(module).__name__} cannot run on crossbars")
        else:
            yield DigitalLayer(name, module, _reason(module))


def _planned_layer(name: str, module: nn.Module, kind: type[CrossbarLayer], choice: Choice) -> PlannedLayer:
    assert choice.architecture is not None
    layout, size, by_name = choice.layout, choice.map_size, choice.pattern == name
    if layout == "sparse" and not issubclass(kind, CrossbarConv):
        if by_name:
            raise ConversionError(f"per_layer[{name!r}]: a {type(module).__name__} has no positions to unroll")
        layout = "dense"
    if size is not None and layout != "sparse":
        if by_name:
            raise ConversionError(f"per_layer[{name!r}]: map_size is of convolutions in the layout 'sparse'")
        size = None
    # Without a size a stand-in: what is unrolled then learns it from the inputs.
    dense = kind.packed(module, choice.architecture, "dense")
    scale = choice.weight_full_scale
    start = PlannedLayer(name, module, kind, choice.architecture, layout, dense, weight_full_scale=scale)
    if layout == "sparse" and size is None:
        return start
    return replace(start, map_size=size, packing=_packed(start, size))


def _packed(layer: PlannedLayer, size: tuple[int, ...] | None) -> Packing:
    try:
        return layer.kind.packed(layer.module, layer.architecture, layer.layout, size)
    except InputError as error:
        raise ConversionError(f"layer {layer.name!r}: {error}") from error


def _crossbar_kind(module: nn.Module) -> type[CrossbarLayer] | None:
    """What takes the module's place: its class must be torch's, or compute as torch's does."""
    for torch_kind, kind in CROSSBAR_LAYERS.items():
        if isinstance(module, torch_kind) and not _overridden(module, torch_kind):
            return kind
    return None


def _overridden(module: nn.Module, torch_kind: type[nn.Module]) -> bool:
    methods = [name for name in ("forward", "_conv_forward") if hasattr(torch_kind, name)]
    return any(getattr(type(module), name) is not getattr(torch_kind, name) for name in methods)


def _reason(module: nn.Module) -> str:
    if isinstance(module, _NO_PRODUCT):
        return "no matrix product"
    base = next((kind for kind in (*CROSSBAR_LAYERS, nn.MultiheadAttention) if isinstance(module, kind)), None)
    if base is not None:
        return f"computes otherwise than {base.__name__}"
    if any(True for _ in module.children()):
        return "parameters of its own, outside of layers"
    return "no crossbar form of this layer"
