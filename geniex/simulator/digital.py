"""The way back from a converted model to the torch model that it was, with its present weights."""

from __future__ import annotations

import copy
from typing import Any

from torch import nn

from geniex.errors import InputError
from geniex.simulator.layers.attention import PROJECTIONS, ProjectedAttention
from geniex.simulator.layers.crossbar import crossbar_layers
from geniex.simulator.transforms import take_place


def digital_copy(converted: nn.Module) -> nn.Module:
    """A fully digital copy, in evaluation mode, of a model that was converted with ``trainable=True``.

    Its layers are torch's, and attention has its weights under torch's names again. Folded batch norms stay folded.
    The weights are the trained ones, before rounding.

    Raises:
        InputError: a layer's weights are on crossbars alone, because it was not converted with ``trainable=True``.
    """
    layers: dict[int, Any] = {}
    for name, layer in crossbar_layers(converted).items():
        if not layer.trainable:
            allowed = "its weights are on crossbars alone: convert the model with trainable=True"
            raise InputError("converted", f"layer {name!r}", allowed)
        layers[id(layer)] = layer.digital()
        take_place(layer, layers[id(layer)])
    # deepcopy takes the modules in its memo for copied already.
    memo = dict(layers)
    for module in converted.modules():
        if isinstance(module, ProjectedAttention):
            parts: list[Any] = [getattr(module, name) for name in PROJECTIONS]
            memo[id(module)] = module.joined(*(layers.get(id(p)) or copy.deepcopy(p) for p in parts))
            take_place(module, memo[id(module)])
    copied = copy.deepcopy(converted, memo)
    vars(copied).pop("conversion", None)
    return copied
