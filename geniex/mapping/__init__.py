"""The mapping of weights and activations to conductances and voltages: fixed point, slices, streams, tiles, layouts."""

from geniex.mapping.architecture import OFFSETS, AdcRange, Architecture, Offset
from geniex.mapping.layout.compacted import CompactedTiles, compact
from geniex.mapping.layout.convolution import ConvGeometry, from_kernels, im2col, to_kernels
from geniex.mapping.layout.grid import Location, TileLayout
from geniex.mapping.layout.grouped import (
    LAYOUTS,
    GroupPacking,
    LayerLayout,
    Layout,
    Packing,
    check_layout,
    lay_out,
    pack,
    register_layout,
    unrolls,
)
from geniex.mapping.layout.placement import Arrangement
from geniex.mapping.layout.toeplitz import Unrolling, check_size
from geniex.mapping.layout.toeplitz_tiles import ToeplitzTiles
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
    "LayerLayout",
    "Layout",
    "Location",
    "Offset",
    "Packing",
    "TileLayout",
    "ToeplitzTiles",
    "Unrolling",
    "check_layout",
    "check_size",
    "compact",
    "from_kernels",
    "im2col",
    "lay_out",
    "pack",
    "register_layout",
    "to_kernels",
    "unrolls",
]
