"""The ranges that ADCs and accumulators have to span, and how well they fit the calibration inputs."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from geniex.circuit.checks import has_values
from geniex.errors import InputError
from geniex.mapping import Architecture, TileLayout
from geniex.mapping.fixed_point import fit_frac_bits
from geniex.simulator.collapse import Programmed, bound_sum, find_linear_counts, sum_weights
from geniex.simulator.periphery.accumulator import BinaryPoints, accumulate, find_overflows, shift_add
from geniex.simulator.periphery.adc import choose_full_scale_step, choose_step, digitise, round_to_codes
from geniex.simulator.read import Reader
from geniex.simulator.scales import InputStatistics

_CELLS_AT_ONCE = 1 << 22
"""Cells whose counts are computed at once."""
PROBE_VECTORS = 4
"""Number of inputs by which it is decided whether ADC codes of one count suffice."""
_CALIBRATION_VECTORS = 64
"""Fewest inputs that are read to calibrate ADCs which share one range; all that are kept are, where they do not."""
_CALIBRATION_COLUMNS = 1 << 15
"""Bit lines times inputs that are read to calibrate, where there are so few bit lines that more inputs are needed."""
_MARGIN = 2
"""Factor by which cells that conduct more than linearly may exceed the counts of an ideal tile."""


@dataclass(frozen=True)
class ConverterUse:
    """Use of ADCs and accumulators on calibration inputs; the uses of several matrices add up."""

    conversions: int = 0
    """ADC conversions of bit lines that hold weights, in reads that drive a word line."""
    clipped: int = 0
    """Conversions beyond the ADC's lowest or highest code."""
    lowest: float = math.inf
    """Lowest code that occurred."""
    highest: float = -math.inf
    """Highest code that occurred."""
    lowest_wanted: float = math.inf
    """Lowest code that would have occurred without clipping."""
    highest_wanted: float = -math.inf
    """Highest code that would have occurred without clipping."""
    codes: int | None = None
    """Number of the ADC's codes; None where it never clips."""
    sums: int = 0
    """Sums of tiles after shift-and-add that are not 0, one for each output and pass."""
    overflowed: int = 0
    """Sums that the accumulator wrapped or saturated."""
    power: float = 0.0
    """Sum of the squares of the analog counts after shift-and-add."""
    adc_noise: float = 0.0
    """Sum of the squares of what the ADC changes in them."""
    accumulator_noise: float = 0.0
    """Sum of the squares of what the accumulator changes in the sums."""

    @cached_property
    def clipped_share(self) -> float | None:
        """Share of the conversions that clip; None without conversions."""
        return self.clipped / self.conversions if self.conversions else None

    @cached_property
    def codes_used(self) -> float | None:
        """Share of the ADC's codes from the lowest to the highest that occur; None where the ADC never clips."""
        if self.codes is None or not self.conversions:
            return None
        return (self.highest - self.lowest + 1) / self.codes

    @property
    def overflowed_share(self) -> float | None:
        """Share of the sums that overflow; None without sums."""
        return self.overflowed / self.sums if self.sums else None

    @cached_property
    def adc_error(self) -> float | None:
        """RMS change of the sums by the ADC's rounding and clipping, over the sums' RMS; None without sums."""
        return math.sqrt(self.adc_noise / self.power) if self.power else None

    @cached_property
    def accumulator_error(self) -> float | None:
        """RMS change of the sums by the accumulator, over the sums' RMS; None without sums."""
        return math.sqrt(self.accumulator_noise / self.power) if self.power else None

    def __add__(self, other: ConverterUse) -> ConverterUse:
        return ConverterUse(
            self.conversions + other.conversions,
            self.clipped + other.clipped,
            min(self.lowest, other.lowest),
            max(self.highest, other.highest),
            min(self.lowest_wanted, other.lowest_wanted),
            max(self.highest_wanted, other.highest_wanted),
            self.codes if other.codes is None else other.codes,
            self.sums + other.sums,
            self.overflowed + other.overflowed,
            self.power + other.power,
            self.adc_noise + other.adc_noise,
            self.accumulator_noise + other.accumulator_noise,
        )


def choose_step_before_calibration(conductances: Tensor, layout: TileLayout) -> Tensor | None:
    """The ADC's step, in counts per code, for tiles (row_tiles, arrays, col_tiles, rows, cols) [S] before calibration.

    None is 1. An ADC that is still to be calibrated has the step 1, in a tensor (1, 1, 1, 1).
    """
    arch = layout.architecture
    if arch.adc_range == "auto":
        return _range_of_weights(conductances, layout) if has_values(conductances) else None
    if arch.adc_range == "unit":
        return None
    step = choose_full_scale_step(arch) if arch.adc_range == "full_scale" else 1.0
    return conductances.new_full((1, 1, 1, 1), step)


def choose_binary_points(exact: int, conductances: Tensor, layout: TileLayout, *, grows: bool = False) -> BinaryPoints:
    """The binary points of sums with ``exact`` fraction bits on tiles (row_tiles, arrays, col_tiles, rows, cols) [S].

    Weights that are trained, which ``grows`` says, may take any value of their range: the accumulator leaves room for
    all of them at its end. Where conductances have no values, its binary point is 0 until a state with it is loaded.
    """
    arch = layout.architecture
    if arch.accumulator_bits is None or arch.accumulator_frac_bits is not None or not has_values(conductances):
        return BinaryPoints(exact, arch.accumulator_frac_bits or 0)
    if grows:
        largest = float(arch.tile[0] * max(map(abs, arch.weight_range)) * max(map(abs, arch.input_range)))
    else:
        counts = _ideal_counts(conductances, layout)
        largest = max(bound_sum(sum_weights(some, layout), arch) for some in counts)
    return BinaryPoints(exact, exact + fit_frac_bits(_MARGIN * largest, 2 ** (arch.accumulator_bits - 1) - 1))


def choose_calibration_vectors(
    inputs: InputStatistics | float | None, architecture: Architecture, bit_lines: int
) -> Tensor:
    """The inputs (count, inputs) that are read to choose the ADC's ranges of a matrix with so many ``bit_lines``.

    Raises:
        InputError: calibration saw no inputs.
    """
    if not isinstance(inputs, InputStatistics) or not inputs.count:
        raise InputError(
            "architecture.adc_range",
            "'calibrated'",
            "calibration inputs are needed: give convert(..., calibration=images) or inputs=InputStatistics",
        )
    if architecture.adc_granularity != "layer":
        return inputs.vectors
    return inputs.vectors[: max(_CALIBRATION_VECTORS, _CALIBRATION_COLUMNS // bit_lines)]


def _range_of_weights(conductances: Tensor, layout: TileLayout) -> Tensor | None:
    """The step at which the codes span all counts that inputs can cause on ideal tiles.

    None means that codes of one count suffice, even with cells that conduct more than linearly.
    """
    arch = layout.architecture
    if arch.adc_codes is None or arch.adc_codes[1] < 1:  # a signed ADC of one bit has no code above 0
        return None
    lows, highs = [], []
    for counts in _ideal_counts(conductances, layout):
        # Any drive of a column lies between its negative and its positive counts alone, at the highest stream level.
        lows.append(counts.clamp(max=0).sum(-2).amin() * (2**arch.stream_bits - 1))
        highs.append(counts.clamp(min=0).sum(-2).amax() * (2**arch.stream_bits - 1))
    low, high = torch.stack(lows).amin(), torch.stack(highs).amax()
    if _MARGIN * low >= min(arch.adc_codes[0], 0) and _MARGIN * high <= arch.adc_codes[1]:
        return None
    shape = (1, 1, 1, 1)
    return choose_step(low.reshape(shape), high.reshape(shape), arch)


@torch.no_grad()
def count_ends(reader: Reader, tiles: Programmed, integers: Tensor) -> tuple[Tensor, Tensor]:
    """The lowest and highest counts (row_tiles, converters, col_tiles, cols) for ``integers`` (inputs, features)."""
    inputs, row_tiles = reader.chunk(len(integers), tiles)
    lows, highs = [], []
    for at in reader.row_tiles(row_tiles):
        found = []
        for part in integers.split(inputs):
            counts = reader.analog(reader.levels(part, tiles.example.dtype)[0], tiles, at)
            found.append(torch.stack(torch.aminmax(counts.flatten(0, 1), dim=0)))
        low, high = torch.stack(found).unbind(1)
        lows.append(low.amin(0))
        highs.append(high.amax(0))
    return torch.cat(lows), torch.cat(highs)


@torch.no_grad()
def measure_converter_use(reader: Reader, tiles: Programmed, integers: Tensor) -> ConverterUse:
    """The use of the ADCs and accumulators of ``tiles`` for whole inputs ``integers`` (inputs, features)."""
    arch, layout = reader.layout.architecture, reader.layout
    inputs, row_tiles = reader.chunk(len(integers), tiles)
    used = ConverterUse(codes=None if arch.adc_codes is None else arch.adc_codes[1] - arch.adc_codes[0] + 1)
    for at in reader.row_tiles(row_tiles):
        # Bit lines that hold anything but level 0.
        held = torch.cat([counts.any(-2) for counts in _ideal_counts(tiles.example[at], layout)])
        step = reader.step if reader.step is None or len(reader.step) == 1 else reader.step[at]
        for part in integers.split(inputs):
            levels, place = reader.levels(part, tiles.example.dtype)
            counts = reader.analog(levels, tiles, at)
            # A read without a driven word line is not counted: it carries no current and may be left out altogether.
            driven = levels[:, :, at].any(-1, keepdim=True)
            used += _adc_use(counts, step, held & driven, arch)
            analog = shift_add(counts, place, layout)
            total = shift_add(digitise(counts, step, arch), place, layout)
            kept = accumulate(total, arch, reader.points) * 2.0**reader.points.exact
            used += ConverterUse(
                sums=int((total != 0).sum()),
                overflowed=int(find_overflows(total, arch, reader.points).sum()),
                power=float(analog.square().sum()),
                adc_noise=float((total - analog).square().sum()),
                accumulator_noise=float((kept - total).square().sum()),
            )
    return used


def _adc_use(counts: Tensor, step: Tensor | None, looked_at: Tensor, arch: Architecture) -> ConverterUse:
    """The use of the ADC for those ``counts`` (reads, inputs, row_tiles, converters, col_tiles, cols) ``looked_at``."""
    if arch.adc_rounding == "none" or not bool(looked_at.any()):
        return ConverterUse()
    codes = round_to_codes(counts, step, arch)[looked_at.expand_as(counts)]
    low, high = arch.adc_codes or (-math.inf, math.inf)
    clipped = int(((codes < low) | (codes > high)).sum())
    lowest, highest = float(codes.amin()), float(codes.amax())
    return ConverterUse(codes.numel(), clipped, max(lowest, low), min(highest, high), lowest, highest)


def _ideal_counts(conductances: Tensor, layout: TileLayout) -> Iterator[Tensor]:
    """Counts (row_tiles, converters, col_tiles, rows, cols) for level 1 on ideal tiles, a few row tiles at a time."""
    # An architecture with a linear read-out that has the same counts on ideal tiles.
    arch = layout.architecture
    arch = arch.replace(offset="ideal_after") if arch.offset == "ideal_before" else arch
    size = max(1, _CELLS_AT_ONCE // max(1, conductances[0].numel()))
    for tiles in conductances.detach().split(size):
        counts, _ = find_linear_counts(layout.off_lines(tiles), None, arch)
        assert counts is not None
        yield counts.round()
