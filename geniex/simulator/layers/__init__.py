"""Layers whose matrix products run on crossbars, and the registry of those that torch's layers become."""

from geniex.simulator.layers.convolution import CrossbarConv, CrossbarConvTranspose
from geniex.simulator.layers.crossbar import CrossbarLayer, find_crossbar_layers, find_crossbar_matrices, register_layer
from geniex.simulator.layers.linear import CrossbarLinear

__all__ = [
    "CrossbarConv",
    "CrossbarConvTranspose",
    "CrossbarLayer",
    "CrossbarLinear",
    "find_crossbar_layers",
    "find_crossbar_matrices",
    "register_layer",
]
