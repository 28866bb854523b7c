"""Axes, colours and frames that all plots share."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from geniex.distribution import install_hint
from geniex.errors import InputError, MissingDependencyError

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Okabe and Ito's palette, which colour-blind readers can distinguish too.
BLUE, ORANGE, GREEN, PURPLE, SKY = "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9"
AMBER, YELLOW, BLACK = "#E69F00", "#F0E442", "#000000"
SERIES = (BLUE, ORANGE, GREEN, PURPLE, SKY, AMBER, BLACK, YELLOW)
"""Colours of up to eight series in one plot."""
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
GREY = "#555555"


def make_axes(ax: Axes | None, width: float = 6.4, height: float = 4.0) -> Axes:
    """``ax``, or the axes of a new figure of ``width`` x ``height`` inches that needs no display."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingDependencyError("matplotlib", "plots", install_hint("plot")) from error
    if ax is not None:
        return ax
    figure = Figure(figsize=(width, height), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    return figure.add_subplot()


def save_plot(ax: Axes, path: Path) -> Path:
    """Write the whole figure of ``ax`` to ``path`` and return it; its suffix sets the format (.png, .pdf)."""
    figure = ax.get_figure(root=True)
    assert figure is not None  # only an Axes that was removed from its figure has none
    figure.savefig(path, bbox_inches="tight")
    return path


def frame(ax: Axes, title: str, x: str, y: str, grid: str = "both") -> Axes:
    """``ax`` with a title, axis labels, a faint grid behind the data and no box around it."""
    ax.set_title(title, loc="left", fontsize=11)
    ax.set_xlabel(x)
    ax.set_ylabel(y)
    ax.spines[["top", "right"]].set_visible(False)
    ax.grid(axis=grid, color="#DDDDDD", linewidth=0.6)  # type: ignore[arg-type]
    ax.set_axisbelow(True)
    return ax


def finite_values(name: str, *values: Tensor) -> list[NDArray[np.float64]]:
    """The tensors as flat float64 arrays, without the positions where any of them is NaN or infinite.

    Columns with no ideal current have no NF (non-ideality factor): they are NaN. Raises ``InputError`` if shapes
    differ or nothing is left to draw.
    """
    shapes = {tuple(v.shape) for v in values}
    if len(shapes) > 1:
        raise InputError(name, f"shapes {sorted(shapes)}", "all must have the same shape")
    flat = [v.detach().cpu().double().flatten().numpy() for v in values]
    good = np.logical_and.reduce([np.isfinite(v) for v in flat])
    if not good.any():
        raise InputError(name, f"{good.size} values, none of them finite", "at least one must be finite")
    return [v[good] for v in flat]
