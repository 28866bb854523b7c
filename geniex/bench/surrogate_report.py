"""The settings and the report of ``geniex bench surrogate``."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, replace
from typing import Any

from geniex.bench.additions import Bar

IDEAL, LINEAR, DISTANCE, AFFINE = "ideal", "linear", "DMR", "alpha-beta"
FACTORED, CONCATENATED = "GENIEx MLP, factored", "GENIEx MLP, concatenated"
CIRCUIT = "exact circuit"
FAST, PHYSICS = "physics-fast", "physics"

_QUICK_SIZE = 64
"""Largest tile of a quick run."""


@dataclass(frozen=True)
class SurrogateSettings:
    """The settings of one run."""

    sizes: tuple[int, ...] = (32, 64, 128)
    """Rows and columns of the tiles."""
    stream_bits: tuple[int, ...] = (1, 4)
    """Bits of the input streams; cells have 4 bits."""
    tiles: int = 16
    """Tiles that are programmed together and fed by the same vectors, like the arrays of one layer."""
    vectors: int = 4096
    """Input vectors of each tile in a timed round; slow models are given fewer."""
    chunk: int = 128
    """Vectors in one read."""
    witnesses: int = 32
    """Vectors of each tile whose currents are compared with the exact circuit's."""
    repeats: int = 5
    """Rounds, in which the models take turns."""
    patience: float = 4.0
    """Seconds after which a model runs no further round."""
    memory: bool = True
    """Whether peak memory is measured; each measurement takes its own process."""
    surrogates: tuple[str, ...] = ()
    """Names or paths of further surrogates; they take precedence over shipped ones."""
    seed: int = 0
    """Seed of all draws."""

    def quick(self) -> SurrogateSettings:
        """The settings of a run that ends within half a minute."""
        return replace(
            self,
            sizes=tuple(n for n in self.sizes if n <= _QUICK_SIZE),
            vectors=min(self.vectors, 1024),
            witnesses=min(self.witnesses, 8),
            repeats=min(self.repeats, 3),
            patience=0.5,
            memory=False,
        )


@dataclass(frozen=True)
class SurrogateRow:
    """The figures of one model on tiles of one size, with streams of one width."""

    size: int
    stream_bits: int
    model: str
    dtype: str
    reads: int
    """Tile-vectors per round; a slow model is not given them all."""
    seconds_per_read: float | None
    """Median time per tile-vector, read from programmed arrays."""
    runs: int
    """Number of timed rounds."""
    over_ideal: float | None
    """Ratio of the read time to the ideal product's, in the same rounds."""
    over_mlp: float | None
    """Ratio of the read time to the factored GENIEx MLP's."""
    program_seconds: float | None
    """Median time of programming per tile."""
    amortised_reads: int | None
    """Vectors per tile from which programming and reading cost no more than solving the circuit; None for never."""
    nf_rmse_pp: float | None
    """NF-RMSE against the exact circuit, percent points; None for random weights."""
    relative_p999: float | None
    """99.9th percentile of the relative current error; None for random weights."""
    peak_bytes: int | None
    """Largest growth of a process while it programs and reads; None if not measured."""
    note: str
    failure: str | None


def count_amortised_reads(program: float | None, read: float | None, exact: float | None) -> int | None:
    """The smallest number n of reads of a tile with ``program + n read <= n exact``, all in seconds; None for never.

    >>> count_amortised_reads(10e-3, 1e-6, 501e-6)
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
    """Surrogates that were left out, with the reasons."""
    rows: tuple[SurrogateRow, ...]
    bars: tuple[Bar, ...] = ()
    """The project's bars beside these figures; empty without a checkout."""

    def to_dict(self) -> dict[str, Any]:
        """The report as JSON-ready plain values."""
        out = {"format": "geniex-bench-surrogate", "schema_version": 1} | asdict(self)
        return out | {"bars": [bar.to_dict() for bar in self.bars]}
