"""The conversion report: the place of each layer, its number of arrays, and its fixed-point and ADC errors."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Self

import torch
from torch import Tensor, nn

from geniex.circuit.checks import has_values
from geniex.emulator import map_tensors
from geniex.errors import ConversionError, InputError
from geniex.mapping import Architecture, ConductanceWindow
from geniex.simulator.arithmetic_figures import measure_arithmetic
from geniex.simulator.layers.crossbar import CrossbarLayer
from geniex.simulator.matrix import CrossbarMatrix
from geniex.simulator.memory.pass_memory import Later, PassMemory
from geniex.simulator.plan import DigitalLayer, PlannedLayer
from geniex.simulator.scales import InputStatistics

_MOST_BINS = 64


@dataclass(frozen=True)
class Histogram:
    """The number of a layer's cells, unused ones included, in each bin of conductance."""

    edges: tuple[float, ...]
    """Edges of the bins [S]: one bin for each level, or 64 bins if there are more levels."""
    counts: tuple[int, ...]


@dataclass(frozen=True)
class LayerReport:
    """The place of one layer, its size there, and its errors."""

    name: str
    kind: str
    where: Literal["crossbar", "digital", "folded"]
    reason: str = ""
    """Reason why the layer stayed digital, or the layer that it was folded into."""
    matrices: int = 0
    """Number of matrices: one for each block of groups."""
    row_tiles: int = 0
    """Row tiles of the largest matrix."""
    col_tiles: int = 0
    arrays: int = 0
    """Number of arrays; W+ and W- are two."""
    grid_arrays: int = 0
    """Number of arrays with all-zero tiles included, which unrolled and compacted layers leave out."""
    utilisation: float = 0.0
    """Share of the arrays' cells that hold a slice of a weight."""
    bytes: int = 0
    """Memory of the programmed arrays [bytes]."""
    vectors: int | None = None
    """Input vectors for one example; None where no example was given."""
    array_reads: int | None = None
    """Reads of single arrays for one example: vectors times streams (of all passes) times arrays."""
    weight_frac_bits: tuple[int, int] | None = None
    """Lowest and highest number of the weights' fraction bits, over the layer's matrices."""
    input_frac_bits: tuple[int, int] | None = None
    histogram: Histogram | None = None
    """Histogram of the layer's conductances; None if nothing was programmed."""
    weight_error: float | None = None
    """RMS fixed-point error of the weights, relative to their RMS."""
    weights_clipped: float | None = None
    """Share of the weights beyond the fixed-point range."""
    input_error: float | None = None
    """RMS fixed-point error of the calibration inputs, relative to their RMS; None without calibration."""
    inputs_clipped: float | None = None
    """Share of the calibration inputs beyond the fixed-point range; None without calibration."""
    adc_step: tuple[float, float] | None = None
    """Counts per ADC code, the lowest and the highest; None without an ADC."""
    adc_clipped: float | None = None
    """Share of ADC conversions that clip on calibration inputs; None without an ADC or calibration."""
    adc_codes_used: float | None = None
    """Share of the ADC's codes between the lowest and the highest that occur on calibration inputs."""
    overflowed: float | None = None
    """Share of sums that wrap or saturate on calibration inputs; None with unbounded accumulators."""
    adc_error: float | None = None
    """RMS error of the layer's sums that the ADC causes on calibration inputs, relative to the sums' RMS."""
    accumulator_error: float | None = None
    """RMS error of the layer's sums that the accumulator causes on calibration inputs, relative to the sums' RMS."""
    cautions: tuple[str, ...] = ()
    """Sentences about what clips, overflows or is too coarse, with the settings that avoid it."""

    @property
    def compression(self) -> float:
        """The number of arrays with all-zero tiles included, over the number of arrays."""
        return self.grid_arrays / self.arrays if self.arrays else 1.0


@dataclass(frozen=True)
class ConversionReport:
    """The reports of all layers with parameters; ``str`` gives a table."""

    layers: tuple[LayerReport, ...]
    emulator: str = ""
    """The emulator, with its cells and the resistances in force."""
    program_seconds: float | None = None
    """Time that programming will take, estimated by a dry run; a conversion's own report holds no timing."""
    memory: Later | None = field(default=None, compare=False, repr=False)
    """The memory that ``measure_pass_memory`` finds for a pass."""

    @property
    def pass_memory(self) -> PassMemory | None:
        """Peak memory of a pass of the first calibration batch, or of a dry run's example.

        It is None if no inputs were given, if the model cannot run without their values, and in a report that was saved
        or pickled before the memory was first asked for. The first access finds it from the shapes of all tensors,
        which takes seconds and little memory.
        """
        return None if self.memory is None else self.memory.value

    @property
    def arrays(self) -> int:
        """Number of arrays."""
        return sum(layer.arrays for layer in self.layers)

    @property
    def compression(self) -> float:
        """The number of arrays with all-zero tiles included, over the number of arrays (the compression rate)."""
        return sum(layer.grid_arrays for layer in self.layers) / self.arrays if self.arrays else 1.0

    @property
    def utilisation(self) -> float:
        """Share of all arrays' cells that hold a slice of a weight."""
        used = sum(layer.utilisation * layer.arrays for layer in self.layers)
        return used / self.arrays if self.arrays else 0.0

    @property
    def bytes(self) -> int:
        """Memory of all programmed arrays [bytes]."""
        return sum(layer.bytes for layer in self.layers)

    @property
    def array_reads(self) -> int | None:
        """Reads of single arrays for one example; None where no example was given."""
        counts = [layer.array_reads for layer in self.layers if layer.where == "crossbar"]
        known = [count for count in counts if count is not None]
        return sum(known) if len(known) == len(counts) else None

    @property
    def adc_clipped(self) -> float | None:
        """Share of ADC conversions that clip, in the layer where most clip; None if no layer has this figure."""
        return max(self._known("adc_clipped"), default=None)

    @property
    def adc_codes_used(self) -> float | None:
        """Share of the ADC's codes that occur, in the layer that uses the fewest; None if no layer has this figure."""
        return min(self._known("adc_codes_used"), default=None)

    @property
    def overflowed(self) -> float | None:
        """Share of sums that overflow, in the layer where most overflow; None if no layer has this figure."""
        return max(self._known("overflowed"), default=None)

    @property
    def cautions(self) -> tuple[str, ...]:
        """The cautions of all layers, each with its layer's name."""
        return tuple(f"layer {layer.name!r}: {text}" for layer in self.layers for text in layer.cautions)

    def _known(self, figure: str) -> list[float]:
        return [value for layer in self.layers if (value := getattr(layer, figure)) is not None]

    def layer(self, name: str) -> LayerReport:
        """The report of the layer ``name``."""
        found = {layer.name: layer for layer in self.layers}
        if name not in found:
            raise InputError("name", repr(name), f"layers are {', '.join(map(repr, found))}")
        return found[name]

    def histogram(self, name: str) -> Histogram:
        """The histogram of the conductances that were programmed for the layer ``name``."""
        histogram = self.layer(name).histogram
        if histogram is None:
            raise InputError("name", repr(name), "this layer has no programmed conductances: name a layer on crossbars")
        return histogram

    def to_dict(self) -> dict[str, Any]:
        """The report, JSON-ready; it includes the memory of a pass only if that was asked for before."""
        figures = ("adc_clipped", "adc_codes_used", "overflowed", "program_seconds")
        totals = {name: getattr(self, name) for name in ("arrays", "utilisation", "bytes", "array_reads", *figures)}
        memory = None if self.memory is None else self.memory.found
        totals["pass_memory"] = None if memory is None else dataclasses.asdict(memory)
        return {"emulator": self.emulator} | totals | {"layers": [dataclasses.asdict(layer) for layer in self.layers]}

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Self:
        """The report that ``to_dict`` wrote."""
        told = data["pass_memory"]
        memory = None if told is None else Later.known(PassMemory(**told))
        layers = tuple(_layer_of(layer) for layer in data["layers"])
        return cls(layers, data["emulator"], data["program_seconds"], memory)

    def __str__(self) -> str:
        head = ("layer", "kind", "where", "arrays", "grid", "used", "memory", "clips", "codes", "vectors")
        rows = [head, *(_cells(layer) for layer in self.layers)]
        # A digital layer's row ends with its reason, which may extend over the columns that it leaves empty.
        widths = [max(len(row[k]) for row in rows if len(row) > k + 1 or row is head) for k in range(len(head))]
        lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=False)) for row in rows]
        reads = "" if self.array_reads is None else f", {self.array_reads:,} array reads for an example"
        total = f"{self.arrays:,} arrays, {self.utilisation:.0%} used, {_size(self.bytes)}{reads}"
        seconds = "" if self.program_seconds is None else f"; programming takes about {self.program_seconds:.2g} s"
        named = [self.emulator] if self.emulator else []
        told = [*_memory_lines(self.pass_memory), total + seconds, *named, *self.cautions]
        return "\n".join([*(line.rstrip() for line in lines), *told])


def report_digital(layer: DigitalLayer) -> LayerReport:
    """The report of a layer that stayed digital."""
    return LayerReport(layer.name, type(layer.module).__name__, "digital", layer.reason)


def report_folded(norm: str, conv: str) -> LayerReport:
    """The report of a batch norm that is part of a convolution now."""
    return LayerReport(norm, "BatchNorm", "folded", f"into {conv}")


def report_planned(layer: PlannedLayer, **costs: Any) -> LayerReport:
    """The report of a layer that goes onto crossbars."""
    arrays = layer.architecture.arrays
    if layer.unsized:
        allowed = "an unrolled convolution needs the size of its maps: give an example or LayerRule(map_size=)"
        raise ConversionError(f"layer {layer.name!r}: {allowed}")
    placement = layer.placement
    return LayerReport(
        layer.name,
        type(layer.module).__name__,
        "crossbar",
        matrices=len(placement.tiles),
        row_tiles=placement.tiles[0].row_tiles,
        col_tiles=placement.tiles[0].col_tiles,
        arrays=placement.tile_count * arrays,
        grid_arrays=placement.grid_count * arrays,
        utilisation=placement.utilisation,
        **costs,
    )


def report_built(layer: PlannedLayer, built: CrossbarLayer, seen: Sequence[InputStatistics] | None) -> LayerReport:
    """The report of a layer on crossbars; ``seen`` are the calibration statistics of each matrix's inputs."""
    matrices = [m for m in built.matrices if isinstance(m, CrossbarMatrix)]
    weight_bits, input_bits = zip(*((m.weight_frac_bits, m.input_frac_bits) for m in matrices), strict=True)
    return report_planned(
        layer,
        bytes=count_programmed_bytes(built),
        weight_frac_bits=(min(weight_bits), max(weight_bits)),
        input_frac_bits=(min(input_bits), max(input_bits)),
        histogram=count_conductances(matrices),
        **measure_arithmetic(layer, matrices, seen),
    )


def count_reads_per_vector(architecture: Architecture, *, non_negative: bool = False) -> int:
    """The largest number of reads of an array for one input vector: the streams of all passes.

    Inputs that are known to be ``non_negative`` need no second pass and no stream for a sign.
    """
    if not non_negative:
        return architecture.passes * architecture.streams
    return architecture.streams - (architecture.streaming == "twos_complement" and architecture.streams > 1)


def count_programmed_bytes(module: nn.Module) -> int:
    """The memory [bytes] of all programmed arrays in ``module``; shared tensors count once."""
    sizes: dict[int, int] = {}

    def add(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        sizes[storage._cdata] = storage.nbytes()
        return tensor

    for matrix in module.modules():
        if isinstance(matrix, CrossbarMatrix):
            map_tensors(matrix.tiles, add)
            for buffer in matrix.buffers():
                add(buffer)
    return sum(sizes.values())


def count_conductances(matrices: Sequence[CrossbarMatrix]) -> Histogram | None:
    """The histogram of all cells of a layer's matrices; None where tensors have no values."""
    arch = matrices[0].architecture
    edges = _edges(arch.window, 2**arch.slice_bits)
    if not has_values(matrices[0].conductances):
        return None
    counts = torch.zeros(len(edges) - 1, dtype=torch.int64)
    for matrix in matrices:
        for part in matrix.conductances:  # float32 counts are exact up to 16 million
            found = torch.histc(part, len(edges) - 1, edges[0], edges[-1])
            counts += found.to(counts)
    return Histogram(tuple(edges), tuple(counts.tolist()))


def _layer_of(data: dict[str, Any]) -> LayerReport:
    """The layer's report from ``data``, as ``dataclasses.asdict`` and JSON give it."""
    fields: dict[str, Any] = {name: tuple(v) if isinstance(v, list) else v for name, v in data.items()}
    histogram = fields["histogram"]
    if histogram is not None:
        fields["histogram"] = Histogram(tuple(histogram["edges"]), tuple(histogram["counts"]))
    return LayerReport(**fields)


def _edges(window: ConductanceWindow, levels: int) -> list[float]:
    half = window.step(levels) / 2
    bins, start = min(levels, _MOST_BINS), window.g_off - half
    step = (window.g_on - window.g_off + 2 * half) / bins
    return [start + k * step for k in range(bins + 1)]


def _cells(layer: LayerReport) -> tuple[str, ...]:
    if layer.where != "crossbar":
        return (layer.name, layer.kind, layer.where, layer.reason)
    grid = f"{layer.row_tiles} x {layer.col_tiles}"
    return (
        layer.name,
        layer.kind,
        layer.where,
        f"{layer.arrays:,}",
        grid if layer.matrices == 1 else f"{layer.matrices} of {grid}",
        f"{layer.utilisation:.0%}",
        _size(layer.bytes),
        "" if layer.adc_clipped is None else f"{layer.adc_clipped:.2%}",
        "" if layer.adc_codes_used is None else f"{layer.adc_codes_used:.1%}",
        "" if layer.vectors is None else f"{layer.vectors:,}",
    )


def _memory_lines(memory: PassMemory | None) -> list[str]:
    if memory is None:
        return []
    examples = f"{memory.examples:,} example" + "s" * (memory.examples > 1)
    return [f"a pass of {examples} takes {_size(memory.bytes)}, with gradients {_size(memory.bytes_with_gradients)}"]


def _size(count: float) -> str:
    for unit in ("B", "kB", "MB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} GB"
