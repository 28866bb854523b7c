"""What a conversion would take, before it is done."""

from __future__ import annotations

import time
from typing import Any, NamedTuple

import torch
from torch import nn

from geniex.emulator import Emulator
from geniex.mapping import Architecture, Layout
from geniex.simulator.batches import Data
from geniex.simulator.calibrate import counted
from geniex.simulator.convert import prepared, without_uncalled
from geniex.simulator.matrix import CrossbarMatrix
from geniex.simulator.plan import DigitalLayer
from geniex.simulator.programming import OwnEmulators, check_emulator, placeholder
from geniex.simulator.report import (
    ConversionReport,
    LayerReport,
    digital_report,
    planned_report,
    programmed_bytes,
    reads_per_vector,
)
from geniex.simulator.rules import PerLayer, Rules

_PROBED_TILES = 4


def dry_run(
    model: nn.Module,
    architecture: Architecture,
    emulator: Emulator,
    *,
    per_layer: PerLayer | None = None,
    example: Data | None = None,
    layout: Layout = "block_diagonal",
    fold: bool = False,
    dtype: torch.dtype = torch.float32,
) -> ConversionReport:
    """The report that ``convert`` would give, with nothing programmed but a few arrays.

    Memory and time are those arrays', times the number of arrays. ``model`` may be on the meta device.

    Args:
        model: any module.
        architecture: as ``convert`` takes it; so are ``per_layer``, ``layout``, ``fold``.
        emulator: the crossbar's physics.
        per_layer: exceptions.
        example: inputs as ``convert`` takes them for calibration, but no function; with them the report counts the
            vectors and reads of one example.
        layout: of convolutions; "sparse" needs the ``example``, or sizes by rule.
        fold: put batch norms into the convolutions before them.
        dtype: of conductances, voltages and currents.
    """
    check_emulator(emulator, architecture)
    copied, plan, folded = prepared(model, Rules(architecture, layout, per_layer), fold)
    vectors, examples = dict[int, int](), 0
    if example is not None:
        plan, vectors, examples = counted(copied, plan, example)
        plan = without_uncalled(plan, set(vectors))
    probes, seconds, reports = _Probes(emulator, dtype), 0.0, list[LayerReport]()
    for layer in plan:
        if isinstance(layer, DigitalLayer):
            reports.append(digital_report(layer))
            continue
        probe = probes.of(layer.architecture)
        arrays = planned_report(layer).arrays
        costs: dict[str, Any] = {"bytes": round(arrays * probe.bytes_per_array)}
        if example is not None:
            costs["vectors"] = -(-vectors[id(layer.module)] // examples)
            costs["array_reads"] = costs["vectors"] * reads_per_vector(layer.architecture) * arrays
        seconds += arrays * probe.seconds_per_array
        reports.append(planned_report(layer, **costs))
    return ConversionReport((*reports, *folded), emulator.description, seconds)


class _Probe(NamedTuple):
    bytes_per_array: float
    seconds_per_array: float


class _Probes:
    """A few programmed tiles of each architecture."""

    def __init__(self, emulator: Emulator, dtype: torch.dtype) -> None:
        self.emulators, self.dtype = OwnEmulators(emulator), dtype
        self._made: dict[Architecture, _Probe] = {}

    def of(self, architecture: Architecture) -> _Probe:
        if architecture not in self._made:
            self._made[architecture] = self._probed(architecture)
        return self._made[architecture]

    def _probed(self, arch: Architecture) -> _Probe:
        generator = torch.Generator().manual_seed(0)
        weight = torch.randn(arch.outputs_per_tile, _PROBED_TILES * arch.tile[0], generator=generator)
        weight, emulator = weight.to(self.dtype), self.emulators.own(arch, weight.device)
        inputs = placeholder(weight.shape[1])
        for _ in range(2):  # the first warms up
            start = time.perf_counter()
            matrix = CrossbarMatrix(weight, arch, emulator, inputs=inputs)
            seconds = time.perf_counter() - start
        arrays = arch.arrays * _PROBED_TILES
        return _Probe(programmed_bytes(matrix) / arrays, seconds / arrays)
