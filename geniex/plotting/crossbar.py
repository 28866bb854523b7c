"""Plots of one crossbar: the IR drop, and the non-ideality of the column currents that it causes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from torch import Tensor

from geniex.circuit import Crossbar, non_ideality_factor
from geniex.circuit.checks import check_conductances, check_voltages
from geniex.errors import InputError
from geniex.plotting.axes import BLUE, ORANGE, finite_values, frame, make_axes

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def plot_ir_drop(
    crossbar: Crossbar, voltages: Tensor, conductances: Tensor, ax: Axes | None = None, unit: Literal["%", "mV"] = "%"
) -> Axes:
    """Draw a heat map of the share of its row's drive that reaches each cell [%], or of the drive that is lost [mV].

    Shares are comparable between rows of equal drive. A weakly driven row stands out, because its bit lines hold its
    voltage up; a row at 0 V is grey. Millivolts show the voltage that wires and terminals take from each cell,
    whatever the drives are.

    Args:
        crossbar: the circuit.
        voltages: driver voltages (rows,), volt.
        conductances: small-signal cell conductances (rows, cols), siemens.
        ax: axes to draw on; None makes a new figure.
        unit: "%" for the share that arrives, "mV" for the drive minus the cell's voltage.
    """
    if unit not in ("%", "mV"):
        raise InputError("unit", repr(unit), "it must be '%' or 'mV'")
    check_voltages(voltages, crossbar.rows)
    check_conductances(conductances, crossbar.rows, crossbar.cols, like=voltages)
    if voltages.ndim != 1 or conductances.ndim != 2:
        shapes = f"shapes {tuple(voltages.shape)} and {tuple(conductances.shape)}"
        raise InputError("voltages, conductances", shapes, "they must be one vector (rows,) and one tile (rows, cols)")
    if not voltages.any():
        raise InputError("voltages", "0 V in all rows", "at least one row must be driven")
    ax = make_axes(ax, 5.8, 4.8)
    with torch.no_grad():
        cells = crossbar.operating_point(voltages, conductances).cell_voltages
    if unit == "mV":
        shown = 1e3 * (voltages[:, None] - cells)
        label, colours, what = "drive lost before the cell, mV", "viridis_r", "mV of the drive are lost"
    else:
        shown = 100 * cells / torch.where(voltages == 0, torch.nan, voltages)[:, None]
        label, colours, what = (
            "share of the row's drive that reaches the cell, %",
            "viridis",
            "% of the drive reaches a cell",
        )
    picture = shown.cpu().double().numpy()
    driven = picture[np.isfinite(picture)]
    # A few weakly driven rows, whose voltage the bit lines hold up, must not take the whole range of colours.
    low, high = np.quantile(driven, (0.01, 0.99))
    image = ax.imshow(picture, colours, aspect="auto", interpolation="nearest", vmin=low, vmax=high)
    ax.set_facecolor("#BBBBBB")
    ax.figure.colorbar(image, ax=ax, label=label, extend="both")
    g, v = conductances * 1e6, voltages.abs().max().item() * 1e3
    title = (
        f"IR drop: {driven.min():.1f} to {driven.max():.1f} {what}\n"
        f"drives up to {v:.0f} mV, cells {g.min().item():.3g} to {g.max().item():.3g} µS"
        + ("; grey: rows at 0 V" if driven.size < picture.size else "")
    )
    frame(ax, title, "bit line (0 is nearest the drivers)", "word line (the last is nearest the sense side)")
    ax.grid(visible=False)
    return ax


def plot_nf(ideal: Tensor, actual: Tensor, ax: Axes | None = None) -> Axes:
    """Draw a histogram of the non-ideality factor in percent, with its mean, without columns of no ideal current.

    Args:
        ideal: ideal column currents, any shape, ampere.
        actual: currents of the non-ideal crossbar, same shape.
        ax: axes to draw on; None makes a new figure.
    """
    (nf,) = finite_values("ideal, actual", 100 * non_ideality_factor(ideal, actual))
    ax = make_axes(ax)
    ax.hist(nf, bins=60, color=BLUE)
    ax.axvline(nf.mean(), color=ORANGE)
    title = (
        f"Non-ideality factor of {nf.size:,} column currents\n"
        f"mean {nf.mean():.2f} % (line), standard deviation {nf.std():.2f} pp"
    )
    return frame(ax, title, "NF = (I_ideal − I) / I_ideal, %", "columns", grid="y")
