"""Layers programmed with emulators of their own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from geniex.emulator import Emulator
from geniex.errors import ConversionError, InputError
from geniex.mapping import Architecture
from geniex.simulator.layers import CrossbarLayer, Inputs
from geniex.simulator.plan import PlannedLayer
from geniex.simulator.ranges import InputStatistics


def check_emulator(emulator: object, architecture: object) -> None:
    """Raise unless ``emulator`` is one that can serve ``architecture``."""
    if not isinstance(architecture, Architecture):
        raise InputError("architecture", type(architecture).__name__, "it must be an Architecture")
    _checked(emulator).bind(architecture)


class OwnEmulators:
    """The emulators of one conversion: bound once for each architecture and device, and shared by its layers.

    Their noise begins from the seed, and they have copies of the weights, so that a conversion stays as it is made
    whatever becomes of the emulator that was given.
    """

    def __init__(self, emulator: Emulator) -> None:
        self.emulator = _checked(emulator).restarted()
        self._made: dict[tuple[Architecture, torch.device], Emulator] = {}

    def own(self, architecture: Architecture, device: torch.device) -> Emulator:
        """The emulator for ``architecture`` on ``device``."""
        key = (architecture, device)
        if key not in self._made:
            bound = self.emulator.bind(architecture)
            self._made[key] = bound.moved(lambda tensor: tensor.to(device, copy=True))
        return self._made[key]


def build(
    layer: PlannedLayer, emulators: OwnEmulators, inputs: Inputs | Sequence[Inputs], **options: Any
) -> CrossbarLayer:
    """The crossbar layer in a planned layer's place, programmed; ``options`` are what its class takes beside."""
    weight = layer.kind.weight_of(layer.module)
    try:
        emulator = emulators.own(layer.architecture, weight.device)
        return layer.kind(
            layer.module,
            layer.architecture,
            emulator,
            layout=layer.layout,
            map_size=layer.map_size,
            weight_full_scale=layer.weight_full_scale,
            inputs=inputs,
            **options,
        ).eval()
    except (ConversionError, InputError) as error:
        raise ConversionError(f"layer {layer.name!r}: {error}") from error


def placeholder(inputs: int) -> InputStatistics:
    """Statistics of a matrix of which nothing is known but its number of inputs."""
    statistics = InputStatistics()
    statistics.add(torch.ones(1, inputs))
    return statistics


def _checked(emulator: object) -> Emulator:
    if not isinstance(emulator, Emulator):
        raise InputError("emulator", _name(emulator), "it must be an Emulator, such as LinearEmulator(crossbar)")
    return emulator


def _name(thing: object) -> str:
    return thing.__name__ if isinstance(thing, type) else type(thing).__name__
