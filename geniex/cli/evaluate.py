"""``geniex evaluate``: errors of surrogates and analytic models against exact currents."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from geniex.cli._files import check_file, check_folder, write_json
from geniex.cli._tables import make_report_console

Report = Any
"""``geniex.study.surrogate_errors.EvaluationReport``: jsonargparse imports it, and torch, even under TYPE_CHECKING."""


def evaluate(
    data: Path,
    surrogate: list[str] | None = None,
    held_out: bool = False,
    calibration: int = 8,
    plots: Path | None = None,
    json: Path | None = None,
) -> None:
    """Compare analytic models and surrogates with the exact currents of a sweep, or of a set of sweeps.

    Args:
        data: HDF5 file made by geniex sweep, or the index or folder of a set.
        surrogate: surrogate to compare: a checkpoint's path or a shipped name; repeat the option for several.
        held_out: use only the surrogates' test tiles, which they were not trained on.
        calibration: number of exact solutions per tile to which the alpha-beta model is fitted; 0 leaves this model
            out.
        plots: folder for plots (PNG) of predicted against exact NF (non-ideality factor) and of the errors.
        json: file for the machine-readable report.
    """
    from geniex.study.surrogate_errors import compare  # imports torch, which help does not need

    check_file("json", json)
    check_folder("plots", plots)
    with Console(stderr=True).status("") as status:

        def say(text: str) -> None:
            status.update(escape(text))

        comparison = compare(data, surrogate or [], held_out=held_out, calibration=calibration, note=say)
    console = make_report_console()
    for table in _tables(comparison.report):
        console.print(table)
    for row in comparison.report.rows:
        if row.worst is not None:
            console.print(
                f"Worst circuit of {row.model}: {row.worst.nf_rmse_pp:.3g} pp, {row.worst}",
                highlight=False,
                markup=False,
            )
    write_json(json, comparison.report.to_dict())
    if plots is not None:
        from geniex.study.surrogate_plots import save_plots

        for path in save_plots(comparison, plots):
            console.print(path, highlight=False, markup=False)


def _tables(report: Report) -> Iterator[Table]:
    from geniex.study.breakdown import BREAKDOWNS

    yield _overall(report)
    for by, breakdown in BREAKDOWNS.items():
        labels = report.labels(by)
        if len(labels) > 1:
            yield _binned(report, by, breakdown.title, labels)


def _overall(report: Report) -> Table:
    which = "held-out tiles" if report.held_out else "tiles"
    vectors = " or ".join(map(str, report.vectors))
    table = Table(title=f"{report.tiles} {which} x {vectors} vectors of {escape(Path(report.data).name)}")
    table.add_column("model")
    for head in ("NF-RMSE, pp", "relative current error, RMS", "99.9 %", "max"):
        table.add_column(head, justify="right")
    for row in report.rows:
        errors = row.errors
        relative = (errors.relative_rms, errors.relative_p999, errors.relative_max)
        name = f"{row.model} *" if row.seen else row.model
        table.add_row(escape(name), f"{errors.nf_rmse_pp:.3g}", *(f"{100 * value:.3g} %" for value in relative))
    if any(row.seen for row in report.rows):
        table.caption = "* trained on some of these tiles; --held-out leaves them out"
    return table


def _binned(report: Report, by: str, title: str, labels: list[str]) -> Table:
    table = Table(title=f"NF-RMSE in pp by {title}")
    table.add_column(title)
    table.add_column("columns", justify="right")
    for row in report.rows:
        table.add_column(escape(row.model), justify="right")
    for label in labels:
        errors = [row.errors_in(by, label) for row in report.rows]
        table.add_row(label, f"{errors[0].columns:,}", *(f"{e.nf_rmse_pp:.3g}" for e in errors))
    return table
