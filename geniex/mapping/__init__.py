"""The mapping of weights and activations to conductances and voltages: fixed point, slices, streams, tiles, layouts."""

from geniex.mapping.architecture import OFFSETS, AdcRange, Architecture, Offset
from geniex.mapping.layout.compacted import CompactedTiles, compact
from geniex.mapping.layout.grid import Location, TileLayout
from geniex.mapping.layout.grouped import (
    LAYOUTS,
    ConvGeometry,
    GroupPacking,
    Layout,
    check_layout,
    im2col,
    kernel_weight,
    kernels,
)
from geniex.mapping.layout.placement import Arrangement
from geniex.mapping.layout.toeplitz import Packing, Unrolling, checked_size
from geniex.mapping.layout.toeplitz_tiles import UnrolledTiles
from geniex.mapping.window import ConductanceWindow

__all__ = [
    "LAYOUTS",
    "OFFSETS",
    "AdcRange",
    "Architecture",
    "Arrangement",
    "CompactedTiles",
    "ConductanceWindow",
    "ConvGeometry",
    "GroupPacking",
    "Layout",
    "Location",
    "Offset",
    "Packing",
    "TileLayout",
    "UnrolledTiles",
    "Unrolling",
    "check_layout",
    "checked_size",
    "compact",
    "im2col",
    "kernel_weight",
    "kernels",
]
