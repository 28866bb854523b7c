"""Where a model's layers went, on how many arrays, and what that costs."""

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
    """How many cells of a layer, unused ones included, have which conductance."""

    edges: tuple[float, ...]
    """Of the bins, siemens; one bin a level, or 64 where there are more levels."""
    counts: tuple[int, ...]


@dataclass(frozen=True)
class LayerReport:
    """Where one layer went."""

    name: str
    kind: str
    where: Literal["crossbar", "digital", "folded"]
    reason: str = ""
    """Why it stayed digital, or what it was folded into."""
    matrices: int = 0
    """Matrices that it takes: one a block of groups."""
    row_tiles: int = 0
    """Of the largest matrix."""
    col_tiles: int = 0
    arrays: int = 0
    """Arrays in all, of every sign."""
    grid_arrays: int = 0
    """Arrays as if none were left out: of those that hold zeros alone by an unrolled convolution, or by compaction."""
    utilisation: float = 0.0
    """Share of its arrays' bit lines times word lines that hold a slice of a weight."""
    bytes: int = 0
    """Of the programmed arrays in memory."""
    vectors: int | None = None
    """Input vectors for one example; None where no example was given."""
    array_reads: int | None = None
    """Reads of single arrays for one example: vectors times streams (of all passes) times arrays."""
    weight_frac_bits: tuple[int, int] | None = None
    """Lowest and highest among its matrices."""
    input_frac_bits: tuple[int, int] | None = None
    histogram: Histogram | None = None
    """None where nothing was programmed."""
    weight_error: float | None = None
    """RMS error that fixed point makes in the weights, over their RMS."""
    weights_clipped: float | None = None
    """Share of the weights beyond the fixed-point range."""
    input_error: float | None = None
    """RMS error that fixed point makes in the calibration inputs, over their RMS; None without calibration."""
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
    """RMS change of the layer's sums by the ADC on calibration inputs, over the sums' RMS."""
    accumulator_error: float | None = None
    """RMS change of the layer's sums by the accumulator on calibration inputs, over the sums' RMS."""
    cautions: tuple[str, ...] = ()
    """What clips, overflows or is too coarse, and what to set instead."""

    @property
    def compression(self) -> float:
        """Arrays as if none were left out, over arrays."""
        return self.grid_arrays / self.arrays if self.arrays else 1.0


@dataclass(frozen=True)
class ConversionReport:
    """Where every layer with parameters went; ``str`` gives a table."""

    layers: tuple[LayerReport, ...]
    emulator: str = ""
    """The emulator, with its cells and the resistances in force."""
    program_seconds: float | None = None
    """Time that programming will take, estimated by a dry run; a conversion's own report holds no timing."""
    memory: Later | None = field(default=None, compare=False, repr=False)
    """The memory that ``measure_pass_memory`` finds for a pass."""

    @property
    def pass_memory(self) -> PassMemory | None:
        """Peak memory of a pass of the first batch of calibration, or of a dry run's example.

        None where no inputs were given, where the model cannot run without their values, and in a report that was saved
        or pickled before anybody had asked. It is found when it is first asked for, from the shapes of all tensors,
        which takes seconds and little memory.
        """
        return None if self.memory is None else self.memory.value

    @property
    def arrays(self) -> int:
        """Arrays in all."""
        return sum(layer.arrays for layer in self.layers)

    @property
    def compression(self) -> float:
        """Arrays as if none were left out, over arrays: the compression rate of a compacted network."""
        return sum(layer.grid_arrays for layer in self.layers) / self.arrays if self.arrays else 1.0

    @property
    def utilisation(self) -> float:
        """Share of all arrays' cells that hold a slice of a weight."""
        used = sum(layer.utilisation * layer.arrays for layer in self.layers)
        return used / self.arrays if self.arrays else 0.0

    @property
    def bytes(self) -> int:
        """Of all programmed arrays in memory."""
        return sum(layer.bytes for layer in self.layers)

    @property
    def array_reads(self) -> int | None:
        """Reads of single arrays for one example; None where no example was given."""
        counts = [layer.array_reads for layer in self.layers if layer.where == "crossbar"]
        known = [count for count in counts if count is not None]
        return sum(known) if len(known) == len(counts) else None

    @property
    def adc_clipped(self) -> float | None:
        """Share of ADC conversions that clip in the layer where most do; None where no layer tells."""
        return max(self._known("adc_clipped"), default=None)

    @property
    def adc_codes_used(self) -> float | None:
        """Share of the ADC's codes that occur in the layer that uses the fewest; None where no layer tells."""
        return min(self._known("adc_codes_used"), default=None)

    @property
    def overflowed(self) -> float | None:
        """Share of sums that overflow in the layer where most do; None where no layer tells."""
        return max(self._known("overflowed"), default=None)

    @property
    def cautions(self) -> tuple[str, ...]:
        """What every layer cautions of, each with its layer's name."""
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
        """Conductances of the layer ``name`` as they were programmed."""
        histogram = self.layer(name).histogram
        if histogram is None:
            raise InputError("name", repr(name), "nothing was programmed for this layer")
        return histogram

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready; with the memory of a pass where that has been asked for before."""
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
        # The reason that a digital layer ends with may reach over the columns that it does not have.
        widths = [max(len(row[k]) for row in rows if len(row) > k + 1 or row is head) for k in range(len(head))]
        lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=False)) for row in rows]
        reads = "" if self.array_reads is None else f", {self.array_reads:,} reads of one for an example"
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
        allowed = "an unrolled convolution needs the size of its maps: give an example, or LayerRule(map_size=)"
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
    """The report of a layer that is on crossbars, with what calibration has ``seen`` of each matrix's inputs."""
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
    """Streams of all passes: how often an array is read for one input vector, at most.

    Inputs that are known to be ``non_negative`` need no second pass and no stream for a sign.
    """
    if not non_negative:
        return architecture.passes * architecture.streams
    return architecture.streams - (architecture.streaming == "twos_complement" and architecture.streams > 1)


def count_programmed_bytes(module: nn.Module) -> int:
    """Memory of all programmed arrays in ``module``, what they share counted once."""
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
    """Of the cells of all arrays of a layer's matrices; None where tensors have no values."""
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
    """The layer's report as ``dataclasses.asdict`` and JSON left it."""
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
