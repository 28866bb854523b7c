"""Whole networks on crossbars: converters, tiled matrix products, layers, ``convert``."""

from geniex.simulator.convert import ConversionReport, LayerReport, convert, crossbar_layers
from geniex.simulator.layers import CrossbarConv2d, CrossbarLinear
from geniex.simulator.matrix import CrossbarMatrix
from geniex.simulator.ranges import InputStatistics

__all__ = [
    "ConversionReport",
    "CrossbarConv2d",
    "CrossbarLinear",
    "CrossbarMatrix",
    "InputStatistics",
    "LayerReport",
    "convert",
    "crossbar_layers",
]
