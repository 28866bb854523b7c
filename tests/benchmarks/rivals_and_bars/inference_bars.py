"""The bars of ``geniex bench inference``: limits for one layer on one core, and for a network on two."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from geniex.bench.additions import Bar
from geniex.bench.inference_cases import WORKLOADS
from geniex.bench.inference_models import LOSSLESS, MLP
from geniex.bench.inference_report import InferenceReport, InferenceRow
from geniex.bench.surrogate_report import FAST, IDEAL, PHYSICS

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


def inference_bars(report: InferenceReport) -> tuple[Bar, ...]:
    """The bars beside the report's figures; they apply to a CPU."""
    rows = report.rows if report.settings.device == "cpu" else ()
    return (*_layer_bars(rows), *_network_bars(rows))


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
