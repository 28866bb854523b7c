"""Plots of crossbars and accuracies: each function draws on a given or a new Axes and returns it.

``save_plot`` writes a plot to a file. Plots need matplotlib (extra ``plot``), which is imported on the first call.
They need no display and change no global state of matplotlib.
"""

from geniex.plotting.accuracy import plot_layer_nf, plot_stages
from geniex.plotting.axes import save_plot
from geniex.plotting.crossbar import plot_ir_drop, plot_nf
from geniex.plotting.prediction import (
    plot_density,
    plot_error_bins,
    plot_error_histogram,
    plot_pareto,
    plot_predicted,
)
from geniex.plotting.remapping import plot_layer_errors, plot_recovered
from geniex.plotting.study import Measured, pareto_front, plot_along, plot_panels, plot_tradeoff

__all__ = [
    "Measured",
    "pareto_front",
    "plot_along",
    "plot_density",
    "plot_error_bins",
    "plot_error_histogram",
    "plot_ir_drop",
    "plot_layer_errors",
    "plot_layer_nf",
    "plot_nf",
    "plot_panels",
    "plot_pareto",
    "plot_predicted",
    "plot_recovered",
    "plot_stages",
    "plot_tradeoff",
    "save_plot",
]
