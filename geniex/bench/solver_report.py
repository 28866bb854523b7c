"""The settings and the report of ``geniex bench solver``."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any

from geniex.bench.additions import Bar, Campaign


@dataclass(frozen=True)
class SolverSettings:
    """The settings of one run."""

    sizes: tuple[int, ...] = (16, 32, 64, 128, 256)
    """Rows and columns of the timed tiles."""
    threads: tuple[int, ...] = (1,)
    """Torch threads of the timed runs; the bars, and rivals that use one core, are timed with the first number."""
    repeats: int = 5
    """Rounds of the timed runs."""
    patience: float = 1.5
    """Seconds after which a contender runs no further round."""
    ngspice: bool = True
    """Whether ngspice takes part."""
    ngspice_size: int = 64
    """Largest tile on which ngspice is timed."""
    ngspice_arrays: int = 110
    """Random arrays up to 32x32 compared with ngspice."""
    ngspice_large: int = 5
    """Random arrays of 64x64 compared with ngspice."""
    superlu_arrays: int = 200
    """Random arrays compared with SuperLU Newton."""
    superlu_size: int = 128
    """Largest size of the arrays compared with SuperLU Newton."""
    memory: bool = True
    """Whether peak memory is measured, which takes one more solution each."""
    seed: int = 0
    """Seed of all random arrays."""

    def quick(self) -> SolverSettings:
        """The settings of a run that ends within a minute."""
        return replace(
            self,
            sizes=tuple(n for n in self.sizes if n <= 64),
            threads=self.threads[:1],
            repeats=min(self.repeats, 2),
            patience=0.2,
            ngspice_size=32,
            ngspice_arrays=min(self.ngspice_arrays, 12),
            ngspice_large=0,
            superlu_arrays=min(self.superlu_arrays, 30),
            memory=False,
        )


@dataclass(frozen=True)
class Row:
    """The figures of one contender in one case."""

    size: int
    cell: str
    circuit: str
    vectors: int
    """Input vectors per tile in the case."""
    threads: int
    contender: str
    solved: int
    """Vectors that the contender was given; a slow rival does not solve them all."""
    seconds_per_vector: float | None
    """Median time per vector over the timed runs."""
    runs: int
    """Number of timed runs."""
    ratio: float | None
    """Ratio of the contender's time to that of native float64 in the same rounds."""
    error: float | None
    """Largest |dI_j| / max(|I_j|, 1e-3 max_j |I_j|) against ``reference``."""
    reference: str | None
    iterations: float | None
    """Mean iterations per vector; for the native solver with sinh cells, evaluations of each cell's law."""
    peak_bytes: int | None
    """Largest growth of the contender's process while it solved."""
    failure: str | None


@dataclass(frozen=True)
class ResponseRow:
    """The figures of ``effective_conductance`` on a batch of tiles of the nominal circuit."""

    size: int
    tiles: int
    threads: int
    seconds_per_tile: float | None
    superlu_seconds_per_tile: float | None
    """Time of SuperLU, with one factorisation and a solution for each row; None if it was not timed."""
    error: float | None
    """Error against SuperLU over some of the rows, defined as for column currents."""


@dataclass(frozen=True)
class BackwardRow:
    """The time of the gradient of all currents in voltages and conductances, beside that of the forward pass."""

    size: int
    cell: str
    circuit: str
    vectors: int
    threads: int
    forward_seconds: float | None
    backward_seconds: float | None
    failure: str | None

    @property
    def ratio(self) -> float | None:
        """The ratio of backward to forward time."""
        if self.forward_seconds is None or self.backward_seconds is None:
            return None
        return self.backward_seconds / self.forward_seconds


@dataclass(frozen=True)
class GrowthRow:
    """The growth of the native solver's time per vector with the size: seconds ~ size^exponent."""

    cell: str
    circuit: str
    vectors: int
    threads: int
    sizes: tuple[int, ...]
    exponent: float


@dataclass(frozen=True)
class SolverReport:
    """Everything that one run found."""

    settings: SolverSettings
    machine: dict[str, Any]
    notes: tuple[str, ...]
    """Measurements that were left out, with the reasons."""
    rows: tuple[Row, ...]
    responses: tuple[ResponseRow, ...]
    backward: tuple[BackwardRow, ...]
    growth: tuple[GrowthRow, ...]
    accuracy: tuple[Campaign, ...]
    """Errors on random arrays; empty without a checkout."""
    bars: tuple[Bar, ...] = ()
    """The project's bars beside these figures; empty without a checkout."""

    def to_dict(self) -> dict[str, Any]:
        """The report as JSON-ready plain values."""
        out = {"format": "geniex-bench-solver", "schema_version": 1} | asdict(self)
        out["backward"] = [asdict(row) | {"ratio": row.ratio} for row in self.backward]
        return out | {"bars": [bar.to_dict() for bar in self.bars]}
