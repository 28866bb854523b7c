"""Plots of remapping studies."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from geniex.errors import InputError
from geniex.plotting.axes import BLUE, GREY, MARKERS, SERIES, SKY, frame, make_axes

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def plot_recovered(rows: Sequence[Mapping[str, Any]], ax: Axes | None = None) -> Axes:
    """Draw the share of the lost accuracy that each mapping and control recovers, in percent, with its intervals.

    Args:
        rows: mappings with controls, each with "method", "control" (or None) and "recovered", and if known
            "images_low", "images_high" (the thick interval, over images) and "recovered_low", "recovered_high" (the
            thin interval, over networks), all fractions. Rows without "recovered" are left out.
        ax: axes to draw on; None makes a new figure.
    """
    shown = [row for row in rows if row.get("recovered") is not None]
    if not shown:
        raise InputError("rows", "none with a recovered share", "there is nothing to draw")
    ax = make_axes(ax, 7.2, 1.2 + 0.34 * len(shown))
    for place, row in enumerate(shown):
        for ends, width, colour in (("recovered", 1.2, GREY), ("images", 4.0, SKY)):
            low, high = row.get(f"{ends}_low"), row.get(f"{ends}_high")
            if low is not None and high is not None:
                ax.hlines(place, 100 * low, 100 * high, color=colour, linewidth=width)
        ax.plot(100 * row["recovered"], place, "o", color=BLUE)
    names = [row["method"] + ("" if row["control"] is None else f" + {row['control']}") for row in shown]
    ax.axvline(0, color=GREY, linewidth=0.8)
    ax.axvline(100, color=GREY, linewidth=0.8, linestyle=":")
    ax.set_yticks(range(len(shown)), names)
    ax.set_ylim(len(shown) - 0.5, -0.5)
    points = [100 * float(row["recovered"]) for row in shown]
    # Intervals over few networks may be wide, so that the points alone set the axis limits.
    ax.set_xlim(min(-30.0, min(points) - 20), max(130.0, max(points) + 20))
    return frame(ax, "Lost accuracy that is back", "of the drop from ideal tiles, %", "", grid="x")


def plot_layer_checks(checks: Sequence[Mapping[str, Any]], ax: Axes | None = None) -> Axes:
    """Draw each layer's output error under each mapping, by the surrogate against the exact circuit.

    Args:
        checks: errors, each with "layer", "method", "surrogate_weighted" and "circuit_weighted" (fractions).
        ax: axes to draw on; None makes a new figure.
    """
    if not checks:
        raise InputError("checks", "none", "there is nothing to draw")
    ax = make_axes(ax, 5.6, 4.8)
    methods = list(dict.fromkeys(check["method"] for check in checks))
    for k, method in enumerate(methods):
        own = [check for check in checks if check["method"] == method]
        x, y = ([100 * check[f"{by}_weighted"] for check in own] for by in ("circuit", "surrogate"))
        ax.plot(x, y, MARKERS[k % len(MARKERS)], color=SERIES[k % len(SERIES)], label=method, markersize=5)
    ends = [100 * check["circuit_weighted"] for check in checks]
    ax.axline((min(ends), min(ends)), slope=1, color=GREY, linewidth=0.8)
    ax.legend(frameon=False, fontsize=9)
    return frame(ax, "Weighted output error, layer by layer", "exact circuit, %", "surrogate, %")
