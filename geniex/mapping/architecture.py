"""The digital side of a crossbar accelerator, which turns numbers into levels and currents back into numbers."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, fields
from functools import cached_property
from typing import Any, Literal, Self, get_args, get_type_hints

from geniex.config import Config, check_number, check_positive_int
from geniex.errors import InputError
from geniex.mapping.window import ConductanceWindow, check_drive

Offset = Literal["analog_difference", "reference_column", "ideal_before", "ideal_after"]
AdcRange = Literal["auto", "unit", "full_scale", "calibrated"]
OFFSETS = ("analog_difference", "reference_column", "ideal_before", "ideal_after")

_WIDTHS = {
    "weight_bits": (24, "weights are always integers, which with 16 bits and weight_scale='channel' are nearly exact"),
    "input_bits": (24, "inputs are always integers, which with 16 bits and input_scale='tensor' are nearly exact"),
    "slice_bits": (12, "a cell holds at least 1 bit; with all bits of the weight's magnitude, one cell holds it"),
    "stream_bits": (12, "a read applies at least 1 bit; with all bits of the input's magnitude, one read applies it"),
    "adc_bits": (
        48,
        "None for an ADC that never clips, or with adc_rounding='none' and accumulator_bits=None for no ADC",
    ),
    "accumulator_bits": (52, "None for an accumulator that never overflows"),
}
"""Largest number of bits of each width, and advice to users who want no such limit."""
_OPTIONAL = ("adc_bits", "accumulator_bits")
_CHOICES = (
    "weight_scheme",
    "weight_scale",
    "input_scheme",
    "input_scale",
    "input_calibration",
    "adc_range",
    "adc_granularity",
    "adc_rounding",
    "accumulator_overflow",
    "offset",
    "rounding",
)


@dataclass(frozen=True, kw_only=True)
class Architecture(Config):
    """Fixed point, bit slices and streams, converters and accumulator of one accelerator.

    A weight of ``weight_bits`` is cut into slices of ``slice_bits``, which lie on neighbouring bit lines, most
    significant slice first. An input of ``input_bits`` arrives in streams of ``stream_bits``. Widths need not
    divide each other; the most significant digit then has bits to spare. The scheme decides which integers a
    width stands for, down to one bit:

    ======================================  ==============================  ======
    scheme                                  integers of b bits              b = 1
    ======================================  ==============================  ======
    weights "differential", inputs "passes" -(2^(b-1) - 1) .. 2^(b-1) - 1   -1, +1
    "offset", "twos_complement"             -2^(b-1) .. 2^(b-1) - 1         -1, 0
    inputs "unsigned"                       0 .. 2^b - 1                    0, 1
    ======================================  ==============================  ======

    The fields by part of the accelerator:

    - array: ``tile``, ``window``, ``v_max``
    - weights: ``weight_bits``, ``weight_frac_bits``, ``weight_scheme``, ``weight_scale``, ``slice_bits``
    - inputs: ``input_bits``, ``input_frac_bits``, ``input_scheme``, ``input_scale``, ``input_calibration``,
      ``input_percentile``, ``stream_bits``
    - ADC: ``adc_bits``, ``adc_range``, ``adc_granularity``, ``adc_rounding``
    - accumulator: ``accumulator_bits``, ``accumulator_frac_bits``, ``accumulator_overflow``
    - offset, the current of level 0: ``offset``
    - rounding of weights and inputs to fixed point: ``rounding``

    Numbers that follow from the fields, such as ``slices``, are computed once and kept with the object. They are no
    part of its equality, its hash, its pickle or ``to_dict``.

    >>> Architecture(weight_bits=8, slice_bits=4).slices
    2
    """

    tile: tuple[int, int] = (64, 64)
    """Word lines and bit lines of one array."""
    window: ConductanceWindow = field(default_factory=lambda: ConductanceWindow(100e3, 6.0))
    """Conductances of the lowest and the highest level."""
    v_max: float = 0.25
    """Driver voltage of the highest stream level, volt."""
    weight_bits: int = 16
    """Bits of a weight, sign included; 1 differential bit is a sign alone (0 counts as +)."""
    weight_frac_bits: int | None = None
    """Fraction bits of a weight. None takes, layer by layer, as many as the largest weight leaves room for, or all bits
    but the sign where ``weight_scale`` is a gain ("tensor" or "channel")."""
    weight_scheme: Literal["differential", "offset", "twos_complement"] = "differential"
    """Storage of a weight's sign. "differential": magnitudes in two arrays, W+ and W-. "offset": one array of
    w + 2^(bits-1); bias columns in each tile, one for each slice, hold 2^(bits-1), and their sums are subtracted.
    "twos_complement": one array in which the sign bit has a slice of its own (at level 1) with a negative place value;
    this excludes ``offset`` "analog_difference", because no second array gives the difference."""
    weight_scale: Literal["power_of_two", "tensor", "channel"] = "power_of_two"
    """Value of a weight's last bit. "power_of_two": a power of two. "tensor", "channel": a power of two times a real
    gain for each layer or each output, which maps the largest weight to the largest integer; gains multiply the
    finished sums."""
    input_bits: int = 16
    """Bits of an input, sign included, unless ``input_scheme`` is "unsigned"; 1 bit in "passes" is a sign alone
    (0 counts as +)."""
    input_frac_bits: int | None = None
    """Fraction bits of an input. None takes as many as the calibrated range leaves room for, or all bits but the sign
    where ``input_scale`` is a gain ("tensor")."""
    input_scheme: Literal["auto", "twos_complement", "passes", "unsigned"] = "auto"
    """Streaming of an input's sign. "twos_complement": 1-bit streams, the first with a negative place value. "passes":
    the positive and the negative part, one after the other. "unsigned": no sign; negative inputs clip to 0. "auto":
    "twos_complement" for 1-bit streams, otherwise "passes". Where the calibration inputs of a layer are never negative,
    only the positive pass or the streams below the sign are read, and negative inputs clip to 0."""
    input_scale: Literal["power_of_two", "tensor"] = "power_of_two"
    """Value of an input's last bit. "power_of_two": a power of two. "tensor": a power of two times a real gain for each
    layer, which maps the end of the calibrated range to the largest integer."""
    input_calibration: Literal["max", "percentile", "mse"] = "max"
    """Range of a layer's inputs: the largest magnitude of the calibration inputs, a percentile of their magnitudes, or
    the range with the least squared error after quantisation."""
    input_percentile: float | None = None
    """Percentile for ``input_calibration`` "percentile"; None means 99.9."""
    slice_bits: int = 4
    """Bits of a weight that one cell holds."""
    stream_bits: int = 4
    """Bits of an input that one read applies."""
    adc_bits: int | None = 14
    """Bits of the ADC, whose codes are [0, 2^bits - 1], or signed [-2^(bits-1), 2^(bits-1) - 1] for
    "analog_difference"; counts beyond the codes clip. None never clips."""
    adc_range: AdcRange = "auto"
    """Value of one code, in counts (a count is the product of one level step of conductance and one of voltage).
    "unit": one count. "full_scale": the codes span the largest count that any weights and inputs give on an ideal tile.
    "calibrated": the codes span the counts that calibration inputs cause on this emulator. "auto": as "calibrated"
    where calibration inputs are given; otherwise the codes span the counts that inputs can cause with these weights on
    an ideal tile. A code never stands for less than one count, and its value is rounded up to 8 significant bits, which
    keeps shifted sums exact."""
    adc_granularity: Literal["layer", "tile", "column"] = "layer"
    """Bit lines that share one calibrated range; "tile" and "column" need ``adc_range`` "calibrated"."""
    adc_rounding: Literal["nearest", "floor", "none"] = "nearest"
    """Rounding of counts to codes; "none" leaves counts analog and needs ``adc_bits`` and ``accumulator_bits`` of
    None."""
    accumulator_bits: int | None = None
    """Bits of a tile's shifted and added sum, sign included; None never overflows or truncates."""
    accumulator_frac_bits: int | None = None
    """Fraction bits that an accumulator of finite width keeps; bits below are cut off towards zero. None places
    the binary point matrix by matrix, so that the width holds twice the largest sum that inputs in their range can
    cause with these weights on an ideal tile."""
    accumulator_overflow: Literal["wrap", "saturate"] = "wrap"
    """Result of an overflow. "wrap": the remainder modulo 2^bits with the sum's sign (PUMA's). "saturate": the nearer
    end of [-2^(bits-1), 2^(bits-1) - 1]."""
    offset: Offset = "analog_difference"
    """Removal of the current of level 0, G_off sum(V). "analog_difference": the current of W- (differential) or of the
    slice's bias column (offset weights) is subtracted before one signed ADC. All other schemes have an unsigned ADC and
    subtract W- or the bias columns as numbers. "reference_column": the measured current of a bit line at G_off, the
    last of each tile, is subtracted. "ideal_before" (GENIEx's): the ideal offset is removed, and the rest divided by
    f_R = I_ideal / I. "ideal_after": the ideal offset is subtracted from the measured current."""
    rounding: Literal["nearest", "floor"] = "nearest"
    """Rounding of numbers to fixed point; "floor" rounds magnitudes towards zero, two's complement and offset down."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "tile", _tile(self.tile))
        _check_fields(self)

    @classmethod
    def puma(cls, **overrides: Any) -> Self:
        """The fixed-point semantics of the GENIEx authors' PUMA simulator (reference: DAC 2020, section 5).

        Numbers have 16 bits with 13 fraction bits, rounded by floor; slices and streams have 4 bits. Each array has a
        14-bit unsigned ADC with codes of one count. A 32-bit accumulator with 24 fraction bits wraps. The ideal offset
        is removed before the division by f_R. The ADC clips column sums for every stream width; the authors' own ideal
        mode clips them for 1-bit streams only, so that 8-bit slices with 4-bit streams on 32 rows differ by 0.6 % (by
        2e-7 with ``adc_bits=None``).
        """
        settings: dict[str, Any] = {
            "weight_frac_bits": 13,
            "input_frac_bits": 13,
            "adc_range": "unit",
            "accumulator_bits": 32,
            "accumulator_frac_bits": 24,
            "offset": "ideal_before",
            "rounding": "floor",
        }
        return cls(**(settings | overrides))

    @cached_property
    def arrays(self) -> int:
        """Number of arrays that store a weight together: 2 for W+ and W-, otherwise 1."""
        return 2 if self.weight_scheme == "differential" else 1

    @cached_property
    def slices(self) -> int:
        """Number of bit lines that one output takes on an array."""
        if self.weight_scheme == "twos_complement":
            return 1 + math.ceil((self.weight_bits - 1) / self.slice_bits)
        stored = max(1, self.weight_bits - 1) if self.weight_scheme == "differential" else self.weight_bits
        return math.ceil(stored / self.slice_bits)

    @cached_property
    def weight_range(self) -> tuple[int, int]:
        """Smallest and largest integer of a weight."""
        return _signed_range(self.weight_bits, symmetric=self.weight_scheme == "differential")

    @cached_property
    def streaming(self) -> Literal["twos_complement", "passes", "unsigned"]:
        """The input scheme, with "auto" resolved."""
        if self.input_scheme != "auto":
            return self.input_scheme
        return "twos_complement" if self.stream_bits == 1 else "passes"

    @cached_property
    def passes(self) -> int:
        """Number of passes over an input: 2 where positive and negative parts are streamed apart, otherwise 1."""
        return 2 if self.streaming == "passes" else 1

    @cached_property
    def streams(self) -> int:
        """Number of reads in one pass over an input."""
        applied = max(1, self.input_bits - 1) if self.streaming == "passes" else self.input_bits
        return math.ceil(applied / self.stream_bits)

    @cached_property
    def input_range(self) -> tuple[int, int]:
        """Smallest and largest integer of an input."""
        if self.streaming == "unsigned":
            return 0, 2**self.input_bits - 1
        return _signed_range(self.input_bits, symmetric=self.streaming == "passes")

    @cached_property
    def bias_cols(self) -> int:
        """Number of bit lines of a tile that hold the offset of weights, right after those of the data."""
        return self.slices if self.weight_scheme == "offset" else 0

    @cached_property
    def data_cols(self) -> int:
        """Number of bit lines of a tile that can hold weights; they are the first ones."""
        return self.tile[1] - self.bias_cols - (self.offset == "reference_column")

    @cached_property
    def outputs_per_tile(self) -> int:
        """Number of outputs whose slices fit side by side on one tile."""
        return self.data_cols // self.slices

    @cached_property
    def current_scale(self) -> float:
        """Counts per ampere: one count is the product of one level step of G and one of V."""
        top = 2**self.stream_bits - 1
        return top / (self.window.step(2**self.slice_bits) * self.v_max)

    @cached_property
    def adc_codes(self) -> tuple[int, int] | None:
        """Lowest and highest code of the ADC; None where the ADC never clips."""
        if self.adc_bits is None:
            return None
        if self.offset == "analog_difference":
            return _signed_range(self.adc_bits)
        return 0, 2**self.adc_bits - 1

    @cached_property
    def largest_count(self) -> int:
        """Largest number of counts that one bit line gives on the ideal crossbar."""
        return self.tile[0] * (2**self.slice_bits - 1) * (2**self.stream_bits - 1)

    def __getstate__(self) -> dict[str, Any]:
        """The fields alone, for pickles and copies."""
        return {f.name: getattr(self, f.name) for f in fields(self)}


def _signed_range(bits: int, *, symmetric: bool = False) -> tuple[int, int]:
    """Range of two's complement with ``bits`` bits, or of a sign and a magnitude of at least one bit."""
    if symmetric:
        top = 2 ** max(1, bits - 1) - 1
        return -top, top
    return -(2 ** (bits - 1)), 2 ** (bits - 1) - 1


def _tile(tile: Any) -> tuple[int, int]:
    """``tile`` as (rows, cols); raises ``InputError`` unless it is two positive whole numbers."""
    if not isinstance(tile, (tuple, list)) or len(tile) != 2:
        raise InputError("tile", repr(tile), "it must be (rows, cols)")
    for name, value in zip(("tile rows", "tile cols"), tile, strict=True):
        check_positive_int(name, value)
    return (tile[0], tile[1])


def _check_width(name: str, value: Any) -> None:
    """Raise ``InputError`` unless ``value`` is a width that the field ``name`` of an architecture may have."""
    most, instead = _WIDTHS[name]
    if value is None and name in _OPTIONAL:
        return
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= most:
        link = "or " if name in _OPTIONAL else ""
        raise InputError(
            name, repr(value), f"it must be a whole number of bits, at least 1 and at most {most}, {link}{instead}"
        )


def _check_fields(arch: Architecture) -> None:
    """Raise ``InputError`` unless every field's value is allowed, and all of them fit together."""
    check_drive(arch.v_max)
    if not isinstance(arch.window, ConductanceWindow):
        raise InputError("window", repr(arch.window), "it must be a ConductanceWindow")
    for name in _WIDTHS:
        _check_width(name, getattr(arch, name))
    for name in ("weight_frac_bits", "input_frac_bits", "accumulator_frac_bits"):
        value = getattr(arch, name)
        if value is not None and (type(value) is not int or abs(value) > 60):
            raise InputError(name, repr(value), "it must be a whole number between -60 and 60")
    hints = get_type_hints(type(arch))
    for name in _CHOICES:
        allowed = get_args(hints[name])
        if getattr(arch, name) not in allowed:
            raise InputError(name, repr(getattr(arch, name)), f"it must be one of {', '.join(allowed)}")
    _check_schemes(arch)
    _check_calibration(arch)
    _check_adc(arch)
    if arch.outputs_per_tile < 1:
        others = [f"{arch.bias_cols} bias columns"] * bool(arch.bias_cols)
        others += ["a reference column"] * (arch.offset == "reference_column")
        beside = f" beside {' and '.join(others)}" if others else ""
        raise InputError("tile", arch.tile, f"an output's {arch.slices} slices must fit on its bit lines{beside}")


def _check_schemes(arch: Architecture) -> None:
    if arch.weight_scheme == "twos_complement" and arch.offset == "analog_difference":
        raise InputError(
            "offset",
            repr(arch.offset),
            "two's complement weights have one array, so that there is no difference to take: use reference_column,"
            " ideal_before or ideal_after, or weight_scheme='offset'",
        )
    if arch.input_scheme == "twos_complement" and arch.stream_bits != 1:
        raise InputError(
            "input_scheme",
            repr(arch.input_scheme),
            f"two's complement needs 1-bit streams, and stream_bits is {arch.stream_bits}: use passes or unsigned",
        )


def _check_calibration(arch: Architecture) -> None:
    if arch.input_calibration != "max" and arch.input_scale == "power_of_two" and arch.input_frac_bits is not None:
        raise InputError(
            "input_calibration",
            repr(arch.input_calibration),
            "input_frac_bits fixes the range: leave it None to calibrate",
        )
    if arch.input_percentile is None:
        return
    if arch.input_calibration != "percentile":
        raise InputError("input_percentile", arch.input_percentile, "it needs input_calibration='percentile'")
    check_number("input_percentile", arch.input_percentile, low=0.0, open_low=True)
    if arch.input_percentile > 100:
        raise InputError("input_percentile", arch.input_percentile, "it must be at most 100 percent")


def _check_adc(arch: Architecture) -> None:
    if arch.adc_rounding == "none" and (arch.adc_bits, arch.accumulator_bits) != (None, None):
        raise InputError(
            "adc_rounding",
            repr(arch.adc_rounding),
            "analog values need no ADC and no accumulator: set adc_bits and accumulator_bits to None",
        )
    if arch.adc_range in ("full_scale", "calibrated"):
        least = 2 if arch.offset == "analog_difference" else 1
        if arch.adc_bits is None or arch.adc_bits < least:
            raise InputError("adc_bits", arch.adc_bits, f"adc_range={arch.adc_range!r} needs at least {least}")
    if arch.adc_granularity != "layer" and arch.adc_range != "calibrated":
        raise InputError("adc_granularity", repr(arch.adc_granularity), "it needs adc_range='calibrated'")
