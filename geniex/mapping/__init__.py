"""The mapping of weights and activations to conductances and voltages: fixed point, slices, streams, tiles, layouts."""

from geniex.mapping.architecture import OFFSETS, AdcRange, Architecture, Offset
from geniex.mapping.arrangement import Arrangement
from geniex.mapping.layouts import (
    LAYOUTS,
    ConvGeometry,
    GroupPacking,
    Layout,
    check_layout,
    im2col,
    kernel_weight,
    kernels,
)
from geniex.mapping.squeezed_tiles import SqueezedTiles, squeezed
from geniex.mapping.tiles import Location, TileLayout
from geniex.mapping.unrolled_tiles import UnrolledTiles
from geniex.mapping.unrolling import Packing, Unrolling, checked_size
from geniex.mapping.window import ConductanceWindow

__all__ = [
    "LAYOUTS",
    "OFFSETS",
    "AdcRange",
    "Architecture",
    "Arrangement",
    "ConductanceWindow",
    "ConvGeometry",
    "GroupPacking",
    "Layout",
    "Location",
    "Offset",
    "Packing",
    "SqueezedTiles",
    "TileLayout",
    "UnrolledTiles",
    "Unrolling",
    "check_layout",
    "checked_size",
    "im2col",
    "kernel_weight",
    "kernels",
    "squeezed",
]
