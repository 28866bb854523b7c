"""Whole networks on crossbars: converters, tiled matrix products, layers, ``convert``."""

from geniex.simulator.convert import ConversionReport, LayerReport, convert, crossbar_layers
from geniex.simulator.layers import CrossbarConv2d, CrossbarLinear
from geniex.simulator.matrix import CrossbarMatrix

__all__ = [
    "ConversionReport",
    "CrossbarConv2d",
    "CrossbarLinear",
    "CrossbarMatrix",
    "LayerReport",
    "convert",
    "crossbar_layers",
]
