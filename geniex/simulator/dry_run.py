"""``dry_run``, which estimates the memory and time of a conversion before it is done."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from geniex.circuit.checks import has_values
from geniex.emulator import Emulator
from geniex.mapping import Architecture, Layout
from geniex.simulator.batches import Data
from geniex.simulator.build import OwnEmulators, build, check_fit, make_placeholder
from geniex.simulator.convert import drop_uncalled, prepare
from geniex.simulator.layers.crossbar import find_crossbar_matrices
from geniex.simulator.matrix import CrossbarMatrix
from geniex.simulator.memory.pass_memory import Call, copy_without_values, measure_pass_memory, record_first_call
from geniex.simulator.memory.sampled import SizedEmulator
from geniex.simulator.observe_inputs import add_hooks, count_vectors
from geniex.simulator.plan import DigitalLayer, PlannedLayer
from geniex.simulator.replace import replace_modules
from geniex.simulator.report import (
    ConversionReport,
    LayerReport,
    count_programmed_bytes,
    count_reads_per_vector,
    report_digital,
    report_planned,
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
    trainable: bool = False,
    checkpoint: bool | None = None,
) -> ConversionReport:
    """The report that ``convert`` would give, found by programming a few arrays only.

    Memory and time are scaled from these arrays to the number of all arrays. ``model`` may be on the meta device.

    Args:
        model: a module; its weights may have no values.
        architecture: fixed point, slices, streams, converters, as for ``convert``.
        emulator: the crossbar's physics.
        per_layer: exceptions by layer name or pattern, as for ``convert``.
        example: inputs as for the calibration of ``convert``, but not a function. With them the report counts the
            vectors and reads of one example, and has the peak memory of a pass of the first batch unless layers are
            compacted.
        layout: the layout of convolutions; "toeplitz" needs the ``example``, or sizes by rule.
        fold: whether batch norms are folded into the convolutions before them.
        dtype: the dtype of conductances, voltages and currents.
        trainable: as for ``convert``; with ``checkpoint`` it decides the memory that gradients take.
        checkpoint: as for ``convert``.
    """
    check_fit(emulator, architecture)
    copied, plan, folded = prepare(model, Rules(architecture, layout, per_layer), fold)
    vectors, examples, calls, unsigned = dict[int, int](), 0, list[Call](), set[int]()
    if example is not None:
        with record_first_call(copied) as calls, _unsigned(plan) as unsigned:
            plan, vectors, examples = count_vectors(copied, plan, example)
        plan = drop_uncalled(plan, set(vectors))
    probes, seconds, reports = _Probes(emulator, dtype), 0.0, list[LayerReport]()
    for layer in plan:
        if isinstance(layer, DigitalLayer):
            reports.append(report_digital(layer))
            continue
        probe = probes.of(layer.architecture)
        report = report_planned(layer)
        arrays = report.arrays
        costs: dict[str, Any] = {"bytes": round(arrays * probe.bytes_per_array)}
        if example is not None:
            costs["vectors"] = -(-vectors[id(layer.module)] // examples)
            costs["array_reads"] = costs["vectors"] * count_reads_per_vector(layer.architecture) * arrays
        seconds += arrays * probe.seconds_per_array
        reports.append(replace(report, **costs))
    memory = None
    by_values = any(isinstance(layer, PlannedLayer) and layer.placement.by_values for layer in plan)
    if example is not None and not by_values:  # the shapes alone do not tell which tiles are left out
        shapes = _Shapes(copied, plan, emulator, unsigned, probes.made)
        options: dict[str, Any] = {"dtype": dtype, "trainable": trainable, "checkpoint": checkpoint}
        memory = measure_pass_memory(lambda: shapes.converted(**options), next(iter(calls), None))
    return ConversionReport((*reports, *folded), emulator.description, seconds, memory)


@contextmanager
def _unsigned(plan: Sequence[PlannedLayer | DigitalLayer]) -> Iterator[set[int]]:
    """The ids of the modules that get no negative input within the context."""
    signed: dict[int, bool] = {}

    def watch(module: nn.Module, args: tuple[Tensor, ...], kwargs: dict[str, Tensor]) -> None:
        x = args[0] if args else kwargs["input"]
        signed[id(module)] = signed.get(id(module), False) or not has_values(x) or bool((x < 0).any())

    unsigned: set[int] = set()
    with add_hooks((layer.module, "pre", watch) for layer in plan if isinstance(layer, PlannedLayer)):
        yield unsigned
    unsigned.update(key for key, negative in signed.items() if not negative)


class _Shapes:
    """A planned conversion without its values."""

    def __init__(
        self,
        model: nn.Module,
        plan: Sequence[PlannedLayer | DigitalLayer],
        emulator: Emulator,
        unsigned: Collection[int],
        probes: Mapping[Architecture, _Probe],
    ) -> None:
        copies: dict[int, Any] = {}
        self.model, self.emulator, self.probes = copy_without_values(model, copies), emulator, probes
        self.layers = [
            (_without_scale(replace(layer, module=copies[id(layer.module)])), id(layer.module) in unsigned)
            for layer in plan
            if isinstance(layer, PlannedLayer)
        ]

    def converted(self, *, trainable: bool, **options: Any) -> nn.Module:
        """The converted model on the meta device; its programmed arrays have the sizes of real ones."""
        emulators, made = OwnEmulators(SizedEmulator(self.emulator)), dict[int, nn.Module]()
        for layer, unsigned in self.layers:
            inputs = make_placeholder(1)
            if not unsigned:
                inputs.add(-torch.ones(1, 1))
            made[id(layer.module)] = build(layer, emulators, inputs, trainable=trainable, **options)
        model = replace_modules(self.model, made)
        for matrix in find_crossbar_matrices(model).values():
            self._shorten(matrix)
        return model.requires_grad_(trainable)

    def _shorten(self, matrix: CrossbarMatrix) -> None:
        """Let ``matrix`` be read by one product of integers if the probe is; without values only the probe can tell."""
        tiles, probe = matrix.tiles, self.probes[matrix.architecture]
        if not probe.collapsed or tiles.counts is None:
            return
        row_tiles, converters, col_tiles, rows, _ = tiles.counts.shape
        shape = (row_tiles, rows, converters, col_tiles, matrix.architecture.outputs_per_tile)
        weights = tiles.counts.new_empty(shape, dtype=torch.float64)
        matrix.tiles = replace(tiles, counts=None, weights=weights, lossless=probe.lossless)


def _without_scale(layer: PlannedLayer) -> PlannedLayer:
    """``layer`` with an arbitrary weight scale, because meta tensors have no values to derive it from."""
    arch = layer.architecture
    fixed = arch.weight_scale == "power_of_two" and arch.weight_frac_bits is not None
    return replace(layer, weight_full_scale=None if fixed else 1.0)


class _Probe(NamedTuple):
    bytes_per_array: float
    seconds_per_array: float
    collapsed: bool
    """Whether a read is one product of integers with ``Programmed.weights``."""
    lossless: bool


class _Probes:
    """A few programmed tiles of each architecture."""

    def __init__(self, emulator: Emulator, dtype: torch.dtype) -> None:
        self.emulators, self.dtype = OwnEmulators(emulator), dtype
        self.made: dict[Architecture, _Probe] = {}

    def of(self, architecture: Architecture) -> _Probe:
        if architecture not in self.made:
            self.made[architecture] = self._probed(architecture)
        return self.made[architecture]

    def _probed(self, arch: Architecture) -> _Probe:
        generator = torch.Generator().manual_seed(0)
        weight = torch.randn(arch.outputs_per_tile, _PROBED_TILES * arch.tile[0], generator=generator)
        weight, emulator = weight.to(self.dtype), self.emulators.own(arch, weight.device)
        inputs = make_placeholder(weight.shape[1])
        for _ in range(2):  # the first warms up
            start = time.perf_counter()
            matrix = CrossbarMatrix(weight, arch, emulator, inputs=inputs)
            seconds = time.perf_counter() - start
        arrays = arch.arrays * _PROBED_TILES
        return _Probe(
            count_programmed_bytes(matrix) / arrays,
            seconds / arrays,
            matrix.tiles.weights is not None,
            matrix.tiles.lossless,
        )
