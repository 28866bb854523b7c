"""The reference model with which a converted model is compared, layer by layer."""

from __future__ import annotations

from torch import nn

from geniex.errors import ConversionError, InputError
from geniex.mapping import Architecture, Packing
from geniex.simulator import CrossbarLayer, CrossbarMatrix, LayerRule, find_crossbar_layers
from geniex.simulator.convert import prepare
from geniex.simulator.plan import PlannedLayer
from geniex.simulator.rules import Rules

SAME_LAYERS = "it must have the layers of the corrected model"


def make_comparable(reference: object, model: nn.Module) -> nn.Module:
    """The reference in a form whose layers have the same names as those of ``model``."""
    if not isinstance(reference, nn.Module):
        raise InputError("reference", type(reference).__name__, "it must be a torch module with the right outputs")
    layers = find_crossbar_layers(model)
    if any(isinstance(module, CrossbarMatrix) for module in reference.modules()):
        right, sizes = (
            reference,
            {name: _size(layer.packing) for name, layer in find_crossbar_layers(reference).items()},
        )
    else:
        right, sizes = _as_converted(reference, model, layers)
    names = {name for name, _ in right.named_modules()}
    for name, layer in layers.items():
        if name not in names:
            raise InputError("reference", f"{type(reference).__name__} without layer {name!r}", SAME_LAYERS)
        if sizes.get(name, _size(layer.packing)) != _size(layer.packing):
            told = f"layer {name!r} with (groups, outputs, inputs) = {sizes[name]}"
            raise InputError("reference", told, f"the model's has {_size(layer.packing)}: {SAME_LAYERS}")
    return right


def _as_converted(
    reference: nn.Module, model: nn.Module, layers: dict[str, CrossbarLayer]
) -> tuple[nn.Module, dict[str, tuple[int, int, int]]]:
    """A torch model in the form that ``convert`` prepares before crossbars are programmed, and its layers' sizes."""
    rules = {name: LayerRule(architecture=_architecture(layer)) for name, layer in layers.items()}
    norms = (name for name, m in reference.named_modules() if isinstance(m, nn.modules.batchnorm._BatchNorm))
    kept = dict(model.named_modules())
    fold = any(isinstance(kept.get(name), nn.Identity) for name in norms)
    try:
        right, plan, _ = prepare(reference, Rules(None, "block_diagonal", rules), fold)
    except ConversionError as error:
        raise InputError("reference", type(reference).__name__, f"{SAME_LAYERS}: {error}") from error
    return right, {layer.name: _size(layer.packing) for layer in plan if isinstance(layer, PlannedLayer)}


def _architecture(layer: CrossbarLayer) -> Architecture:
    matrix = layer.matrices[0]
    assert isinstance(matrix, CrossbarMatrix)
    return matrix.architecture


def _size(packing: Packing) -> tuple[int, int, int]:
    return packing.groups, packing.outputs, packing.inputs
