"""What ``geniex bench surrogate`` measures and what it found."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from geniex.study.bench.bars import Bar

IDEAL, LINEAR, DISTANCE, AFFINE = "ideal", "linear", "DMR", "alpha-beta"
FACTORED, CONCATENATED = "GENIEx MLP, factored", "GENIEx MLP, concatenated"
CIRCUIT = "exact circuit"
FAST, PHYSICS = "physics-fast", "physics"

_BAR_SIZE, _BAR_BITS = 64, 4
"""Tile and streams that the bars are for."""
_OVER_CONCATENATED = 20.0
_PHYSICS_MICROSECONDS = 14.0
_NF_RMSE_PP = {PHYSICS: 0.005, FAST: 0.05}
_P999_PERCENT = {PHYSICS: 0.05}


@dataclass(frozen=True)
class SurrogateSettings:
    """What one run measures."""

    sizes: tuple[int, ...] = (32, 64, 128)
    """Rows and columns of the tiles."""
    stream_bits: tuple[int, ...] = (1, 4)
    """Bits of the input streams; cells have 4 bits."""
    tiles: int = 16
    """Tiles that are programmed together and fed by the same vectors, as the arrays of one layer are."""
    vectors: int = 4096
    """Input vectors of each tile in a timed round; slow models are given fewer."""
    chunk: int = 128
    """Vectors in one read."""
    witnesses: int = 32
    """Vectors of each tile whose currents are compared with the exact circuit's."""
    repeats: int = 5
    """Rounds, in which the models take turns."""
    patience: float = 4.0
    """Seconds of a model after which it is given no further round."""
    memory: bool = True
    """Whether peak memory is measured, each in a process of its own."""
    surrogates: tuple[str, ...] = ()
    """Names or paths that take part beside, or before, those that ship."""
    seed: int = 0
    """Of all draws."""

    def quick(self) -> SurrogateSettings:
        """The run that ends within half a minute."""
        return replace(
            self,
            sizes=tuple(n for n in self.sizes if n <= _BAR_SIZE),
            vectors=min(self.vectors, 1024),
            witnesses=min(self.witnesses, 8),
            repeats=min(self.repeats, 3),
            patience=0.5,
            memory=False,
        )


@dataclass(frozen=True)
class SurrogateRow:
    """One model on tiles of one size, with streams of one width."""

    size: int
    stream_bits: int
    model: str
    dtype: str
    reads: int
    """Tile-vectors a round: a slow model is not given them all."""
    seconds_per_read: float | None
    """A tile and vector, read from programmed arrays."""
    runs: int
    """Timed rounds, of whose times this is the median."""
    over_ideal: float | None
    """That over the ideal product's, in the same rounds."""
    over_mlp: float | None
    """That over the factored GENIEx MLP's."""
    program_seconds: float | None
    """A tile."""
    amortised_reads: int | None
    """Vectors a tile from which on programming and reading cost less than solving the circuit; None: never."""
    nf_rmse_pp: float | None
    """Against the exact circuit; None for random weights."""
    relative_p999: float | None
    """99.9th percentile of the relative current error; None for random weights."""
    peak_bytes: int | None
    """What a process grows by at most while it programs and reads; None where that was not measured."""
    note: str
    failure: str | None


def amortised_reads(program: float | None, read: float | None, exact: float | None) -> int | None:
    """The fewest reads of a tile for which ``program + n read <= n exact``, all in seconds; None where none do.

    >>> amortised_reads(10e-3, 1e-6, 501e-6)
    20
    """
    if program is None or read is None or exact is None or read >= exact:
        return None
    return math.ceil(round(program / (exact - read), 6))


@dataclass(frozen=True)
class SurrogateReport:
    """Everything that one run found."""

    settings: SurrogateSettings
    machine: dict[str, Any]
    notes: tuple[str, ...]
    """What was left out, and why."""
    rows: tuple[SurrogateRow, ...]

    @property
    def bars(self) -> tuple[Bar, ...]:
        """The project's bars beside these figures."""
        mine = [row for row in self.rows if (row.size, row.stream_bits) == (_BAR_SIZE, _BAR_BITS)]
        return (*_costs(mine), *_errors(mine))

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        out = {"format": "geniex-bench-surrogate", "schema_version": 1} | asdict(self)
        return out | {"bars": [bar.to_dict() for bar in self.bars]}


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
