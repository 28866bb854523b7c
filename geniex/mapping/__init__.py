"""From weights and activations to conductances and voltages: fixed point, slices, streams, tiles, layouts."""

from geniex.mapping.architecture import OFFSETS, Architecture, Offset
from geniex.mapping.layouts import ConvGeometry, im2col
from geniex.mapping.tiles import Location, TileLayout
from geniex.mapping.window import ConductanceWindow

__all__ = [
    "OFFSETS",
    "Architecture",
    "ConductanceWindow",
    "ConvGeometry",
    "Location",
    "Offset",
    "TileLayout",
    "im2col",
]
