"""What one image takes on crossbars: arrays, reads, conversions, energy."""

from __future__ import annotations

from torch import Tensor, nn

from geniex.simulator import costs

COUNTS = ("arrays", "reads", "adc_conversions", "static_energy")
"""Columns of a table: arrays in all; reads of single arrays, ADC conversions and static energy [J] for an image."""
_IMAGES = 4
"""Over which the energy is averaged; counts are the same for all."""
_VECTORS = 64
"""Inputs of each layer whose energy is taken: one read of the exact circuit each."""


def counted(model: nn.Module, images: Tensor) -> dict[str, float]:
    """The figures of ``COUNTS`` for a converted ``model`` on the first few of ``images`` (count, ...).

    As ``geniex.simulator.costs`` has them: 100 ns a read, the energy that of the model's emulator and of its devices as
    they are.
    """
    found = costs(model, images[:_IMAGES], energy_vectors=_VECTORS)
    return {
        "arrays": found.arrays,
        "reads": found.array_reads,
        "adc_conversions": found.adc_conversions,
        "static_energy": found.static_energy,
    }
