"""Whole networks on crossbars: converters, tiled matrix products, layers, ``convert``."""

from geniex.simulator.arguments import Arguments
from geniex.simulator.batch_norm import fold_batch_norm
from geniex.simulator.batches import read_batches, read_labelled_batches
from geniex.simulator.checkpoint import load_converted, save_converted
from geniex.simulator.convert import convert
from geniex.simulator.costs import Costs, LayerCosts, costs
from geniex.simulator.dry_run import dry_run
from geniex.simulator.layers import (
    CrossbarConv,
    CrossbarConvTranspose,
    CrossbarLayer,
    CrossbarLinear,
    find_crossbar_layers,
    find_crossbar_matrices,
    register_layer,
)
from geniex.simulator.matrix import CrossbarMatrix
from geniex.simulator.report import ConversionReport, Histogram, LayerReport
from geniex.simulator.rules import LayerRule
from geniex.simulator.scales import InputStatistics
from geniex.simulator.transforms import (
    arrange,
    read_arrangements,
    read_weight,
    replace_by_ideal,
    replace_emulator,
    to_digital,
    undo_variation,
    vary,
)

__all__ = [
    "Arguments",
    "ConversionReport",
    "Costs",
    "CrossbarConv",
    "CrossbarConvTranspose",
    "CrossbarLayer",
    "CrossbarLinear",
    "CrossbarMatrix",
    "Histogram",
    "InputStatistics",
    "LayerCosts",
    "LayerReport",
    "LayerRule",
    "arrange",
    "convert",
    "costs",
    "dry_run",
    "find_crossbar_layers",
    "find_crossbar_matrices",
    "fold_batch_norm",
    "load_converted",
    "read_arrangements",
    "read_batches",
    "read_labelled_batches",
    "read_weight",
    "register_layer",
    "replace_by_ideal",
    "replace_emulator",
    "save_converted",
    "to_digital",
    "undo_variation",
    "vary",
]
