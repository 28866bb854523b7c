"""The tables of ``geniex bench surrogate``."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import groupby

from rich.markup import escape
from rich.table import Table

from geniex.bench.surrogate_report import CIRCUIT, SurrogateReport, SurrogateRow
from geniex.cli._tables import format_number, make_bars_table, make_plain_table


def make_surrogate_tables(report: SurrogateReport) -> Iterable[Table]:
    """The report's tables, one after another."""
    for (size, bits), rows in groupby(report.rows, lambda row: (row.size, row.stream_bits)):
        yield _costs(f"{size}x{size} tiles, {bits}-bit streams", list(rows), report)
    if report.bars:
        yield make_bars_table(report.bars)


def _costs(what: str, rows: Sequence[SurrogateRow], report: SurrogateReport) -> Table:
    s = report.settings
    table = make_plain_table(
        f"{what}: cost per tile and vector on one thread; {s.tiles} tiles, the same {s.vectors} vectors for all,"
        f" {s.chunk} per read",
        ("model", ""),
        (
            "read, us",
            "/ ideal",
            "/ MLP",
            "program, us",
            "pays off after reads",
            "NF-RMSE, pp",
            "99.9 % error",
            "peak MB",
            "reads",
        ),
    )
    for row in rows:
        if row.failure is not None:
            table.add_row(row.model, row.dtype, "[red]failed[/red]")
            continue
        table.add_row(
            row.model,
            row.dtype,
            format_number(row.seconds_per_read, ".3g", 1e6),
            format_number(row.over_ideal, ".3g"),
            format_number(row.over_mlp, ".3g"),
            format_number(row.program_seconds, ".3g", 1e6),
            _amortised(row),
            format_number(row.nf_rmse_pp, ".3g"),
            "-" if row.relative_p999 is None else f"{100 * row.relative_p999:.3g} %",
            format_number(row.peak_bytes, ".0f", 1e-6),
            str(row.reads),
        )
    notes = [f"{row.model}: {row.failure or row.note}" for row in rows if row.failure or row.note]
    table.caption = "\n".join(map(escape, notes))
    return table


def _amortised(row: SurrogateRow) -> str:
    """The number of reads of a tile from which the model, programming included, is cheaper than the exact circuit."""
    if row.model == CIRCUIT:
        return "-"
    return "never" if row.amortised_reads is None else str(row.amortised_reads)
