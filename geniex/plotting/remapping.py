"""Plots of remapping studies."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from geniex.errors import InputError
from geniex.plotting.axes import BLUE, GREY, MARKERS, SERIES, SKY, frame, make_axes

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def plot_recovered(shares: Mapping[str, Mapping[str, Any]], ax: Axes | None = None) -> Axes:
    """Draw the share of the lost accuracy that each mitigation recovers, in percent, with its intervals.

    Args:
        shares: mitigations by name, each with "recovered" and if known "recovered_images_low",
            "recovered_images_high" (the thick interval, over images) and "recovered_low", "recovered_high" (the thin
            interval, over networks), all fractions, as in a study's summary. Those without "recovered" are left out.
        ax: axes to draw on; None makes a new figure.
    """
    shown = {name: row for name, row in shares.items() if row.get("recovered") is not None}
    if not shown:
        raise InputError("shares", "none with a recovered share", "there is nothing to draw")
    ax = make_axes(ax, 7.2, 1.2 + 0.34 * len(shown))
    for place, row in enumerate(shown.values()):
        for ends, width, colour in (("recovered", 1.2, GREY), ("recovered_images", 4.0, SKY)):
            low, high = row.get(f"{ends}_low"), row.get(f"{ends}_high")
            if low is not None and high is not None:
                ax.hlines(place, 100 * low, 100 * high, color=colour, linewidth=width)
        ax.plot(100 * row["recovered"], place, "o", color=BLUE)
    ax.axvline(0, color=GREY, linewidth=0.8)
    ax.axvline(100, color=GREY, linewidth=0.8, linestyle=":")
    ax.set_yticks(range(len(shown)), list(shown))
    ax.set_ylim(len(shown) - 0.5, -0.5)
    points = [100 * float(row["recovered"]) for row in shown.values()]
    # Intervals over few networks may be wide, so that the points alone set the axis limits.
    ax.set_xlim(min(-30.0, min(points) - 20), max(130.0, max(points) + 20))
    return frame(ax, "Lost accuracy that is back", "of the drop from ideal tiles, %", "", grid="x")


def plot_layer_errors(layers: Mapping[str, Sequence[Mapping[str, Any]]], ax: Axes | None = None) -> Axes:
    """Draw each layer's output error under each remapping, by the study's emulator against the exact circuit.

    Args:
        layers: rows of a study's layers by the remapping's name, each with "emulator_weighted" and "circuit_weighted"
            (fractions).
        ax: axes to draw on; None makes a new figure.
    """
    ends = [100 * row["circuit_weighted"] for rows in layers.values() for row in rows]
    if not ends:
        raise InputError("layers", "none", "there is nothing to draw")
    ax = make_axes(ax, 5.6, 4.8)
    for k, (name, rows) in enumerate(layers.items()):
        x, y = ([100 * row[f"{by}_weighted"] for row in rows] for by in ("circuit", "emulator"))
        ax.plot(x, y, MARKERS[k % len(MARKERS)], color=SERIES[k % len(SERIES)], label=name, markersize=5)
    ax.axline((min(ends), min(ends)), slope=1, color=GREY, linewidth=0.8)
    ax.legend(frameon=False, fontsize=9)
    return frame(ax, "Weighted output error, layer by layer", "exact circuit, %", "emulator, %")
