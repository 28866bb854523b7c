"""The costs of an image on crossbars: arrays, reads, conversions, and the static energy of its reads."""

from __future__ import annotations

import copy
import dataclasses
import math
from dataclasses import dataclass
from functools import partial
from operator import itemgetter
from typing import Any, Self

import torch
from torch import Tensor, nn

from geniex.circuit.checks import has_values
from geniex.config import check_number, check_positive_int
from geniex.emulator import map_tensors
from geniex.errors import InputError
from geniex.mapping import Architecture
from geniex.simulator.batches import Data
from geniex.simulator.layers.crossbar import CrossbarLayer, find_crossbar_layers
from geniex.simulator.matrix import CrossbarMatrix
from geniex.simulator.observe_inputs import add_hooks, run_calibration
from geniex.simulator.periphery.adc import to_voltages
from geniex.simulator.report import count_reads_per_vector
from geniex.simulator.transforms import check_converted
from geniex.workspace import workspace_bytes

_WORKSPACE_BYTES = 64 << 20
"""Bytes of workspace for the reads whose power is measured at once."""


@dataclass(frozen=True)
class LayerCosts:
    """Costs of one layer; counts and energy are for one image."""

    name: str
    kind: str
    layout: str
    arrays: int
    """Arrays that exist, counting W+ and W- separately."""
    grid_arrays: int
    """Arrays including those that are left out because they hold only zeros."""
    vectors: int
    """Input vectors of the layer's matrices: positions of a convolution, or one whole map where it is unrolled."""
    array_reads: int
    """Reads of single arrays: vectors times streams times arrays, for both passes where inputs have a sign."""
    adc_conversions: int
    """ADC conversions of single bit lines. A read converts the bit lines that have an ADC and hold a slice of an output
    or its bias."""
    static_energy: float
    """Energy that the drivers deliver while arrays are read, joule."""


@dataclass(frozen=True)
class Costs:
    """Costs of every layer on crossbars, for one image; ``str`` gives a table."""

    layers: tuple[LayerCosts, ...]
    read_time: float
    """Time for which the drivers hold a read's voltages, second."""
    images: int
    """Images over which vectors and energies are averaged."""
    exact_energy: bool
    """Whether energies come from solved circuits, not from estimates by column currents: ``Emulator.power_meter``."""

    @property
    def arrays(self) -> int:
        """Arrays of all layers."""
        return sum(layer.arrays for layer in self.layers)

    @property
    def grid_arrays(self) -> int:
        """Arrays of all layers, including those that are left out."""
        return sum(layer.grid_arrays for layer in self.layers)

    @property
    def vectors(self) -> int:
        """Input vectors of all layers."""
        return sum(layer.vectors for layer in self.layers)

    @property
    def array_reads(self) -> int:
        """Reads of single arrays, summed over all layers."""
        return sum(layer.array_reads for layer in self.layers)

    @property
    def adc_conversions(self) -> int:
        """ADC conversions of all layers."""
        return sum(layer.adc_conversions for layer in self.layers)

    @property
    def static_energy(self) -> float:
        """Static energy of all layers, joule."""
        return sum(layer.static_energy for layer in self.layers)

    def layer(self, name: str) -> LayerCosts:
        """The costs of the layer ``name``."""
        found = {layer.name: layer for layer in self.layers}
        if name not in found:
            raise InputError("name", repr(name), f"it must be a layer on crossbars: {', '.join(map(repr, found))}")
        return found[name]

    def to_dict(self) -> dict[str, Any]:
        """The costs as JSON-ready data: totals, and a row for each layer."""
        totals = ("arrays", "grid_arrays", "vectors", "array_reads", "adc_conversions", "static_energy")
        told = {name: getattr(self, name) for name in (*totals, "read_time", "images", "exact_energy")}
        return told | {"layers": [dataclasses.asdict(layer) for layer in self.layers]}

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Self:
        """The costs that ``to_dict`` wrote."""
        layers = tuple(LayerCosts(**layer) for layer in data["layers"])
        return cls(layers, data["read_time"], data["images"], data["exact_energy"])

    def __str__(self) -> str:
        head = ("layer", "layout", "arrays", "vectors", "reads", "conversions", "static energy")
        rows = [head, *map(_cells, self.layers), _cells(self, "all")]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
        how = "of the circuit" if self.exact_energy else "estimated from column currents"
        return "\n".join(
            [*lines, f"for one image, averaged over {self.images}; {self.read_time * 1e9:g} ns per read; energy {how}"]
        )


def costs(model: nn.Module, images: Data, *, read_time: float = 100e-9, energy_vectors: int | None = None) -> Costs:
    """The costs of one of ``images`` on a converted ``model``, layer by layer; the model is left as it is.

    Counts follow the architecture; a controller that skips streams of zeros, as the simulator does, reads less. Static
    energy is the power of the drivers, sum_i V_i I_i over word lines, times the time of a read. It is taken at the
    images' own streams and the programmed conductances, including unused cells of an array, which are at G_off. The
    emulator's circuit is solved where it is ideal, linear or exact, so that a linear emulator's energy equals that of
    the exact circuit with linear cells. A surrogate's energy is estimated from its column currents; it is within 0.4 %
    of the exact circuit's if these currents are exact (see ``geniex.emulator.power``). ``exact_energy`` says which of
    the two it is. Charging of lines, drivers, converters and everything digital are not counted.

    Args:
        model: what ``convert`` returned.
        images: inputs of the model, in any form that ``convert`` takes for calibration except a function; a few are
            enough.
        read_time: time for which the drivers hold the voltages of a read, second. 100 ns is an assumption, that of
            ISAAC (A. Shafiee et al., ISCA 2016); energies are proportional to it.
        energy_vectors: number of a layer's vectors in a call, drawn with a fixed seed, from which energies are taken
            and scaled up; None takes all. For each vector the exact circuit takes as long as its inference does.
            Linear emulators and surrogates take about as long for each array as to program it, however few the vectors.

    Raises:
        InputError: the model has nothing on crossbars, the images have no values, or the time is not positive.

    >>> from geniex import Architecture, IdealEmulator, convert
    >>> model = convert(nn.Linear(70, 8), Architecture(input_frac_bits=13), IdealEmulator())
    >>> found = costs(model, torch.rand(4, 70))
    >>> found.arrays, found.vectors, found.array_reads, found.adc_conversions
    (4, 1, 32, 512)
    """
    check_converted(model)
    if isinstance(images, Tensor) and not (images.dim() and len(images) and has_values(images)):
        raise InputError("images", tuple(images.shape), "it must be a batch of one or more inputs with values")
    check_number("read_time", read_time, low=0.0, open_low=True, unit="s")
    if energy_vectors is not None:
        check_positive_int("energy_vectors", energy_vectors)
    if any(not m.emulator.deterministic for m in model.modules() if isinstance(m, CrossbarMatrix)):
        model = copy.deepcopy(model)  # a read would advance the noise
    layers = find_crossbar_layers(model)
    tallies = {name: _Tally(layer, energy_vectors) for name, layer in layers.items()}
    with add_hooks((layers[name], "pre", tally.take) for name, tally in tallies.items()):
        count = run_calibration(model, images, "images")
    if not count:
        raise InputError("images", f"a {type(images).__name__}", "it must be batches, because their images are counted")
    rows = tuple(tally.row(name, count, read_time) for name, tally in tallies.items())
    return Costs(rows, float(read_time), count, all(tally.exact for tally in tallies.values()))


class _Tally:
    """Counts the work of one layer, call by call."""

    def __init__(self, layer: CrossbarLayer, energy_vectors: int | None) -> None:
        self.layer, self.energy_vectors = layer, energy_vectors
        self.matrices = [m for m in layer.matrices if isinstance(m, CrossbarMatrix)]
        self.vectors, self.power, self.exact = 0, 0.0, True
        self._generator = torch.Generator().manual_seed(0)

    def take(self, layer: nn.Module, args: tuple[Tensor, ...], kwargs: dict[str, Tensor]) -> None:
        """Count one call of the layer."""
        fields = self.layer.matrix_inputs(args[0] if args else kwargs["input"])
        self.vectors += len(fields)
        share, most = 1.0, self.energy_vectors
        if most is not None and len(fields) > most:
            chosen = torch.randperm(len(fields), generator=self._generator)[:most].to(fields.device)
            share, fields = most / len(fields), fields[chosen]
        for matrix, part in zip(self.matrices, self.layer.packing.split(fields), strict=True):
            power, exact = sum_power(matrix, part)
            self.power, self.exact = self.power + power / share, self.exact and exact

    def row(self, name: str, images: int, read_time: float) -> LayerCosts:
        """The layer's costs for one image."""
        arch, vectors = self.matrices[0].architecture, -(-self.vectors // images)
        tiles = [math.prod(m.layout.stack) for m in self.matrices]
        reads = [count_reads_per_vector(arch, non_negative=m.non_negative) for m in self.matrices]
        per_read = [count_conversions(m) for m in self.matrices]
        return LayerCosts(
            name,
            type(self.layer).__name__,
            self.layer.layout,
            arrays=sum(tiles) * arch.arrays,
            grid_arrays=sum(m.layout.row_tiles * m.layout.col_tiles for m in self.matrices) * arch.arrays,
            vectors=vectors,
            array_reads=vectors * arch.arrays * sum(r * n for r, n in zip(reads, tiles, strict=True)),
            adc_conversions=vectors * sum(r * n for r, n in zip(reads, per_read, strict=True)),
            static_energy=self.power / images * read_time,
        )


def count_conversions(matrix: CrossbarMatrix) -> int:
    """The ADC conversions when all arrays of a ``matrix`` are read once; 0 where values stay analog.

    Each bit line that holds a slice of an output is converted once, or each pair of bit lines that shares a signed ADC
    ("analog_difference"). So is each bias column that is not subtracted before the ADC. Reference columns have no ADC.
    """
    arch: Architecture = matrix.architecture
    if arch.adc_rounding == "none":
        return 0
    shared = arch.offset == "analog_difference"
    bias = 0 if shared else arch.bias_cols * math.prod(matrix.layout.stack)
    return (1 if shared else arch.arrays) * (matrix.layout.tile_outputs * arch.slices + bias)


def sum_power(matrix: CrossbarMatrix, vectors: Tensor) -> tuple[float, bool]:
    """The sum of the powers [W] of all reads that ``vectors`` (count, inputs) cause, and whether it is exact.

    The sum times the time of a read is the energy of the reads. Read noise is left out.
    """
    tiles, codes = matrix._current()
    emulator, array = matrix.emulator.without_noise(tiles.array)
    reader, integers, arch = matrix._reader(codes), matrix._integers(vectors), matrix.architecture
    total, exact = 0.0, True
    for at in reader.row_tiles(_tiles_at_once(matrix)):
        some_array = map_tensors(array, itemgetter(at))
        meter = emulator.power_meter(tiles.example[at], partial(emulator.read, some_array))
        floats = arch.passes * arch.streams * tiles.example[at][..., 0, 0].numel() * meter.floats_per_read
        size = max(1, workspace_bytes(_WORKSPACE_BYTES) // (floats * tiles.example.element_size()))
        for some in integers.split(size):
            levels, _ = reader.levels(some, tiles.example.dtype)
            total += float(meter.read(to_voltages(levels[:, :, at], arch)).double().sum())
        exact = exact and meter.exact
    return total, exact


def _tiles_at_once(matrix: CrossbarMatrix) -> int:
    """The number of row tiles whose meters fit the workspace."""
    return max(1, workspace_bytes(_WORKSPACE_BYTES) // (16 * matrix.conductances[0].numel()))


def _cells(costs: LayerCosts | Costs, name: str | None = None) -> tuple[str, ...]:
    left_out = "" if costs.arrays == costs.grid_arrays else f" of {costs.grid_arrays:,}"
    layout = costs.layout if isinstance(costs, LayerCosts) else ""
    counts = (costs.vectors, costs.array_reads, costs.adc_conversions)
    energy = f"{costs.static_energy * 1e9:.4g} nJ"
    own = costs.name if isinstance(costs, LayerCosts) else name or ""
    return (own, layout, f"{costs.arrays:,}{left_out}", *(f"{count:,}" for count in counts), energy)
