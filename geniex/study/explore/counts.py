"""What one image takes on crossbars: arrays, reads, conversions, energy."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from geniex.emulator import IdealEmulator
from geniex.simulator import LayerRule, dry_run
from geniex.study.explore.settings import CellSettings

COUNTS = ("arrays", "reads", "adc_conversions", "static_energy")
"""Columns of a table: arrays in all; reads of single arrays, ADC conversions and static energy [J] for an image."""


def counted(
    model: nn.Module, network: nn.Module, settings: CellSettings, rules: Mapping[str, LayerRule], images: Tensor
) -> dict[str, float | None]:
    """The figures of ``COUNTS`` for a converted ``model`` of ``network``; None where one is not known.

    Args:
        model: on crossbars.
        network: as it was before.
        settings: how it was converted.
        rules: exceptions of layers.
        images: test images, of which the first is counted for.
    """
    report = dry_run(
        network,
        settings.architecture,
        IdealEmulator(),
        per_layer=rules,
        example=images[:1],
        layout=settings.layout,
        fold=settings.fold,
    )
    return {"arrays": report.arrays, "reads": report.array_reads, "adc_conversions": None, "static_energy": None}
