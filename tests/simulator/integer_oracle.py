"""The simulator's arithmetic once more, slow and obvious, in Python integers and fractions.

Tiles are laid out cell by cell, every read is a double loop over word lines and bit lines, and nothing is taken from
``Architecture`` but its fields.
"""

from __future__ import annotations

import math
from fractions import Fraction
from typing import NamedTuple

import numpy as np

from geniex.mapping import Architecture

Grid = list[list[int]]
"""Levels of one array, [row][column]."""


class Scale(NamedTuple):
    """value = integer * 2^-frac_bits * gain."""

    frac_bits: int
    gains: list[Fraction]
    """One for each output; for inputs, one."""


def product(
    weights: list[list[float]],
    inputs: list[float],
    arch: Architecture,
    *,
    non_negative: bool = False,
    calibration: list[list[float]] | None = None,
    largest_input: float | None = None,
) -> list[Fraction]:
    """weights @ inputs as tiles of ideal crossbars compute it, exactly.

    ``calibration`` are the inputs that choose the ADC's ranges; ``largest_input`` that of the inputs' scale.
    """
    w_scale, x_scale = weight_scale(weights, arch), input_scale(largest_input, arch)
    tiles = place(whole_weights(weights, arch, w_scale), arch)
    steps = adc_steps(tiles, calibration, arch, x_scale, non_negative)
    wholes = [whole_input(x, arch, x_scale, non_negative) for x in inputs]
    frac = w_scale.frac_bits + x_scale.frac_bits
    point = accumulator_point(tiles, arch, frac)
    sums = [Fraction(0)] * len(weights)
    for r, row_tile in enumerate(tiles):
        part = wholes[r * arch.tile[0] : (r + 1) * arch.tile[0]]
        for c, arrays in enumerate(row_tile):
            for p, reads in enumerate(drives(part, arch)):
                for k, converter in enumerate(shifted_sums(arrays, reads, arch, steps, r, c)):
                    for j, total in enumerate(converter):
                        output = c * outputs_per_tile(arch) + j
                        if output < len(weights):
                            sums[output] += (-1) ** (p + k) * held(total, arch, frac, point)
    return [s * w_scale.gains[o] * x_scale.gains[0] for o, s in enumerate(sums)]


# Scales


def weight_scale(weights: list[list[float]], arch: Architecture) -> Scale:
    """The binary point and the gains of the weights."""
    top = max(1, 2 ** (arch.weight_bits - 1) - 1)
    rows = [max(abs(w) for w in row) for row in weights]
    if arch.weight_scale == "power_of_two":
        frac = arch.weight_frac_bits
        return Scale(fitting(max(rows), top) if frac is None else frac, [Fraction(1)] * len(rows))
    frac = bits_of(top) if arch.weight_frac_bits is None else arch.weight_frac_bits
    largest = rows if arch.weight_scale == "channel" else [max(rows)] * len(rows)
    return Scale(frac, [gain(most, top, frac) for most in largest])


def input_scale(largest: float | None, arch: Architecture) -> Scale:
    """The binary point and the gain of the inputs."""
    sign = 0 if arch.input_scheme == "unsigned" else 1
    top = max(1, 2 ** (arch.input_bits - sign) - 1)
    if arch.input_scale == "power_of_two":
        frac = arch.input_frac_bits
        return Scale(fitting(largest, top) if frac is None else frac, [Fraction(1)])
    frac = bits_of(top) if arch.input_frac_bits is None else arch.input_frac_bits
    return Scale(frac, [gain(largest, top, frac)])


def fitting(largest: float, top: int) -> int:
    """The most fraction bits at which ``largest`` is at most ``top``."""
    if largest == 0:
        return bits_of(top)
    frac = -1000
    while Fraction(largest) * Fraction(2) ** (frac + 1) <= top:
        frac += 1
    return frac


def gain(largest: float, top: int, frac: int) -> Fraction:
    """The float32 number that makes ``largest`` the integer ``top``, or the next above."""
    if not largest:
        return Fraction(1)
    exact = Fraction(largest) / (top * Fraction(2) ** -frac)
    near = np.float32(float(exact))
    return Fraction(float(near if Fraction(float(near)) >= exact else np.nextafter(near, np.float32(np.inf))))


def bits_of(top: int) -> int:
    """Bits of a positive integer."""
    return len(bin(top)) - 2


# Weights on cells


def whole_weights(weights: list[list[float]], arch: Architecture, scale: Scale) -> Grid:
    """The integers of the weights."""
    return [
        [whole_weight(Fraction(w) / g * Fraction(2) ** scale.frac_bits, arch) for w in row]
        for row, g in zip(weights, scale.gains, strict=True)
    ]


def whole_weight(exact: Fraction, arch: Architecture) -> int:
    half = 2 ** (arch.weight_bits - 1)
    if arch.weight_scheme != "differential":
        return min(max(rounded(exact, arch.rounding), -half), half - 1)
    if arch.weight_bits == 1:
        return -1 if exact < 0 else 1
    size = min(rounded(abs(exact), arch.rounding), half - 1)
    return -size if exact < 0 else size


def cells(whole: int, arch: Architecture) -> list[list[int]]:
    """The levels that hold one weight, [array][slice]."""
    bits, base = arch.weight_bits, arch.slice_bits
    if arch.weight_scheme == "offset":
        return [digits(whole + 2 ** (bits - 1), base, math.ceil(bits / base))]
    if arch.weight_scheme == "twos_complement":
        word = whole % 2**bits
        return [[word >> (bits - 1), *digits(word % 2 ** (bits - 1), base, math.ceil((bits - 1) / base))]]
    count = math.ceil(max(bits - 1, 1) / base)
    return [digits(max(whole, 0), base, count), digits(max(-whole, 0), base, count)]


def slice_places(arch: Architecture) -> list[int]:
    """What level 1 of each slice is worth."""
    count = len(cells(0, arch)[0])
    if arch.weight_scheme == "twos_complement":
        return [-(2 ** (arch.weight_bits - 1)), *(2 ** (arch.slice_bits * k) for k in reversed(range(count - 1)))]
    return [2 ** (arch.slice_bits * k) for k in reversed(range(count))]


def data_cols(arch: Architecture) -> int:
    bias = len(slice_places(arch)) if arch.weight_scheme == "offset" else 0
    return arch.tile[1] - bias - (1 if arch.offset == "reference_column" else 0)


def outputs_per_tile(arch: Architecture) -> int:
    return data_cols(arch) // len(slice_places(arch))


def place(wholes: Grid, arch: Architecture) -> list[list[list[Grid]]]:
    """The levels of all tiles, [row tile][column tile][array][row][column]."""
    rows, cols = arch.tile
    per_tile, slices = outputs_per_tile(arch), len(slice_places(arch))
    inputs, outputs = len(wholes[0]), len(wholes)
    tiles = []
    for r in range(math.ceil(inputs / rows)):
        tiles.append([])
        for c in range(math.ceil(outputs / per_tile)):
            arrays = [[[0] * cols for _ in range(rows)] for _ in cells(0, arch)]
            for i in range(rows):
                if r * rows + i >= inputs:
                    continue
                for j in range(per_tile):
                    if c * per_tile + j < outputs:
                        for a, levels in enumerate(cells(wholes[c * per_tile + j][r * rows + i], arch)):
                            arrays[a][i][j * slices : (j + 1) * slices] = levels
                if arch.weight_scheme == "offset":
                    start = data_cols(arch)
                    arrays[0][i][start : start + slices] = cells(0, arch)[0]
            tiles[r].append(arrays)
    return tiles


# Inputs on word lines


def whole_input(x: float, arch: Architecture, scale: Scale, non_negative: bool) -> int:
    x = max(x, 0) if non_negative else x
    exact = Fraction(x) / scale.gains[0] * Fraction(2) ** scale.frac_bits
    half = 2 ** (arch.input_bits - 1)
    if arch.input_scheme == "unsigned":
        return min(max(rounded(exact, arch.rounding), 0), 2 * half - 1)
    if twos_complement(arch):
        return min(max(rounded(exact, arch.rounding), -half), half - 1)
    if arch.input_bits == 1:
        return -1 if exact < 0 else 1
    size = min(rounded(abs(exact), arch.rounding), half - 1)
    return -size if exact < 0 else size


def twos_complement(arch: Architecture) -> bool:
    return arch.input_scheme == "twos_complement" or (arch.input_scheme == "auto" and arch.stream_bits == 1)


def drives(wholes: list[int], arch: Architecture) -> list[list[tuple[int, list[int]]]]:
    """For each pass its reads: (place value, levels of the word lines)."""
    bits, base = arch.input_bits, arch.stream_bits
    if twos_complement(arch):
        words, count = [[x % 2**bits for x in wholes]], bits
    elif arch.input_scheme == "unsigned":
        words, count = [wholes], math.ceil(bits / base)
    else:
        words, count = [[max(x, 0) for x in wholes], [max(-x, 0) for x in wholes]], math.ceil(max(bits - 1, 1) / base)
    places = [2 ** (base * k) for k in reversed(range(count))]
    if twos_complement(arch):
        places[0] = -places[0]
    return [[(places[t], [digits(x, base, count)[t] for x in part]) for t in range(count)] for part in words]


# Read-out


def raw_counts(arrays: list[Grid], levels: list[int], arch: Architecture) -> list[list[int]]:
    """What reaches each ADC, [converter][column], in products of level steps."""
    columns = [
        [sum(level * grid[i][j] for i, level in enumerate(levels) if level) for j in range(arch.tile[1])]
        for grid in arrays
    ]
    if arch.offset != "analog_difference":
        return columns
    if arch.weight_scheme == "differential":
        return [[plus - minus for plus, minus in zip(*columns, strict=True)]]
    slices, start = len(slice_places(arch)), data_cols(arch)
    data = columns[0][: outputs_per_tile(arch) * slices]
    return [[count - columns[0][start + j % slices] for j, count in enumerate(data)]]


def shifted_sums(
    arrays: list[Grid], reads: list[tuple[int, list[int]]], arch: Architecture, steps: dict, r: int, c: int
) -> list[list[Fraction]]:
    """The sum over slices and streams of one tile and pass, [converter][output]."""
    places, totals = slice_places(arch), None
    for stream_place, levels in reads:
        raw = raw_counts(arrays, levels, arch)
        if totals is None:
            totals = [[Fraction(0)] * outputs_per_tile(arch) for _ in raw]
        for k, columns in enumerate(raw):
            read = [converted(count, steps[r, k, c, j], arch) for j, count in enumerate(columns)]
            for j in range(outputs_per_tile(arch)):
                for s, slice_place in enumerate(places):
                    count = read[j * len(places) + s]
                    if arch.weight_scheme == "offset" and arch.offset != "analog_difference":
                        count -= read[data_cols(arch) + s]
                    totals[k][j] += stream_place * slice_place * count
    return totals


def converted(count: int, step: Fraction, arch: Architecture) -> Fraction:
    """The ADC's code times its step."""
    if arch.adc_rounding == "none":
        return Fraction(count)
    code = rounded(count / step, arch.adc_rounding)
    if arch.adc_bits is not None:
        low, high = code_range(arch)
        code = min(max(code, low), high)
    return code * step


def code_range(arch: Architecture) -> tuple[int, int]:
    half = 2 ** (arch.adc_bits - 1)
    return (-half, half - 1) if arch.offset == "analog_difference" else (0, 2 * half - 1)


def adc_steps(
    tiles: list, calibration: list[list[float]] | None, arch: Architecture, scale: Scale, non_negative: bool
) -> dict[tuple[int, int, int, int], Fraction]:
    """Counts per code of every (row tile, converter, column tile, column)."""
    needed = {}
    for r, row_tile in enumerate(tiles):
        for c, arrays in enumerate(row_tile):
            for k, columns in enumerate(raw_counts(arrays, [0] * arch.tile[0], arch)):
                for j in range(len(columns)):
                    needed[r, k, c, j] = Fraction(1)
    if arch.adc_range == "unit" or (arch.adc_range == "auto" and codes_suffice(tiles, arch)):
        return needed
    low, high = code_range(arch)
    if arch.adc_range == "full_scale":
        most = arch.tile[0] * (2**arch.slice_bits - 1) * (2**arch.stream_bits - 1)
        return {at: few_bits(max(Fraction(1), Fraction(most, high))) for at in needed}
    for vector in calibration:
        wholes = [whole_input(x, arch, scale, non_negative) for x in vector]
        for r, row_tile in enumerate(tiles):
            for reads in drives(wholes[r * arch.tile[0] : (r + 1) * arch.tile[0]], arch):
                for _, levels in reads:
                    for c, arrays in enumerate(row_tile):
                        for k, columns in enumerate(raw_counts(arrays, levels, arch)):
                            for j, count in enumerate(columns):
                                least = Fraction(count, high if count >= 0 else low) if count >= 0 or low else 0
                                needed[r, k, c, j] = max(needed[r, k, c, j], least)
    shared = {
        "column": lambda at: at,
        "tile": lambda at: at[:3],
        "layer": lambda at: (),
    }[arch.adc_granularity]
    most = {}
    for at, step in needed.items():
        most[shared(at)] = max(most.get(shared(at), Fraction(1)), step)
    return {at: few_bits(most[shared(at)]) for at in needed}


def codes_suffice(tiles: list, arch: Architecture) -> bool:
    """Whether codes of one count hold twice the counts that any inputs cause."""
    if arch.adc_bits is None or code_range(arch)[1] < 1:
        return True
    low = high = 0
    for arrays in (arrays for row_tile in tiles for arrays in row_tile):
        alone = [raw_counts(arrays, drive(i, arch.tile[0]), arch) for i in range(arch.tile[0])]
        for k in range(len(alone[0])):
            for j in range(len(alone[0][k])):
                counts = [row[k][j] for row in alone]
                low = min(low, sum(c for c in counts if c < 0) * (2**arch.stream_bits - 1))
                high = max(high, sum(c for c in counts if c > 0) * (2**arch.stream_bits - 1))
    return 2 * low >= code_range(arch)[0] and 2 * high <= code_range(arch)[1]


def drive(i: int, rows: int) -> list[int]:
    """Level 1 on one word line."""
    return [int(k == i) for k in range(rows)]


def few_bits(step: Fraction) -> Fraction:
    """Rounded up to 8 significant bits."""
    unit = Fraction(1)
    while step >= 256 * unit:
        unit *= 2
    while step < 128 * unit:
        unit /= 2
    return math.ceil(step / unit) * unit


def accumulator_point(tiles: list, arch: Architecture, frac: int) -> int:
    """Fraction bits of the accumulator: those given, or as many as leave room for twice the largest ideal sum."""
    if arch.accumulator_bits is None or arch.accumulator_frac_bits is not None:
        return arch.accumulator_frac_bits or 0
    largest, places = 0, slice_places(arch)
    for arrays in (arrays for row_tile in tiles for arrays in row_tile):
        totals = {}
        for i in range(arch.tile[0]):
            for k, columns in enumerate(raw_counts(arrays, drive(i, arch.tile[0]), arch)):
                for j in range(outputs_per_tile(arch)):
                    own = columns[j * len(places) : (j + 1) * len(places)]
                    total = sum(place * count for place, count in zip(places, own, strict=True))
                    if arch.weight_scheme == "offset" and arch.offset != "analog_difference":
                        start = data_cols(arch)
                        total -= sum(p * c for p, c in zip(places, columns[start : start + len(places)], strict=True))
                    totals[k, j] = totals.get((k, j), 0) + abs(total)
        largest = max(largest, *totals.values())
    return frac + fitting(2 * largest * largest_whole_input(arch), max(1, 2 ** (arch.accumulator_bits - 1) - 1))


def largest_whole_input(arch: Architecture) -> int:
    half = 2 ** (arch.input_bits - 1)
    if arch.input_scheme == "unsigned":
        return 2 * half - 1
    return half if twos_complement(arch) else max(half - 1, 1)


def held(total: Fraction, arch: Architecture, frac: int, point: int) -> Fraction:
    """The sum as the accumulator holds it, in real units."""
    if arch.accumulator_bits is None:
        return total / Fraction(2) ** frac
    whole = math.trunc(total * Fraction(2) ** (point - frac))
    if arch.accumulator_overflow == "saturate":
        half = 2 ** (arch.accumulator_bits - 1)
        whole = min(max(whole, -half), half - 1)
    else:
        whole = int(math.copysign(1, whole)) * (abs(whole) % 2**arch.accumulator_bits)
    return Fraction(whole) / Fraction(2) ** point


def rounded(exact: Fraction, how: str) -> int:
    """Half to even, or down."""
    return math.floor(exact) if how == "floor" else round(exact)


def digits(whole: int, bits: int, count: int) -> list[int]:
    """Base 2^bits digits, most significant first."""
    return [(whole >> (bits * (count - 1 - k))) & (2**bits - 1) for k in range(count)]
