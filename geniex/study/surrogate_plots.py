"""The pictures of an evaluation."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from geniex.plotting import plot_density, plot_error_bins, plot_error_histogram, save_plot
from geniex.study.breakdown import BREAKDOWNS
from geniex.study.surrogate_errors import Comparison

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def save_plots(comparison: Comparison, folder: Path) -> list[Path]:
    """Write the pictures to the existing ``folder`` and return the paths of the PNG files.

    Each model has a picture of predicted against exact NF and an error histogram. One histogram shows all models, and
    one picture shows the errors for each breakdown that has several bins.
    """
    return [save_plot(ax, folder / f"{name}.png") for name, ax in _pictures(comparison)]


def _pictures(comparison: Comparison) -> Iterator[tuple[str, Axes]]:
    exact, report = comparison.exact_nf, comparison.report
    for model, predicted in comparison.predicted_nf.items():
        name = re.sub(r"[^\w.-]+", "_", model).strip("_.")
        yield f"predicted-{name}", plot_density(exact, predicted, model)
        yield f"errors-{name}", plot_error_histogram(exact, {model: predicted})
    yield "errors", plot_error_histogram(exact, comparison.predicted_nf)
    for by, breakdown in BREAKDOWNS.items():
        labels = report.labels(by)
        if len(labels) > 1:
            errors = {r.model: [r.errors_in(by, label).nf_rmse_pp for label in labels] for r in report.rows}
            yield f"by-{by}", plot_error_bins(labels, errors, breakdown.title)
