"""What one image takes on crossbars: arrays, reads, conversions, energy; and how well converters fit its numbers."""

from __future__ import annotations

from torch import Tensor, nn

from geniex.emulator import IdealEmulator
from geniex.simulator import ConversionReport, costs, emulated_by
from geniex.study.explore.settings import Energy

COUNTS = ("arrays", "reads", "adc_conversions", "static_energy")
"""Columns of a table: arrays in all; reads of single arrays, ADC conversions and static energy [J] for an image."""
CONVERTERS = ("adc_clipped", "adc_codes_used", "overflowed")
"""Columns of a table, on calibration inputs: share of ADC conversions that clip, and of accumulated sums that overflow,
each in the layer where most do; share of the ADC's codes that occur, in the layer that uses the fewest."""
_IMAGES = 4
"""Over which the energy is averaged; counts are the same for all."""
_VECTORS = 64
"""Inputs of each layer whose energy is taken: one read of the exact circuit each."""


def counted(model: nn.Module, images: Tensor, energy: Energy = "emulator") -> dict[str, float]:
    """The figures of ``COUNTS`` for a converted ``model`` on the first few of ``images`` (count, ...).

    As ``geniex.simulator.costs`` has them: 100 ns a read, devices as they are. The ``energy`` is that of the model's
    emulator, whose arrays are solved for it, or that of its conductances without wires ("ideal"), which is quick.
    """
    model = emulated_by(model, IdealEmulator()) if energy == "ideal" else model
    found = costs(model, images[:_IMAGES], energy_vectors=_VECTORS)
    return {
        "arrays": found.arrays,
        "reads": found.array_reads,
        "adc_conversions": found.adc_conversions,
        "static_energy": found.static_energy,
    }


def converter_use(report: ConversionReport) -> dict[str, float | None]:
    """The figures of ``CONVERTERS`` from a conversion's report; None where there is no such converter."""
    return {name: getattr(report, name) for name in CONVERTERS}
