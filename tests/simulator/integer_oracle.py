"""The simulator's arithmetic once more, slow and obvious, in Python integers and fractions."""

from __future__ import annotations

import math
from fractions import Fraction

from geniex.mapping import Architecture


def product(weights: list[list[float]], inputs: list[float], arch: Architecture, fw: int, fx: int) -> list[Fraction]:
    """weights @ inputs as tiles of ideal crossbars compute it, exactly."""
    return [_output(row, inputs, arch, fw, fx) for row in weights]


def _output(row: list[float], inputs: list[float], arch: Architecture, fw: int, fx: int) -> Fraction:
    size = arch.tile[0]
    total = Fraction(0)
    for start in range(0, len(inputs), size):
        tile_w = [_magnitudes(w, arch, fw) for w in row[start : start + size]]
        tile_x = [_parts(x, arch, fx) for x in inputs[start : start + size]]
        for p, sign in ((0, 1), (1, -1))[: 1 if arch.stream_bits == 1 else 2]:
            plus = [[digits(w[0], arch.slice_bits, arch.slices) for w in tile_w], [x[p] for x in tile_x]]
            minus = [[digits(w[1], arch.slice_bits, arch.slices) for w in tile_w], [x[p] for x in tile_x]]
            if arch.offset == "analog_difference":
                total += sign * _held(_sum(plus, minus, arch), arch, fw + fx)
            else:
                total += sign * _held(_sum(plus, None, arch), arch, fw + fx)
                total -= sign * _held(_sum(minus, None, arch), arch, fw + fx)
    return total


def _sum(array: list, other: list | None, arch: Architecture) -> int:
    s = 0
    for a in range(arch.slices):
        for b in range(arch.streams):
            stream = [digits(x, arch.stream_bits, arch.streams)[b] for x in array[1]]
            count = sum(w[a] * x for w, x in zip(array[0], stream, strict=True))
            low, high = 0, math.inf
            if other is not None:
                count -= sum(w[a] * x for w, x in zip(other[0], stream, strict=True))
                low = -math.inf
            if arch.adc_bits is not None:
                half = 2 ** (arch.adc_bits - 1)
                low, high = (0, 2 * half - 1) if other is None else (-half, half - 1)
            place = 2 ** (arch.slice_bits * (arch.slices - 1 - a) + arch.stream_bits * (arch.streams - 1 - b))
            if arch.stream_bits == 1 and b == 0:
                place = -place
            s += place * int(min(max(count, low), high))
    return s


def _held(s: int, arch: Architecture, frac: int) -> Fraction:
    if arch.accumulator_bits is None:
        return Fraction(s) / Fraction(2) ** frac
    scaled = Fraction(s) * Fraction(2) ** (arch.accumulator_frac_bits - frac)
    whole = abs(scaled.numerator) // scaled.denominator % 2**arch.accumulator_bits
    return Fraction(whole if s >= 0 else -whole) / Fraction(2) ** arch.accumulator_frac_bits


def _magnitudes(w: float, arch: Architecture, frac: int) -> tuple[int, int]:
    top = 2 ** (arch.weight_bits - 1) - 1
    whole = min(_whole(abs(Fraction(w)) * Fraction(2) ** frac, arch), top)
    return (whole, 0) if w >= 0 else (0, whole)


def _parts(x: float, arch: Architecture, frac: int) -> tuple[int, int]:
    """Non-negative integers whose digits are streamed in pass 0 and pass 1."""
    top = 2 ** (arch.input_bits - 1)
    exact = Fraction(x) * Fraction(2) ** frac
    if arch.stream_bits == 1:
        whole = math.floor(exact) if arch.rounding == "floor" else round(exact)
        return min(max(whole, -top), top - 1) % 2**arch.input_bits, 0
    whole = min(_whole(abs(exact), arch), top - 1)
    return (whole, 0) if x >= 0 else (0, whole)


def _whole(magnitude: Fraction, arch: Architecture) -> int:
    return math.floor(magnitude) if arch.rounding == "floor" else round(magnitude)


def digits(whole: int, bits: int, count: int) -> list[int]:
    """Base 2^bits digits, most significant first."""
    return [(whole >> (bits * (count - 1 - k))) & (2**bits - 1) for k in range(count)]
