"""Plots of a network's accuracy on crossbars."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from geniex.errors import InputError
from geniex.plotting.axes import BLUE, GREY, SKY, frame, make_axes

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def plot_stages(stages: Sequence[Mapping[str, Any]], ax: Axes | None = None) -> Axes:
    """Draw the accuracy of each stage, in percent, with its interval.

    Columns beside the plot list the accuracy, the agreement with the exact circuit and the logit error against it.

    Args:
        stages: stages in order, each with "name", "accuracy", "low", "high" (fractions; low and high are the ends of
            the 95 % interval) and, if known, "images", "agreement" (fraction) and "logit_error" (relative).
        ax: axes to draw on; None makes a new figure.
    """
    if not stages:
        raise InputError("stages", "none", "at least one is needed")
    ax = make_axes(ax, 7.6, 1.4 + 0.42 * len(stages))
    places = range(len(stages))
    accuracy = [100 * s["accuracy"] for s in stages]
    below = [100 * (s["accuracy"] - s["low"]) for s in stages]
    above = [100 * (s["high"] - s["accuracy"]) for s in stages]
    ax.errorbar(accuracy, places, xerr=[below, above], fmt="o", color=BLUE, ecolor=SKY, elinewidth=3, capsize=4)
    ax.axvline(accuracy[0], color=GREY, linewidth=0.8, linestyle=":")
    ax.set_yticks(places, [f"{s['name']} ({s['images']:,} images)" if s.get("images") else s["name"] for s in stages])
    ax.set_ylim(len(stages) - 0.5, -1.0)
    _columns(ax, stages)
    return frame(ax, "Accuracy, stage by stage", "accuracy, %, with its 95 % interval", "", grid="x")


def plot_layer_nf(layers: Mapping[str, Mapping[str, float]], ax: Axes | None = None) -> Axes:
    """Draw each layer's non-ideality factor in percent: mean, standard deviation, and 5th to 95th percentile.

    Args:
        layers: statistics by layer name, each with "mean", "std", "p05" and "p95" (fractions).
        ax: axes to draw on; None makes a new figure.
    """
    if not layers:
        raise InputError("layers", "none", "at least one is needed")
    ax = make_axes(ax, max(4.8, 1.6 + 0.7 * len(layers)), 3.8)
    places = range(len(layers))
    mean, std, low, high = ([100 * v[k] for v in layers.values()] for k in ("mean", "std", "p05", "p95"))
    ax.vlines(places, low, high, color=SKY, linewidth=2, label="5th to 95th percentile")
    ax.errorbar(places, mean, yerr=std, fmt="o", color=BLUE, elinewidth=5, capsize=0, label="mean ± standard deviation")
    ax.axhline(0, color=GREY, linewidth=0.8)
    ax.set_xticks(places, list(layers), rotation=0 if len(layers) <= 6 else 60)
    ax.set_xlim(-0.6, len(layers) - 0.4)
    # Leave room for the legend above the data.
    bottom, top = ax.get_ylim()
    ax.set_ylim(bottom, top + 0.25 * (top - bottom))
    ax.legend(frameon=False, loc="upper left")
    return frame(ax, "Non-ideality factor of each layer's tiles", "layer", "NF = (I_ideal − I) / I_ideal, %", "y")


def _columns(ax: Axes, stages: Sequence[Mapping[str, Any]]) -> None:
    """Write each stage's figures to the right of the axes, in columns with headers."""
    columns = {
        "accuracy": [f"{100 * s['accuracy']:.1f} %" for s in stages],
        "agreement": [_text(s.get("agreement"), 100, ".1f", " %") for s in stages],
        "logit error": [_text(s.get("logit_error"), 1, ".3f", "") for s in stages],
    }
    shown = [[head, *cells] for head, cells in columns.items() if any(cells)]
    lines = [
        "  ".join(cell.rjust(len(column[0])) for cell, column in zip(row, shown, strict=True))
        for row in zip(*shown, strict=True)
    ]
    # Every layout engine reserves room for tick labels, but not for free text.
    side = ax.secondary_yaxis("right")
    side.set_yticks([-0.75, *range(len(stages))], lines, family="monospace", fontsize=8.5)
    side.tick_params(length=0)
    side.spines["right"].set_visible(False)


def _text(value: float | None, factor: float, form: str, unit: str) -> str:
    return "" if value is None else f"{factor * value:{form}}{unit}"
