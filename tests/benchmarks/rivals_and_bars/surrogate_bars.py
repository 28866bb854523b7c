"""The bars of ``geniex bench surrogate``: limits for the reads of surrogates on 64x64 tiles with 4-bit streams."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from geniex.bench.additions import Bar
from geniex.bench.surrogate_report import CONCATENATED, FACTORED, FAST, PHYSICS, SurrogateReport, SurrogateRow

_SIZE, _BITS = 64, 4
"""Tile size and stream bits of the bars."""
_OVER_CONCATENATED = 20.0
_PHYSICS_MICROSECONDS = 14.0
_NF_RMSE_PP = {PHYSICS: 0.005, FAST: 0.05}
_P999_PERCENT = {PHYSICS: 0.05}


def surrogate_bars(report: SurrogateReport) -> tuple[Bar, ...]:
    """The bars beside the report's figures."""
    mine = [row for row in report.rows if (row.size, row.stream_bits) == (_SIZE, _BITS)]
    return (*_costs(mine), *_errors(mine))


def _costs(rows: Sequence[SurrogateRow]) -> Iterator[Bar]:
    fast, factored, concatenated, physics = (
        _figure(rows, model, lambda row: row.seconds_per_read) for model in (FAST, FACTORED, CONCATENATED, PHYSICS)
    )
    yield Bar(f"{FAST} read over factored GENIEx MLP", "times", 1.0, _ratio(fast, factored))
    over = _ratio(concatenated, fast)
    yield Bar(f"concatenated GENIEx MLP over {FAST} read", "times", _OVER_CONCATENATED, over, at_least=True)
    yield Bar(f"{PHYSICS} read", "us", _PHYSICS_MICROSECONDS, None if physics is None else 1e6 * physics)


def _errors(rows: Sequence[SurrogateRow]) -> Iterator[Bar]:
    for model, limit in _NF_RMSE_PP.items():
        yield Bar(f"{model} NF-RMSE", "pp", limit, _figure(rows, model, lambda row: row.nf_rmse_pp))
    for model, limit in _P999_PERCENT.items():
        tail = _figure(rows, model, lambda row: row.relative_p999)
        name = f"{model} relative current error, 99.9th percentile"
        yield Bar(name, "%", limit, None if tail is None else 100 * tail)


def _figure(rows: Sequence[SurrogateRow], model: str, figure: Callable[[SurrogateRow], float | None]) -> float | None:
    return next((figure(row) for row in rows if row.model == model), None)


def _ratio(a: float | None, b: float | None) -> float | None:
    return None if a is None or b is None else a / b
