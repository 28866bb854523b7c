"""The settings and the report of ``geniex bench inference``."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import groupby
from typing import Any

from geniex.bench.additions import Bar, Elsewhere
from geniex.bench.inference_cases import WORKLOADS, Case, Network, Workload, choose_base_size, list_cases
from geniex.bench.inference_models import EMULATORS
from geniex.bench.roofline import Limits
from geniex.bench.timing import fit_growth


@dataclass(frozen=True)
class InferenceSettings:
    """The settings of one run."""

    workloads: tuple[Workload, ...] = tuple(WORKLOADS.values())
    """Layers and networks to run."""
    emulators: tuple[str, ...] = EMULATORS
    """Names of the emulators."""
    sizes: tuple[int, ...] = (32, 64, 128)
    """Rows and columns of the tiles: everything is measured at 64 (or the first size), layers in one setting at all."""
    slices: tuple[tuple[int, int], ...] = ((4, 4), (2, 2), (2, 1), (1, 1))
    """(slice, stream) bits of layers with 16-bit weights and inputs; the first pair is used in all other settings."""
    narrow: tuple[tuple[int, int], ...] = ((4, 4), (2, 1))
    """(slice, stream) bits of layers with 8-bit weights and inputs."""
    signs: tuple[bool, ...] = (True, False)
    """Signedness of layer inputs: all of these are run at the first slices, the first one in all other settings."""
    threads: tuple[int, int] = (1, 2)
    """Torch threads for layers, and for networks."""
    device: str = "cpu"
    """Device on which everything is computed."""
    repeats: int = 5
    """Rounds, in which torch's float module, programming and reading take turns."""
    patience: float = 4.0
    """Seconds of programming, or of reading, after which no further round is run."""
    memory: bool = True
    """Whether peak memory is measured; on a CPU each measurement takes its own process."""
    seed: int = 0
    """Seed of random weights and inputs."""

    def quick(self) -> InferenceSettings:
        """The settings of a run that ends within half a minute."""
        return replace(
            self,
            workloads=tuple(replace(w, batches=w.batches[:1]) for w in self.workloads if w.name != "resnet18"),
            sizes=(choose_base_size(self.sizes),),
            slices=self.slices[:1],
            narrow=(),
            signs=self.signs[:1],
            threads=self.threads[:1] * 2,
            repeats=min(self.repeats, 2),
            patience=0.2,
            memory=False,
        )

    def cases(self) -> list[Case]:
        """All cases in order, workload by workload."""
        return list(dict.fromkeys(list_cases(self.workloads, self.sizes, self.slices, self.narrow, self.signs)))

    def threads_of(self, case: Case) -> int:
        """The number of torch threads for a case."""
        return self.threads[isinstance(case.workload, Network)]


@dataclass(frozen=True)
class InferenceRow:
    """The figures of one emulator in one case."""

    workload: str
    """Name of the workload."""
    batch: int
    tile: int
    bits: int
    """Bits of weights and inputs."""
    slice_bits: int
    stream_bits: int
    signed: bool
    """Whether the workload's inputs are signed; inside a network the layers decide the signs."""
    emulator: str
    adc: str
    """ADC bits, and how the current of level 0 is removed before the ADC."""
    architecture: dict[str, Any]
    """Whole architecture."""
    dtype: str
    """Data type of conductances, voltages and currents."""
    threads: int
    tiles: int
    """Number of arrays, positive and negative."""
    vectors: int
    """Input vectors of all products in one read."""
    tile_vectors: int
    """Arrays times voltage vectors in one read."""
    program_seconds: float | None
    """Time of calibration on the inputs of the read, slicing and programming."""
    program_runs: int
    read_seconds: float | None
    """Time of a read of the whole batch; for the exact circuit it is scaled up from a share of the vectors."""
    read_runs: int
    torch_seconds: float | None
    """Time of the float module, in the same rounds."""
    over_torch: float | None
    tile_vectors_per_second: float | None
    peak_bytes: int | None
    """Largest growth of memory during programming and reading; None if not measured."""
    flops_per_tile_vector: float | None
    """Operations of the least matrix products; None for the exact circuit, which iterates."""
    bytes_per_tile_vector: float | None
    """Bytes of the least traffic: arrays, drives and currents once per read."""
    limit_seconds: float | None
    """Time of a read that is limited by these operations or bytes only."""
    error: float | None
    """RMS difference from the float module's outputs over their RMS: fixed point, ADC and crossbar together."""
    note: str
    failure: str | None


@dataclass(frozen=True)
class Growth:
    """The growth of one emulator's read time with the batch or the tile, all else equal."""

    workload: str
    emulator: str
    along: str
    """Quantity that grows: "batch" or "tile"."""
    values: tuple[int, ...]
    read_seconds: tuple[float, ...]
    exponent: float
    """Exponent p of the fit seconds ~ value^p."""


@dataclass(frozen=True)
class InferenceReport:
    """Everything that one run found."""

    settings: InferenceSettings
    machine: dict[str, Any]
    limits: tuple[Limits, ...]
    """Limits of the device, one for each number of threads."""
    notes: tuple[str, ...]
    """Measurements that were left out, with the reasons."""
    rows: tuple[InferenceRow, ...]
    elsewhere: tuple[Elsewhere, ...] = ()
    """Times of other simulators; empty without a checkout."""
    bars: tuple[Bar, ...] = ()
    """The project's bars beside these figures; empty without a checkout."""

    @property
    def growth(self) -> tuple[Growth, ...]:
        """The growth of the read times with the batch and with the tile."""
        return (*_growth(self.rows, "batch"), *_growth(self.rows, "tile"))

    def to_dict(self) -> dict[str, Any]:
        """The report as JSON-ready plain values."""
        out = {"format": "geniex-bench-inference", "schema_version": 1} | asdict(self)
        return out | {
            "growth": [asdict(line) for line in self.growth],
            "bars": [bar.to_dict() for bar in self.bars],
            "elsewhere": [figure._asdict() for figure in self.elsewhere],
        }


def _growth(rows: Sequence[InferenceRow], along: str) -> Iterator[Growth]:
    """Growth exponents over rows that differ only in ``along``, for each set of several such rows."""
    fields = ["workload", "emulator", "batch", "tile", "bits", "slice_bits", "stream_bits", "signed"]
    fields.remove(along)

    def rest(row: InferenceRow) -> tuple[Any, ...]:
        return tuple(getattr(row, name) for name in fields)

    def key(row: InferenceRow) -> tuple[Any, ...]:
        return (*rest(row), getattr(row, along))

    timed = [row for row in rows if row.read_seconds is not None]
    for (workload, emulator, *_), group in groupby(sorted(timed, key=key), rest):
        points = {getattr(row, along): row.read_seconds for row in group}
        if len(points) > 1:
            values, seconds = tuple(points), tuple(s for s in points.values() if s is not None)
            yield Growth(workload, emulator, along, values, seconds, fit_growth(values, seconds))
