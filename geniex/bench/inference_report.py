"""The settings and the report of ``geniex bench inference``."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import groupby
from typing import Any, NamedTuple

from geniex.bench.bars import Bar
from geniex.bench.inference_cases import WORKLOADS, Case, Network, Workload, all_cases, base_size
from geniex.bench.inference_models import EMULATORS, LOSSLESS, MLP
from geniex.bench.roofline import Limits
from geniex.bench.surrogate_report import FAST, IDEAL, PHYSICS
from geniex.bench.timing import growth

_LAYER = {"workload": "conv", "batch": 1, "tile": 64, "bits": 16, "slice_bits": 4, "stream_bits": 4, "signed": True}
"""Setting of the layer bars."""
_MS = {IDEAL: 40.0, FAST: 250.0, MLP: 300.0, PHYSICS: 2200.0}
"""Milliseconds of a read of that layer with two passes, by emulator; the bars for one pass are half of these."""
_LOSSLESS_MS = 10.0
_ONE_BIT_MS = (("ideal", 16, 130.0), (FAST, 8, 200.0))
"""(emulator, bits, milliseconds) of a read of that layer with 2-bit slices and 1-bit streams."""
_NETWORK = _LAYER | {"workload": "resnet18", "bits": 8, "signed": False}
_NETWORK_THREADS = 2
_PROGRAM_SECONDS, _READ_SECONDS, _PEAK_GB = 60.0, 10.0, 4.0


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
            sizes=(base_size(self.sizes),),
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
        return list(dict.fromkeys(all_cases(self.workloads, self.sizes, self.slices, self.narrow, self.signs)))

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
    """Time of a read that is limited by these operations or bytes alone."""
    error: float | None
    """RMS difference from the float module's outputs over their RMS: fixed point, ADC and crossbar together."""
    note: str
    failure: str | None


class Elsewhere(NamedTuple):
    """The time of another simulator for a 64->64 3x3 convolution on one 16x16 map."""

    simulator: str
    setting: str
    seconds: float
    over_torch: float | None
    """Ratio to the time of torch's float layer on the same machine."""
    source: str


_SOURCE = "measured by this project before, on one core; ratios to torch's float layer on the same machine"
_GENIEX = "GENIEx authors' functional simulator"
ELSEWHERE = (
    Elsewhere(_GENIEX, "ideal, 16-bit, 4/4, signed", 2.4, 2280, _SOURCE),
    Elsewhere(_GENIEX, "GENIEx network, 16-bit, 4/4, signed, 14-bit ADC", 17.8, 17200, _SOURCE),
    Elsewhere(_GENIEX, "ideal, 16-bit, 2/1, signed", 8.8, None, _SOURCE),
    Elsewhere("CrossSim 3.2", "no wires, 16-bit, 2/1", 0.21, 212, _SOURCE),
    Elsewhere("CrossSim 3.2", "with wires, 8-bit, 2/1", 97.0, 94000, _SOURCE),
)
"""Times of other simulators."""


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

    @property
    def bars(self) -> tuple[Bar, ...]:
        """The project's bars beside these figures; they apply to a CPU."""
        rows = self.rows if self.settings.device == "cpu" else ()
        return (*_layer_bars(rows), *_network_bars(rows))

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
            "elsewhere": [figure._asdict() for figure in ELSEWHERE],
        }


def _layer_bars(rows: Sequence[InferenceRow]) -> Iterator[Bar]:
    for emulator, limit in _MS.items():
        yield _milliseconds(rows, emulator, limit, "signed")
    for emulator, limit in _MS.items():
        yield _milliseconds(rows, emulator, limit / 2, ">= 0", signed=False)
    yield _milliseconds(rows, LOSSLESS, _LOSSLESS_MS, "signed")
    for emulator, bits, limit in _ONE_BIT_MS:
        yield _milliseconds(rows, emulator, limit, "signed", bits=bits, slice_bits=2, stream_bits=1)


def _milliseconds(rows: Sequence[InferenceRow], emulator: str, limit: float, sign: str, **changes: Any) -> Bar:
    setting = _LAYER | {"emulator": emulator} | changes
    row = _found(rows, setting)
    numbers = f"{setting['bits']}-bit {setting['slice_bits']}/{setting['stream_bits']}"
    seconds = None if row is None else row.read_seconds
    name = f"{WORKLOADS['conv']}, {numbers}, {sign}: {emulator}"
    partial = "" if row is None or row.threads == 1 else f"{row.threads} threads"
    return Bar(name, "ms", limit, None if seconds is None else 1e3 * seconds, partial=partial)


def _network_bars(rows: Sequence[InferenceRow]) -> Iterator[Bar]:
    row = _found(rows, _NETWORK | {"emulator": FAST})
    partial = "" if row is None or row.threads <= _NETWORK_THREADS else f"{row.threads} threads"
    figures: tuple[tuple[str, str, float, Callable[[InferenceRow], float | None]], ...] = (
        ("program, two cores", "s", _PROGRAM_SECONDS, lambda row: row.program_seconds),
        ("read an image, two cores", "s", _READ_SECONDS, lambda row: row.read_seconds),
        ("peak memory", "GB", _PEAK_GB, lambda row: None if row.peak_bytes is None else 1e-9 * row.peak_bytes),
    )
    for name, unit, limit, figure in figures:
        measured = None if row is None else figure(row)
        yield Bar(f"{WORKLOADS['resnet18']}, 8-bit 4/4: {FAST} {name}", unit, limit, measured, partial=partial)


def _found(rows: Sequence[InferenceRow], setting: dict[str, Any]) -> InferenceRow | None:
    return next((row for row in rows if all(getattr(row, name) == value for name, value in setting.items())), None)


def _growth(rows: Sequence[InferenceRow], along: str) -> Iterator[Growth]:
    """Fits over rows that differ in ``along`` alone, for each set of several such rows."""
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
            yield Growth(workload, emulator, along, values, seconds, growth(values, seconds))
