"""Error against read cost, as a table and pictures, with the front of models that no other beats in both."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import groupby
from pathlib import Path

from geniex.bench.surrogate_report import SurrogateReport, SurrogateRow
from geniex.plotting import plot_pareto, save_plot

Points = Mapping[str, tuple[float, float]]
"""(seconds per read, NF-RMSE in percent points) by model."""


def find_pareto_front(points: Points) -> list[str]:
    """The models that no other model beats in cost or error without being worse in the other, cheapest first.

    >>> find_pareto_front({"a": (1.0, 9.0), "b": (2.0, 9.0), "c": (3.0, 1.0)})
    ['a', 'c']
    """
    front: list[str] = []
    for name in sorted(points, key=lambda name: points[name]):
        at = points[name]
        if not front or at[1] < points[front[-1]][1] or at == points[front[-1]]:
            front.append(name)
    return front


def write_pareto(report: SurrogateReport, folder: Path) -> list[Path]:
    """Write the table (pareto.md) and a picture (PNG) for each size and stream width to ``folder``; return paths."""
    table = folder / "pareto.md"
    table.write_text(make_pareto_table(report), encoding="utf-8")
    paths = [table]
    for (size, bits), points in _cases(report):
        title = f"{size}x{size} GENIEx nominal, {bits}-bit streams, one core"
        ax = plot_pareto(points, find_pareto_front(points), title)
        paths.append(save_plot(ax, folder / f"pareto-{size}-{bits}bit.png"))
    return paths


def make_pareto_table(report: SurrogateReport) -> str:
    """A Markdown table of all models that have an error; models on the front are in bold."""
    machine, settings = report.machine, report.settings
    lines = [
        "# Error against read cost",
        "",
        f"The circuit is GENIEx' nominal circuit with 4-bit cells. {settings.tiles} tiles get the same vectors,"
        f" {settings.chunk} for each read, on one thread of an {machine['processor']} with torch"
        f" {machine['versions'].get('torch')}. Costs are medians over rounds in which the models take turns. A model is"
        " in bold if no other model is both as cheap and as accurate.",
        "",
        "| tile | streams | model | read, us | read / ideal read | programming, us per tile | NF-RMSE, pp |"
        " 99.9 % current error |",
        "|---|---|---|--:|--:|--:|--:|--:|",
    ]
    fronts = {case: find_pareto_front(points) for case, points in _cases(report)}
    for row in report.rows:
        if _point(row) is not None:
            lines.append(_line(row, row.model in fronts[row.size, row.stream_bits]))
    return "\n".join(lines) + "\n"


def _line(row: SurrogateRow, on_front: bool) -> str:
    figures = (
        (row.seconds_per_read, 1e6, ""),
        (row.over_ideal, 1.0, ""),
        (row.program_seconds, 1e6, ""),
        (row.nf_rmse_pp, 1.0, ""),
        (row.relative_p999, 100.0, " %"),
    )
    texts = ["-" if value is None else f"{scale * value:.3g}{unit}" for value, scale, unit in figures]
    model = f"**{row.model}**" if on_front else row.model
    return f"| {' | '.join([f'{row.size}x{row.size}', f'{row.stream_bits}-bit', model, *texts])} |"


def _cases(report: SurrogateReport) -> Iterator[tuple[tuple[int, int], Points]]:
    for case, rows in groupby(report.rows, lambda row: (row.size, row.stream_bits)):
        points = {row.model: point for row in rows if (point := _point(row)) is not None}
        if points:
            yield case, points


def _point(row: SurrogateRow) -> tuple[float, float] | None:
    if row.seconds_per_read is None or row.nf_rmse_pp is None:
        return None
    return row.seconds_per_read, row.nf_rmse_pp
