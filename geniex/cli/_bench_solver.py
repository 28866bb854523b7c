"""The tables of ``geniex bench solver``."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import groupby

from rich.markup import escape
from rich.table import Table

from geniex.bench.solver_report import Row, SolverReport
from geniex.cli._tables import format_number, make_bars_table, make_plain_table

_CONTENDERS = ("native float64", "native float32", "SuperLU", "badcrossbar", "ngspice")


def make_solver_tables(report: SolverReport) -> Iterable[Table]:
    """The report's tables, one after another."""
    for threads in report.settings.threads:
        yield _times([row for row in report.rows if row.threads == threads], threads)
    yield _responses(report)
    yield _backward(report)
    yield _growth(report)
    if report.accuracy:
        yield _accuracy(report)
    if report.bars:
        yield make_bars_table(report.bars)


def _times(rows: Sequence[Row], threads: int) -> Table:
    present = [name for name in _CONTENDERS if any(row.contender == name for row in rows)]
    table = make_plain_table(
        f"Time per vector in ms, {threads} thread{'s' if threads > 1 else ''}; in parentheses: times native float64",
        ("tile", "cell", "circuit", "vectors"),
        (*present, "error f64", "error f32", "iterations", "peak MB"),
    )
    for size, of_size in groupby(rows, lambda row: row.size):
        for key, group in groupby(of_size, lambda row: (row.cell, row.circuit)):
            mine = list(group)
            for vectors in sorted({row.vectors for row in mine}):
                line = {row.contender: row for row in mine if row.vectors == vectors}
                native, single = line["native float64"], line.get("native float32")
                table.add_row(
                    f"{size}x{size}",
                    *key,
                    str(vectors),
                    *(_time(line.get(name)) for name in present),
                    format_number(native.error, ".1e"),
                    format_number(single.error if single else None, ".1e"),
                    format_number(native.iterations, ".1f"),
                    format_number(native.peak_bytes, ".0f", 1e-6),
                )
        table.add_section()
    table.caption = "\n".join(escape(_failure(row)) for row in rows if row.failure is not None)
    return table


def _time(row: Row | None) -> str:
    if row is None:
        return "-"
    if row.failure is not None:
        return "[red]failed[/red]"
    ratio = "" if row.ratio is None or row.contender == "native float64" else f" ({row.ratio:.3g})"
    return f"{format_number(row.seconds_per_vector, '.3g', 1e3)}{ratio}"


def _failure(row: Row) -> str:
    return f"{row.contender}, {row.size}x{row.size} {row.cell} {row.circuit}, {row.vectors} vectors: {row.failure}"


def _responses(report: SolverReport) -> Table:
    beside = any(row.error is not None for row in report.responses)
    table = make_plain_table(
        "Effective conductance: time per tile in ms, nominal circuit",
        ("tile",),
        ("tiles", "threads", "native", *(("SuperLU", "error") if beside else ())),
    )
    for row in report.responses:
        rival = (format_number(row.superlu_seconds_per_tile, ".3g", 1e3), format_number(row.error, ".1e"))
        table.add_row(
            f"{row.size}x{row.size}",
            str(row.tiles),
            str(row.threads),
            format_number(row.seconds_per_tile, ".3g", 1e3),
            *(rival if beside else ()),
        )
    return table


def _backward(report: SolverReport) -> Table:
    table = make_plain_table(
        "Gradient in voltages and conductances: time per vector in ms",
        ("tile", "cell", "circuit"),
        ("vectors", "forward", "backward", "ratio"),
    )
    for row in report.backward:
        table.add_row(
            f"{row.size}x{row.size}",
            row.cell,
            row.circuit,
            str(row.vectors),
            format_number(row.forward_seconds, ".3g", 1e3 / row.vectors),
            format_number(row.backward_seconds, ".3g", 1e3 / row.vectors),
            "[red]failed[/red]" if row.failure else format_number(row.ratio, ".2f"),
        )
    return table


def _growth(report: SolverReport) -> Table:
    table = make_plain_table(
        "Native float64: time per vector grows as a power of the size",
        ("cell", "circuit"),
        ("vectors", "threads", "sizes", "power"),
    )
    for row in report.growth:
        sizes = f"{row.sizes[0]} to {row.sizes[-1]}"
        table.add_row(row.cell, row.circuit, str(row.vectors), str(row.threads), sizes, f"{row.exponent:.2f}")
    return table


def _accuracy(report: SolverReport) -> Table:
    table = make_plain_table(
        "Random arrays of all kinds: native float64 at its default tolerance",
        ("oracle",),
        ("sizes", "arrays", "worst", "median", "not solved", "oracle failed", "SuperLU against oracle"),
    )
    notes = []
    for c in report.accuracy:
        table.add_row(
            c.oracle,
            f"{c.sizes[0]} to {c.sizes[1]}",
            str(c.arrays),
            format_number(c.worst, ".1e"),
            format_number(c.median, ".1e"),
            str(len(c.failures)),
            str(len(c.oracle_failures)),
            format_number(c.oracles_apart, ".1e"),
        )
        notes += [f"worst array against {c.oracle}: {c.worst_array}"] if c.worst_array else []
        notes += [f"not solved: {failure}" for failure in c.failures]
        notes += [f"{c.oracle} failed: {failure}" for failure in c.oracle_failures]
    table.caption = "\n".join(map(escape, notes))
    return table
