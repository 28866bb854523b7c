"""``geniex evaluate``: surrogates and analytic models against a sweep's exact currents."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from geniex.cli._files import check_file, write_json

Report = Any
"""``geniex.study.evaluate.EvaluationReport``: jsonargparse would import it, and torch, even under TYPE_CHECKING."""


def evaluate(
    data: Path,
    surrogate: list[str] | None = None,
    held_out: bool = False,
    json: Path | None = None,
) -> None:
    """Compare the ideal product, the exact linear array and surrogates with a sweep's exact currents.

    Args:
        data: the HDF5 file that geniex sweep made.
        surrogate: a checkpoint's path or a shipped name; give the option once for each surrogate.
        held_out: only the tiles that the surrogates were tested on, never trained on.
        json: file for the machine-readable report.
    """
    from geniex.study.evaluate import evaluate_surrogates  # imports torch, which help does not need

    check_file("json", json)
    report = evaluate_surrogates(data, surrogate or [], held_out=held_out)
    Console().print(_table(report))
    write_json(json, report.to_dict())


def _table(report: Report) -> Table:
    which = "held-out tiles" if report.held_out else "tiles"
    table = Table(title=f"{report.tiles} {which} x {report.vectors} vectors of {escape(Path(report.data).name)}")
    table.add_column("model")
    for head in ("NF-RMSE, pp", "current error RMS", "99.9 %", "max"):
        table.add_column(head, justify="right")
    for row in report.rows:
        errors = row.errors
        relative = (errors.relative_rms, errors.relative_p999, errors.relative_max)
        name = f"{row.model} *" if row.seen else row.model
        table.add_row(escape(name), f"{errors.nf_rmse_pp:.3f}", *(f"{100 * value:.2f} %" for value in relative))
    if any(row.seen for row in report.rows):
        table.caption = "* trained on some of these tiles: see --held-out"
    return table
