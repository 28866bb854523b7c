"""Whole networks on crossbars: converters, tiled matrix products, layers, ``convert``."""

from geniex.simulator.arguments import Arguments
from geniex.simulator.arranging import arranged, arrangements
from geniex.simulator.batch_norm import fold_batch_norm
from geniex.simulator.batches import labelled_batches, read_batches
from geniex.simulator.checkpoint import load_converted, save_converted
from geniex.simulator.convert import convert
from geniex.simulator.costs import Costs, LayerCosts, costs
from geniex.simulator.digital import digital_copy
from geniex.simulator.dry_run import dry_run
from geniex.simulator.exchange import emulated_by, on_ideal, programmed_weight
from geniex.simulator.layers import (
    CrossbarConv,
    CrossbarConvTranspose,
    CrossbarLayer,
    CrossbarLinear,
    crossbar_layers,
    crossbar_matrices,
    register_layer,
)
from geniex.simulator.matrix import CrossbarMatrix
from geniex.simulator.report import ConversionReport, Histogram, LayerReport
from geniex.simulator.rules import LayerRule
from geniex.simulator.scales import InputStatistics
from geniex.simulator.vary import before_variation, vary

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
    "arranged",
    "arrangements",
    "before_variation",
    "convert",
    "costs",
    "crossbar_layers",
    "crossbar_matrices",
    "digital_copy",
    "dry_run",
    "emulated_by",
    "fold_batch_norm",
    "labelled_batches",
    "load_converted",
    "on_ideal",
    "programmed_weight",
    "read_batches",
    "register_layer",
    "save_converted",
    "vary",
]
