"""Planned layers programmed onto crossbars, with emulators that belong to the conversion."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from geniex.emulator import Emulator
from geniex.emulator.base import check_emulator, move_copy
from geniex.errors import ConversionError, InputError
from geniex.mapping import Architecture
from geniex.simulator.layers.crossbar import CrossbarLayer, Inputs
from geniex.simulator.plan import PlannedLayer
from geniex.simulator.scales import InputStatistics


def check_fit(emulator: object, architecture: object) -> None:
    """Raise an error unless ``emulator`` is an emulator that can serve ``architecture``."""
    if not isinstance(architecture, Architecture):
        raise InputError("architecture", type(architecture).__name__, "it must be an Architecture")
    check_emulator(emulator).bind(architecture)


class OwnEmulators:
    """The emulators of one conversion, each bound once for an architecture and a device and shared by its layers.

    Their noise begins from the seed, and they have copies of the emulator's tensors, so that a conversion does not
    change with the emulator that was given.
    """

    def __init__(self, emulator: Emulator) -> None:
        self.emulator = check_emulator(emulator).with_noise_seed()
        self._made: dict[tuple[Architecture, torch.device], Emulator] = {}

    def own(self, architecture: Architecture, device: torch.device) -> Emulator:
        """The emulator for ``architecture`` on ``device``."""
        key = (architecture, device)
        if key not in self._made:
            bound = self.emulator.bind(architecture)
            own = move_copy(bound, lambda tensor: tensor.to(device))
            if own is not bound:
                own.requires_grad_(False)  # the copied weights only read, and need no graph
            self._made[key] = own
        return self._made[key]


def build(
    layer: PlannedLayer, emulators: OwnEmulators, inputs: Inputs | Sequence[Inputs], **options: Any
) -> CrossbarLayer:
    """The programmed crossbar layer for a planned layer; ``options`` are further arguments of its class."""
    placement = layer.placement  # its errors name the layer themselves
    try:
        emulator = emulators.own(layer.architecture, layer.weight.device)
        return layer.kind(
            layer.module,
            layer.architecture,
            emulator,
            plan=placement,
            weight_full_scale=layer.weight_full_scale,
            inputs=inputs,
            **options,
        ).eval()
    except (ConversionError, InputError) as error:
        raise ConversionError(f"layer {layer.name!r}: {error}") from error


def make_placeholder(inputs: int) -> InputStatistics:
    """Statistics of a matrix of which only the number of inputs is known."""
    statistics = InputStatistics()
    statistics.add(torch.ones(1, inputs))
    return statistics
