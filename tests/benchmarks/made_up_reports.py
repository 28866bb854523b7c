"""Reports of inference benchmarks with made-up figures."""

from __future__ import annotations

import dataclasses

from geniex.bench.inference_report import InferenceReport, InferenceRow, InferenceSettings


def make_row(emulator: str, milliseconds: float, **changes: object) -> InferenceRow:
    """A convolution's row with the given time of a read, and with ``changes``; other figures are None."""
    figures = dict.fromkeys([f.name for f in dataclasses.fields(InferenceRow)])
    setting = {"workload": "conv", "batch": 1, "tile": 64, "bits": 16, "slice_bits": 4, "stream_bits": 4}
    rest = {"signed": True, "emulator": emulator, "read_seconds": 1e-3 * milliseconds, "threads": 1}
    return InferenceRow(**(figures | setting | rest | changes))  # type: ignore[arg-type]


def make_report(settings: InferenceSettings, *rows: InferenceRow) -> InferenceReport:
    """A report of ``rows`` on a made-up machine."""
    return InferenceReport(settings, {"processor": "P", "versions": {"torch": "T"}}, (), (), rows)
