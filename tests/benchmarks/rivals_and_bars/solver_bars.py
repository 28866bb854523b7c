"""The bars of ``geniex bench solver``: limits that its figures have to meet, beside the measured figures."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, TypeVar

from geniex.bench.additions import Bar, Campaign
from geniex.bench.solver_report import BackwardRow, GrowthRow, ResponseRow, Row, SolverReport

T = TypeVar("T")

_ERROR = 1e-9
"""Relative error of a column current, in float64."""
_MS_64 = {"easy": 0.7, "hard": 1.5, "hard 2 V": 5.0}
"""Milliseconds per vector by circuit: 64x64 sinh cells, 100 vectors per tile."""
_MS_128 = 5.0
"""Milliseconds per vector at 128x128 in the nominal circuit, 100 vectors per tile."""
_FASTER = {"SuperLU": 100.0, "ngspice": 5000.0}
"""Speed-up over each rival: 64x64 sinh cells, 100 vectors per tile."""
_GROWTH = 3.0
"""Exponent with which the time grows with the size."""
_GROWTH_SIZES = (32, 256)
"""Smallest and largest size in the fit of the exponent."""
_RESPONSE_MS = {64: 8.0, 128: 80.0}
"""Milliseconds per tile for ``effective_conductance``, by size."""
_BACKWARD = 2.0
"""Ratio of backward to forward time."""
_CAMPAIGNS = {("ngspice", 32): 100, ("ngspice", 64): 5, ("SuperLU", 128): 200}
"""Number of arrays that have to be compared, by oracle and largest size."""


def solver_bars(report: SolverReport) -> tuple[Bar, ...]:
    """The bars of the native solver; bars on time are for the first number of threads."""
    threads = report.settings.threads[0]
    rows = [row for row in report.rows if row.threads == threads]
    return (
        *_accuracy(report.accuracy),
        *_rows(rows),
        *_growth([row for row in report.growth if row.threads == threads]),
        *_responses([row for row in report.responses if row.threads == threads]),
        *_backward(report.backward),
    )


def _accuracy(campaigns: Sequence[Campaign]) -> Iterator[Bar]:
    for (oracle, size), needed in _CAMPAIGNS.items():
        found = next((c for c in campaigns if (c.oracle, c.up_to) == (oracle, size)), None)
        worst, where = (found.worst, found.worst_array or "") if found else (None, "")
        count = found.arrays if found else 0
        partial = "" if count >= needed else f"{count} of {needed} arrays"
        yield Bar(f"error against {oracle}, random to {size}x{size}", "", _ERROR, worst, where=where, partial=partial)
    unsolved = [failure for c in campaigns for failure in c.failures]
    yield Bar("random arrays not solved", "arrays", 0, len(unsolved) if campaigns else None, where="; ".join(unsolved))


def _rows(rows: Sequence[Row]) -> Iterator[Bar]:
    native = [row for row in rows if row.contender == "native float64"]
    failed = [f"{_case(row)}, {row.vectors} vectors: {row.failure}" for row in native if row.failure is not None]
    yield Bar("timed cases not solved", "cases", 0, len(failed) if native else None, where="; ".join(failed))
    worst, where = _worst(native, lambda row: row.error, _case)
    yield Bar("error of the timed cases", "", _ERROR, worst, where=where)
    for circuit, limit in _MS_64.items():
        yield Bar(f"64x64 sinh {circuit}, 100 vectors", "ms/vector", limit, _milliseconds(native, 64, circuit))
    yield Bar("128x128 sinh easy, 100 vectors", "ms/vector", _MS_128, _milliseconds(native, 128, "easy"))
    for rival, limit in _FASTER.items():
        key = (64, "sinh", 100, rival)
        ratios = [row for row in rows if (row.size, row.cell, row.vectors, row.contender) == key]
        least, where = _worst(ratios, lambda row: row.ratio, _case, min)
        yield Bar(f"faster than {rival}, 64x64 sinh, 100 vectors", "times", limit, least, True, where)


def _growth(rows: Sequence[GrowthRow]) -> Iterator[Bar]:
    many = [row for row in rows if (row.cell, row.vectors) == ("sinh", 100)]
    worst, where = _worst(many, lambda row: row.exponent, lambda row: row.circuit)
    sizes = many[0].sizes if many else _GROWTH_SIZES
    partial = "" if (sizes[0], sizes[-1]) == _GROWTH_SIZES else f"sizes {sizes[0]} to {sizes[-1]}"
    name = "sinh, 100 vectors: time grows as size to the power"
    yield Bar(name, "", _GROWTH, worst, where=where, partial=partial)


def _responses(rows: Sequence[ResponseRow]) -> Iterator[Bar]:
    for size, limit in _RESPONSE_MS.items():
        seconds = next((row.seconds_per_tile for row in rows if row.size == size), None)
        name = f"effective conductance, {size}x{size}, in batches"
        yield Bar(name, "ms/tile", limit, None if seconds is None else 1e3 * seconds)


def _backward(rows: Sequence[BackwardRow]) -> Iterator[Bar]:
    worst, where = _worst(rows, lambda row: row.ratio, _case)
    yield Bar("backward pass over forward pass", "times", _BACKWARD, worst, where=where)


def _case(row: Row | BackwardRow) -> str:
    return f"{row.size}x{row.size} {row.cell} {row.circuit}"


def _milliseconds(rows: Iterable[Row], size: int, circuit: str) -> float | None:
    key = (size, "sinh", circuit, 100)
    found = [row.seconds_per_vector for row in rows if (row.size, row.cell, row.circuit, row.vectors) == key]
    return 1e3 * found[0] if found and found[0] is not None else None


def _worst(
    items: Iterable[T],
    figure: Callable[[T], float | None],
    name: Callable[[T], str],
    pick: Callable[..., Any] = max,
) -> tuple[float | None, str]:
    """The worst figure and the name of its item."""
    figures = [(value, name(item)) for item in items if (value := figure(item)) is not None]
    return pick(figures, key=lambda pair: pair[0]) if figures else (None, "")
