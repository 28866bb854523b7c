"""The cost of one image on crossbars (arrays, reads, conversions, energy), and how well the converters' ranges fit."""

from __future__ import annotations

from torch import Tensor, nn

from geniex.emulator import IdealEmulator
from geniex.simulator import ConversionReport, costs, replace_emulator
from geniex.study.grid.settings import Energy

COUNTS = ("arrays", "reads", "adc_conversions", "static_energy")
"""Columns of a table: the number of arrays; reads of single arrays, ADC conversions and static energy [J] per image."""
CONVERTERS = ("adc_clipped", "adc_codes_used", "overflowed")
"""Columns of a table, on calibration inputs: the share of ADC conversions that clip and the share of accumulated sums
that overflow, each in the layer with the largest share; the span of the ADC codes as a share of all codes, in the layer
with the smallest span."""
_IMAGES = 4
"""Images that the energy is averaged over; the counts are the same for all images."""
_VECTORS = 64
"""Inputs of each layer whose energy is computed; the exact circuit is solved once for each."""


def count(model: nn.Module, images: Tensor, energy: Energy = "emulator") -> dict[str, float]:
    """The figures of ``COUNTS`` for a converted ``model`` on the first few ``images`` (count, ...).

    ``geniex.simulator.costs`` computes them, for reads of 100 ns and the devices as they are. With ``energy``
    "emulator" the arrays of the model's emulator are solved for the energy; "ideal" takes the conductances without
    wires, which is quick.
    """
    model = replace_emulator(model, IdealEmulator()) if energy == "ideal" else model
    found = costs(model, images[:_IMAGES], energy_vectors=_VECTORS)
    return {
        "arrays": found.arrays,
        "reads": found.array_reads,
        "adc_conversions": found.adc_conversions,
        "static_energy": found.static_energy,
    }


def read_converter_use(report: ConversionReport) -> dict[str, float | None]:
    """The figures of ``CONVERTERS`` from a conversion's report; None if the architecture lacks the converter."""
    return {name: getattr(report, name) for name in CONVERTERS}
