"""Which of a model's layers go onto crossbars, and why the others do not."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor, nn

from geniex.errors import ConversionError
from geniex.mapping import Architecture, GroupPacking, Layout
from geniex.simulator.attention import PROJECTIONS, leave_fast_path, project_attention
from geniex.simulator.layers import CROSSBAR_LAYERS, CrossbarConv, CrossbarLayer
from geniex.simulator.rules import Rules

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
    packing: GroupPacking

    def pieces(self, x: Tensor) -> Iterator[Tensor]:
        """A batch of inputs in pieces whose vectors fit into memory: receptive fields overlap."""
        return iter(x.split(1)) if issubclass(self.kind, CrossbarConv) else iter((x,))


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
            packing = kind.packed(module, choice.architecture, choice.layout)
            yield PlannedLayer(name, module, kind, choice.architecture, choice.layout, packing)
        elif choice.pattern == name and not any(True for _ in module.children()):
            raise ConversionError(f"per_layer[{name!r}]: {type(module).__name__} cannot run on crossbars")
        else:
            yield DigitalLayer(name, module, _reason(module))


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
