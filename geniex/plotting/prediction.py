"""Pictures of how well models predict the exact circuit's non-ideality factor."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from geniex.errors import InputError
from geniex.plotting.axes import GREY, MARKERS, SERIES, finite, framed, on_axes

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_POINTS = 3000
"""Points drawn per model; more would only hide each other."""
_SMALLEST = 1e-4
"""Errors below this many percent points count as this in the histogram's logarithmic axis."""


def plot_predicted(reference: Tensor, predictions: dict[str, Tensor], ax: Axes | None = None) -> Axes:
    """Predicted against exact NF, percent: a model without error lies on the diagonal; the legend tells NF-RMSE.

    Args:
        reference: the exact circuit's NF (a fraction, as ``non_ideality_factor`` gives it), any shape.
        predictions: each model's NF by its name, same shape.
        ax: where to draw; None makes a new figure. At most 3000 evenly chosen points a model are drawn.
    """
    exact, predicted = _in_percent(reference, predictions)
    ax = on_axes(ax, 5.2, 5.0)
    some = np.linspace(0, exact.size - 1, min(exact.size, _POINTS)).astype(int)
    ends = [exact.min(), exact.max()]
    ax.plot(ends, ends, color=GREY, linewidth=1, zorder=3, label="exact")
    for index, (name, values) in enumerate(predicted.items()):
        ax.scatter(
            exact[some],
            values[some],
            s=6,
            alpha=0.5,
            linewidths=0,
            color=SERIES[index % len(SERIES)],
            marker=MARKERS[index % len(MARKERS)],
            label=f"{name}: {_rmse(exact, values):.3g} pp RMSE",
        )
    ax.legend(frameon=False, markerscale=2.5)
    return framed(ax, f"NF of {exact.size:,} column currents", "exact NF, %", "predicted NF, %")


def plot_error_histogram(reference: Tensor, predictions: dict[str, Tensor], ax: Axes | None = None) -> Axes:
    """How many columns have what absolute NF error, percent points, on a logarithmic axis.

    Args:
        reference: the exact circuit's NF (a fraction), any shape.
        predictions: each model's NF by its name, same shape.
        ax: where to draw; None makes a new figure.
    """
    exact, predicted = _in_percent(reference, predictions)
    errors = {name: np.maximum(np.abs(v - exact), _SMALLEST) for name, v in predicted.items()}
    top = max(error.max() for error in errors.values())
    bins = np.geomspace(_SMALLEST, max(top, 10 * _SMALLEST), 61)
    ax = on_axes(ax)
    for index, (name, error) in enumerate(errors.items()):
        ax.hist(
            error,
            bins=list(bins),
            weights=np.full(error.size, 100 / error.size),
            histtype="stepfilled",
            alpha=0.55,
            color=SERIES[index % len(SERIES)],
            label=f"{name}: median {np.median(error):.2g}, 99 % below {np.quantile(error, 0.99):.2g} pp",
        )
    ax.set_xscale("log")
    ax.legend(frameon=False)
    title = f"NF error against the exact circuit, {exact.size:,} column currents"
    return framed(ax, title, "|NF error|, percent points", "columns per bin, %")


def _in_percent(
    reference: Tensor, predictions: dict[str, Tensor]
) -> tuple[NDArray[np.float64], dict[str, NDArray[np.float64]]]:
    if not predictions:
        raise InputError("predictions", "no model", "there is nothing to draw")
    exact, *predicted = finite("reference, predictions", reference, *predictions.values())
    return 100 * exact, {name: 100 * v for name, v in zip(predictions, predicted, strict=True)}


def _rmse(exact: NDArray[np.float64], predicted: NDArray[np.float64]) -> float:
    return float(np.sqrt(np.mean((predicted - exact) ** 2)))
