"""``geniex bench``: geniex beside its rivals, timed and checked in one run."""

from __future__ import annotations

import json as json_module
import time
from collections.abc import Iterable, Sequence
from itertools import groupby
from pathlib import Path
from typing import Literal

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from geniex.config import check_positive_int
from geniex.errors import InputError
from geniex.study.bench.bars import Bar
from geniex.study.bench.report import Row, Settings, SolverReport
from geniex.study.bench.solver import bench_solver
from geniex.study.bench.timing import cores

_CONTENDERS = ("native float64", "native float32", "SuperLU", "badcrossbar", "ngspice")


def bench(
    what: Literal["solver"],
    sizes: list[int] | None = None,
    threads: list[int] | None = None,
    quick: bool = False,
    repeats: int = 5,
    ngspice: bool = True,
    ngspice_arrays: int = 100,
    superlu_arrays: int = 200,
    memory: bool = True,
    seed: int = 0,
    json: Path | None = None,
) -> None:
    """Time and check geniex beside its rivals; each figure is printed beside the project's bar for it.

    Args:
        what: "solver" is the exact circuit solver beside SuperLU Newton, badcrossbar and ngspice.
        sizes: rows and columns of the tiles; default: [16,32,64,128,256], about a quarter of an hour.
        threads: torch threads, for each of which all is timed; rivals on one core only with the first;
            default: one, and all cores.
        quick: tiles up to 64x64, one thread, few repeats and random arrays: within a minute.
        repeats: timed rounds, in which the contenders take turns; slow ones run fewer.
        ngspice: whether ngspice takes part.
        ngspice_arrays: random arrays up to 32x32 compared with ngspice; five of 64x64 come on top.
        superlu_arrays: random arrays up to 128x128 compared with SuperLU Newton.
        memory: whether to measure peak memory, each in a process of its own.
        seed: of all random arrays.
        json: file for the machine-readable report.
    """
    for name, values in (("sizes", sizes or []), ("threads", threads or []), ("repeats", [repeats])):
        for value in values:
            check_positive_int(name, value)
    for name, count in (("ngspice_arrays", ngspice_arrays), ("superlu_arrays", superlu_arrays)):
        if count < 0:
            raise InputError(name, count, "it must be at least 0")
    settings = Settings(
        sizes=tuple(sorted(set(sizes or Settings.sizes))),
        threads=tuple(dict.fromkeys(threads or (1, cores()))),
        repeats=repeats,
        ngspice=ngspice,
        ngspice_arrays=ngspice_arrays,
        superlu_arrays=superlu_arrays,
        memory=memory,
        seed=seed,
    )
    began = time.perf_counter()
    progress = Console(stderr=True)
    with progress.status("") as status:

        def say(text: str) -> None:
            status.update(escape(text))
            if not progress.is_terminal:
                progress.print(f"{time.perf_counter() - began:4.0f} s  {text}", highlight=False, markup=False)

        report = bench_solver(settings.quick() if quick else settings, say)
    console = Console()
    for table in _tables(report):
        console.print(table)
    for note in report.notes:
        console.print(f"Note: {note}", highlight=False, markup=False)
    console.print(f"{time.perf_counter() - began:.0f} s on {_machine(report)}", highlight=False, markup=False)
    if json is not None:
        json.write_text(json_module.dumps(report.to_dict(), indent=1) + "\n")


def _tables(report: SolverReport) -> Iterable[Table]:
    for threads in report.settings.threads:
        yield _times([row for row in report.rows if row.threads == threads], threads)
    yield _responses(report)
    yield _backward(report)
    yield _growth(report)
    yield _accuracy(report)
    yield _bars(report.bars)


def _times(rows: Sequence[Row], threads: int) -> Table:
    present = [name for name in _CONTENDERS if any(row.contender == name for row in rows)]
    table = _table(
        f"Time a vector in ms, {threads} thread{'s' if threads > 1 else ''}; in parentheses: times native float64",
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
                    _number(native.error, ".1e"),
                    _number(single.error if single else None, ".1e"),
                    _number(native.iterations, ".1f"),
                    _number(native.peak_bytes, ".0f", 1e-6),
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
    return f"{_number(row.seconds_per_vector, '.3g', 1e3)}{ratio}"


def _failure(row: Row) -> str:
    return f"{row.contender}, {row.size}x{row.size} {row.cell} {row.circuit}, {row.vectors} vectors: {row.failure}"


def _responses(report: SolverReport) -> Table:
    table = _table(
        "Effective conductance: time a tile in ms, nominal circuit",
        ("tile",),
        ("tiles", "threads", "native", "SuperLU", "error"),
    )
    for row in report.responses:
        table.add_row(
            f"{row.size}x{row.size}",
            str(row.tiles),
            str(row.threads),
            _number(row.seconds_per_tile, ".3g", 1e3),
            _number(row.superlu_seconds_per_tile, ".3g", 1e3),
            _number(row.error, ".1e"),
        )
    return table


def _backward(report: SolverReport) -> Table:
    table = _table(
        "Gradient in voltages and conductances: time a vector in ms",
        ("tile", "cell", "circuit"),
        ("vectors", "forward", "backward", "ratio"),
    )
    for row in report.backward:
        table.add_row(
            f"{row.size}x{row.size}",
            row.cell,
            row.circuit,
            str(row.vectors),
            _number(row.forward_seconds, ".3g", 1e3 / row.vectors),
            _number(row.backward_seconds, ".3g", 1e3 / row.vectors),
            "[red]failed[/red]" if row.failure else _number(row.ratio, ".2f"),
        )
    return table


def _growth(report: SolverReport) -> Table:
    table = _table(
        "Native float64: time a vector grows as size to the power",
        ("cell", "circuit"),
        ("vectors", "threads", "sizes", "power"),
    )
    for row in report.growth:
        sizes = f"{row.sizes[0]} to {row.sizes[-1]}"
        table.add_row(row.cell, row.circuit, str(row.vectors), str(row.threads), sizes, f"{row.exponent:.2f}")
    return table


def _accuracy(report: SolverReport) -> Table:
    table = _table(
        "Random arrays of all kinds: native float64 at its default tolerance",
        ("oracle",),
        ("sizes", "arrays", "worst", "median", "not solved", "oracle failed", "SuperLU to oracle"),
    )
    notes = []
    for c in report.accuracy:
        table.add_row(
            c.oracle,
            f"{c.sizes[0]} to {c.sizes[1]}",
            str(c.arrays),
            _number(c.worst, ".1e"),
            _number(c.median, ".1e"),
            str(len(c.failures)),
            str(len(c.oracle_failures)),
            _number(c.oracles_apart, ".1e"),
        )
        notes += [f"worst against {c.oracle}: {c.worst_array}"] if c.worst_array else []
        notes += [f"not solved: {failure}" for failure in c.failures]
        notes += [f"{c.oracle} failed: {failure}" for failure in c.oracle_failures]
    table.caption = "\n".join(map(escape, notes))
    return table


def _bars(bars: Sequence[Bar]) -> Table:
    table = _table("The project's bars, on one core", ("figure",), ("measured", "bar", ""))
    table.add_column("worst case", ratio=1)
    for bar in bars:
        limit = f"{'>=' if bar.at_least else '<='} {bar.limit:g} {bar.unit}".rstrip()
        table.add_row(bar.figure, _number(bar.measured, ".3g"), limit, _verdict(bar), escape(_short(bar.where)))
    return table


def _verdict(bar: Bar) -> str:
    if bar.met is None:
        return f"[dim]{bar.partial if bar.measured is not None else 'not measured'}[/dim]"
    return "[green]met[/green]" if bar.met else "[bold red]missed[/bold red]"


def _table(title: str, left: Sequence[str], right: Sequence[str]) -> Table:
    table = Table(title=title, title_justify="left", caption_justify="left", box=SIMPLE_HEAD, pad_edge=False)
    for name in left:
        table.add_column(name)
    for name in right:
        table.add_column(name, justify="right", no_wrap=True)
    return table


def _number(value: float | None, spec: str, scale: float = 1.0) -> str:
    return "-" if value is None else format(scale * value, spec)


def _short(text: str, length: int = 80) -> str:
    return text if len(text) <= length else f"{text[: length - 3]}..."


def _machine(report: SolverReport) -> str:
    machine = report.machine
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
    load = machine["load_average"]
    busy = "" if load is None else f", load average {load[0]:.1f} before the run"
    return f"{machine['processor']}, {machine['cores']} cores{busy}; {versions}"
