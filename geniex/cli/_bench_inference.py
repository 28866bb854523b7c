"""The tables of ``geniex bench inference``."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from itertools import groupby
from statistics import median

from rich.markup import escape
from rich.table import Table

from geniex.bench.additions import Elsewhere
from geniex.bench.inference_cases import Workload
from geniex.bench.inference_report import Growth, InferenceReport, InferenceRow
from geniex.cli._tables import format_number, make_bars_table, make_plain_table

_STATED = (
    "window",
    "v_max",
    "weight_scheme",
    "input_scheme",
    "rounding",
    "adc_range",
    "adc_rounding",
    "accumulator_bits",
    "accumulator_frac_bits",
    "accumulator_overflow",
)
"""Fields of the architecture that are the same in all settings of a run; captions state them."""


def make_inference_tables(report: InferenceReport) -> Iterable[Table]:
    """The report's tables, one after another."""
    for workload in report.settings.workloads:
        rows = [row for row in report.rows if row.workload == workload.name]
        if rows:
            yield _costs(workload, rows, report)
    for along in ("batch", "tile"):
        lines = [line for line in report.growth if line.along == along]
        if lines:
            yield _growth(along, lines)
    if report.elsewhere:
        yield _elsewhere(report.elsewhere)
    if report.bars:
        yield make_bars_table(report.bars, "The project's bars, layers on one core")


def _costs(workload: Workload, rows: Sequence[InferenceRow], report: InferenceReport) -> Table:
    where = report.machine["device"] if report.settings.device != "cpu" else _threads(rows[0].threads)
    table = make_plain_table(
        f"{workload} on {where}, times in ms",
        ("batch", "tile", "bits", "w/x", "x", "emulator", "ADC"),
        ("read", "/ torch", "limit", "program", "tile-vec.", "/ s", "FLOPs", "bytes", "MB", "off"),
    )
    for _, group in groupby(rows, lambda row: tuple(_setting(row))):
        for row in group:
            table.add_row(*_setting(row), row.emulator, row.adc.partition(",")[0], *_figures(row))
        table.add_section()
    table.caption = "\n".join(map(escape, _notes(rows)))
    return table


def _setting(row: InferenceRow) -> Iterable[str]:
    numbers = f"{row.slice_bits}/{row.stream_bits}"
    return (str(row.batch), str(row.tile), str(row.bits), numbers, "+-" if row.signed else "+")


def _figures(row: InferenceRow) -> Iterable[str]:
    if row.failure is not None:
        return ("[red]failed[/red]",)
    return (
        _digits(row.read_seconds, 1e3),
        _digits(row.over_torch),
        _digits(row.limit_seconds, 1e3),
        _digits(row.program_seconds, 1e3),
        str(row.tile_vectors),
        format_number(row.tile_vectors_per_second, ".1e"),
        format_number(row.flops_per_tile_vector, ".0f"),
        format_number(row.bytes_per_tile_vector, ".0f"),
        format_number(row.peak_bytes, ".0f", 1e-6),
        "-" if row.error is None else f"{100 * row.error:.2g} %",
    )


def _digits(value: float | None, scale: float = 1.0) -> str:
    """Three significant digits, or all digits before the point from 100 on: neither needs an exponent."""
    return format_number(value, ".0f" if value is not None and scale * value >= 100 else ".3g", scale)


def _notes(rows: Sequence[InferenceRow]) -> Iterable[str]:
    yield (
        "w/x: bits of a slice and of a stream; x +-: signed inputs. A tile-vector is one array read with one stream."
        " FLOPs and bytes: the least that it needs. Limit: the time of a read that only these bound on this machine."
        " MB: peak memory. Off: RMS difference from the float module."
    )
    shared = ", ".join(f"{name} {_plain(rows[0].architecture[name])}" for name in _STATED)
    yield f"ADC: {'; '.join(dict.fromkeys(row.adc for row in rows))}. {shared}"
    times: dict[int, list[float]] = {}
    for row in rows:
        if row.torch_seconds is not None:
            times.setdefault(row.batch, []).append(row.torch_seconds)
    floats = (f"{format_number(median(found), '.3g', 1e3)} ms at batch {batch}" for batch, found in times.items())
    yield f"torch's float module: {', '.join(floats)}"
    yield from dict.fromkeys(f"{row.emulator}: {row.failure or row.note}" for row in rows if row.failure or row.note)


def _plain(value: object) -> str:
    if isinstance(value, dict):
        value = {key: entry for key, entry in value.items() if not key.startswith("_")}
    return json.dumps(value).replace('"', "")


def _growth(along: str, lines: Sequence[Growth]) -> Table:
    values = sorted({value for line in lines for value in line.values})
    table = make_plain_table(
        f"Read in ms, by {along}: time grows as a power of {along}",
        ("workload", "emulator"),
        (*(f"{along} {value}" for value in values), "power"),
    )
    for line in lines:
        seconds = dict(zip(line.values, line.read_seconds, strict=True))
        times = (_digits(seconds.get(value), 1e3) for value in values)
        table.add_row(line.workload, line.emulator, *times, f"{line.exponent:.2f}")
    return table


def _elsewhere(figures: Sequence[Elsewhere]) -> Table:
    table = make_plain_table(
        "Elsewhere, not measured in this run: Conv2d 64->64 3x3 on 16x16, batch 1",
        ("simulator", "setting"),
        ("read, ms", "/ torch"),
    )
    table.caption = "\n".join(dict.fromkeys(figure.source for figure in figures))
    for figure in figures:
        table.add_row(figure.simulator, figure.setting, _digits(figure.seconds, 1e3), _digits(figure.over_torch))
    return table


def _threads(count: int) -> str:
    return f"{count} thread{'s' if count > 1 else ''}"
