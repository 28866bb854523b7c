"""Plots of how well models predict the exact circuit's non-ideality factor (NF)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from geniex.errors import InputError
from geniex.plotting.axes import GREY, MARKERS, SERIES, finite_values, frame, make_axes

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_POINTS = 3000
"""Largest number of points drawn per model; more points would only hide each other."""
_FILLED = 3
"""Largest number of histograms in one plot that are drawn as filled areas; more are drawn as outlines."""
_UPRIGHT = 4
"""Largest number of bins in one plot whose labels stand upright; labels of more bins are slanted, or they overlap."""
_SMALLEST = 1e-6
"""Smallest error on the histogram's logarithmic axis, percentage points; smaller errors count as this one."""


def plot_predicted(reference: Tensor, predictions: dict[str, Tensor], ax: Axes | None = None) -> Axes:
    """Draw predicted against exact NF in percent; the legend gives the NF-RMSE.

    A model without error lies on the diagonal. At most 3000 points per model are drawn, evenly chosen.

    Args:
        reference: the exact circuit's NF (a fraction, as ``non_ideality_factor`` gives it), any shape.
        predictions: each model's NF by its name, same shape.
        ax: axes to draw on; None makes a new figure.
    """
    exact, predicted = _in_percent(reference, predictions)
    ax = make_axes(ax, 5.2, 5.0)
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
    return frame(ax, f"NF of {exact.size:,} column currents", "exact NF, %", "predicted NF, %")


def plot_density(reference: Tensor, predicted: Tensor, name: str = "model", ax: Axes | None = None) -> Axes:
    """Draw predicted against exact NF of one model in percent, as hexagons coloured by their number of columns.

    Args:
        reference: the exact circuit's NF (a fraction, as ``non_ideality_factor`` gives it), any shape.
        predicted: the model's NF, same shape.
        name: the model's name, for the title.
        ax: axes to draw on; None makes a new figure.
    """
    exact, of_model = _in_percent(reference, {name: predicted})
    values = of_model[name]
    ax = make_axes(ax, 5.8, 5.0)
    ends = [exact.min(), exact.max()]
    ax.plot(ends, ends, color=GREY, linewidth=0.8, zorder=1)
    image = ax.hexbin(exact, values, gridsize=70, bins="log", mincnt=1, cmap="viridis", linewidths=0, zorder=2)
    ax.figure.colorbar(image, ax=ax, label="columns")
    title = f"{name}: {_rmse(exact, values):.3g} pp RMSE over the NF of {exact.size:,} columns"
    return frame(ax, title, "exact NF, %", "predicted NF, %")


def plot_error_bins(
    labels: Sequence[str], errors: Mapping[str, Sequence[float]], title: str, ax: Axes | None = None
) -> Axes:
    """Draw each model's NF-RMSE in percentage points, bin by bin, on a logarithmic axis.

    The legend stands beside the axes; several such plots of the same models on one figure share it.

    Args:
        labels: labels of the bins, in order.
        errors: NF-RMSE of each bin by model, percentage points; NaN or 0 leaves a gap.
        title: the binned quantity with its unit, which labels the axis.
        ax: axes to draw on; None makes a new figure.
    """
    if not labels or not errors:
        raise InputError(
            "labels, errors", f"{len(labels)} bins and {len(errors)} models", "at least one of each is needed"
        )
    for name, values in errors.items():
        if len(values) != len(labels):
            raise InputError(
                "errors", f"{len(values)} values for {name}", f"give one for each of the {len(labels)} bins"
            )
    ax = make_axes(ax, max(4.8, 2.4 + 0.8 * len(labels)), 4.2)
    places = np.arange(len(labels))
    for index, (name, values) in enumerate(errors.items()):
        shown = np.array(values, dtype=float)
        shown[shown <= 0] = np.nan
        series = index % len(SERIES)
        ax.plot(places, shown, color=SERIES[series], marker=MARKERS[series], markersize=5, linewidth=1, label=name)
    ax.set_yscale("log")
    slant, end = (30, "right") if len(labels) > _UPRIGHT else (0, "center")
    ax.set_xticks(places, list(labels), rotation=slant, ha=end, rotation_mode="anchor")
    if not ax.figure.legends:
        ax.figure.legend(loc="outside right upper", frameon=False)
    return frame(ax, "NF-RMSE bin by bin", title, "NF-RMSE, percent points", grid="y")


def plot_error_histogram(reference: Tensor, predictions: dict[str, Tensor], ax: Axes | None = None) -> Axes:
    """Draw histograms of the columns' absolute NF errors in percentage points, on a logarithmic axis.

    Args:
        reference: the exact circuit's NF (a fraction), any shape.
        predictions: each model's NF by its name, same shape.
        ax: axes to draw on; None makes a new figure.
    """
    exact, predicted = _in_percent(reference, predictions)
    errors = {name: np.maximum(np.abs(v - exact), _SMALLEST) for name, v in predicted.items()}
    top = max(error.max() for error in errors.values())
    bins = np.geomspace(_SMALLEST, max(top, 10 * _SMALLEST), 61)
    ax = make_axes(ax)
    for index, (name, error) in enumerate(errors.items()):
        ax.hist(
            error,
            bins=list(bins),
            weights=np.full(error.size, 100 / error.size),
            # Filled areas of more than a few models would only hide each other.
            histtype="stepfilled" if len(errors) <= _FILLED else "step",
            alpha=0.55 if len(errors) <= _FILLED else 1.0,
            color=SERIES[index % len(SERIES)],
            label=f"{name}: median {np.median(error):.2g}, 99 % below {np.quantile(error, 0.99):.2g} pp",
        )
    ax.set_xscale("log")
    ax.margins(y=0.05 + 0.08 * len(errors))  # the legend's lines stand above the bars
    ax.legend(frameon=False, loc="upper left")
    title = f"NF error against the exact circuit, {exact.size:,} column currents"
    return frame(ax, title, "|NF error|, percent points", "columns per bin, %")


def plot_pareto(
    models: Mapping[str, tuple[float, float]], front: Sequence[str], title: str, ax: Axes | None = None
) -> Axes:
    """Draw models' errors against their read costs, both logarithmic; a line joins the models on the Pareto front.

    Args:
        models: seconds per tile and vector, and NF-RMSE in percentage points (0 is drawn at the lower edge), by name.
        front: names of the models on the Pareto front, which no other model beats in both.
        title: title of the plot.
        ax: axes to draw on; None makes a new figure.
    """
    if not models:
        raise InputError("models", "none", "at least one is needed")
    ax = make_axes(ax, 8.4, 4.4)
    floor = min([error for _, error in models.values() if error > 0], default=1.0) / 3
    places = {name: (1e6 * seconds, max(error, floor)) for name, (seconds, error) in models.items()}
    line = sorted(places[name] for name in front)
    ax.plot([x for x, _ in line], [y for _, y in line], color=GREY, linewidth=0.8, drawstyle="steps-post", zorder=1)
    for index, (name, (x, y)) in enumerate(places.items()):
        seconds, error = models[name]
        colour = SERIES[index % len(SERIES)]
        ax.scatter(
            [x],
            [y],
            s=45,
            facecolors=colour if name in front else "none",
            edgecolors=colour,
            marker=MARKERS[(index + index // len(SERIES)) % len(MARKERS)],
            label=f"{name}: {1e6 * seconds:.3g} µs, {f'{error:.2g} pp' if error else 'exact'}",
            zorder=2,
        )
    ax.figure.legend(loc="outside right upper", frameon=False, title="filled: on the Pareto front")
    ax.set_xscale("log")
    ax.set_yscale("log")
    return frame(ax, title, "read cost per tile and vector, µs", "NF-RMSE, percent points")


def _in_percent(
    reference: Tensor, predictions: dict[str, Tensor]
) -> tuple[NDArray[np.float64], dict[str, NDArray[np.float64]]]:
    if not predictions:
        raise InputError("predictions", "no model", "at least one is needed")
    exact, *predicted = finite_values("reference, predictions", reference, *predictions.values())
    return 100 * exact, {name: 100 * v for name, v in zip(predictions, predicted, strict=True)}


def _rmse(exact: NDArray[np.float64], predicted: NDArray[np.float64]) -> float:
    return float(np.sqrt(np.mean((predicted - exact) ** 2)))
