"""How numbers become levels and currents become numbers again: the digital side of a crossbar accelerator."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, Literal, Self

from geniex.config import Config
from geniex.mapping.checks import check_architecture, checked_tile
from geniex.mapping.window import ConductanceWindow

Offset = Literal["analog_difference", "reference_column", "ideal_before", "ideal_after"]
AdcRange = Literal["auto", "unit", "full_scale", "calibrated"]
OFFSETS = ("analog_difference", "reference_column", "ideal_before", "ideal_after")


@dataclass(frozen=True, kw_only=True)
class Architecture(Config):
    """Fixed point, bit slices and streams, converters and accumulator of one accelerator.

    A weight of ``weight_bits`` is cut into slices of ``slice_bits``, most significant first, side by side on
    neighbouring bit lines; an input of ``input_bits`` arrives in streams of ``stream_bits``. Widths need not
    divide each other: the most significant digit then has bits to spare. What a width means depends on the
    scheme, down to one bit:

    ======================================  ==============================  ======
    scheme                                  integers of b bits              b = 1
    ======================================  ==============================  ======
    weights "differential", inputs "passes" -(2^(b-1) - 1) .. 2^(b-1) - 1   -1, +1
    "offset", "twos_complement"             -2^(b-1) .. 2^(b-1) - 1         -1, 0
    inputs "unsigned"                       0 .. 2^b - 1                    0, 1
    ======================================  ==============================  ======

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
    """Fraction bits of a weight; None takes, layer by layer, as many as the largest weight leaves room for, or,
    with a ``weight_scale`` of its own, all but the sign."""
    weight_scheme: Literal["differential", "offset", "twos_complement"] = "differential"
    """How a sign is stored. "differential": magnitudes in two arrays, W+ and W-. "offset": one array of
    w + 2^(bits-1), and in each tile bias columns that hold 2^(bits-1), one for each slice, whose sums are taken off
    again. "twos_complement": one array whose sign bit has a slice of its own (at level 1) of negative place value;
    not with ``offset`` "analog_difference", as there is nothing to take the difference with."""
    weight_scale: Literal["power_of_two", "tensor", "channel"] = "power_of_two"
    """Value of a weight's last bit: a power of two, or times a real gain for each layer or for each output by which
    the largest weight takes the largest integer; gains multiply the finished sums."""
    input_bits: int = 16
    """Bits of an input, sign included, unless ``input_scheme`` is "unsigned"; 1 bit in "passes" is a sign alone
    (0 counts as +)."""
    input_frac_bits: int | None = None
    """Fraction bits of an input; None takes as many as the calibrated range leaves room for, or, with a gain, all
    but the sign."""
    input_scheme: Literal["auto", "twos_complement", "passes", "unsigned"] = "auto"
    """How a sign is applied. "twos_complement": 1-bit streams, the first of negative place value; "passes": the
    positive and the negative part one after the other; "unsigned": no sign, negative inputs clip to 0; "auto": two's
    complement for 1-bit streams, else passes. Where calibration saw no negative input, only the positive pass or the
    streams below the sign are read, and negative inputs clip to 0."""
    input_scale: Literal["power_of_two", "tensor"] = "power_of_two"
    """Value of an input's last bit: a power of two, or times a real gain for each layer by which the calibrated range
    takes the largest integer."""
    input_calibration: Literal["max", "percentile", "mse"] = "max"
    """Range of a layer's inputs: the largest magnitude in calibration, a percentile of the magnitudes, or the range
    of least squared error after quantisation."""
    input_percentile: float | None = None
    """The percentile of ``input_calibration`` "percentile"; None means 99.9."""
    slice_bits: int = 4
    """Bits of a weight that one cell holds."""
    stream_bits: int = 4
    """Bits of an input that one read applies."""
    adc_bits: int | None = 14
    """Bits of the ADC, whose codes are [0, 2^bits - 1], or signed [-2^(bits-1), 2^(bits-1) - 1] for
    "analog_difference"; what lies beyond clips. None never clips."""
    adc_range: AdcRange = "auto"
    """What one code stands for, in counts (a count is the product of one level step of conductance and one of voltage).
    "unit": one count. "full_scale": so many that the codes span the largest count that any weights and inputs give on
    an ideal tile. "calibrated": so many that the codes span the counts that calibration inputs cause on this emulator.
    "auto": as "calibrated" where calibration inputs are given, otherwise so many that the codes span whatever inputs
    can cause with these weights on an ideal tile. A code never stands for less than one count, and steps are rounded
    up to 8 significant bits, which keeps shifted sums exact."""
    adc_granularity: Literal["layer", "tile", "column"] = "layer"
    """Which bit lines share one calibrated range; "tile" and "column" need ``adc_range`` "calibrated"."""
    adc_rounding: Literal["nearest", "floor", "none"] = "nearest"
    """How a count becomes a code; "none" leaves it analog, which needs ``adc_bits`` and ``accumulator_bits`` of
    None."""
    accumulator_bits: int | None = None
    """Width of a tile's shifted and added sum, sign included; None never overflows or truncates."""
    accumulator_frac_bits: int | None = None
    """Fraction bits that an accumulator of finite width keeps; what lies below is cut off towards zero. None places
    the binary point matrix by matrix: the width then holds twice the largest sum that inputs in their range can cause
    with these weights on an ideal tile."""
    accumulator_overflow: Literal["wrap", "saturate"] = "wrap"
    """"wrap": the remainder modulo 2^bits with the sum's sign (PUMA's); "saturate": the nearer end of
    [-2^(bits-1), 2^(bits-1) - 1]."""
    offset: Offset = "analog_difference"
    """How the current of level 0, G_off sum(V), is removed. "analog_difference": before one signed ADC, the current
    of W- (differential) or of the slice's bias column (offset weights) is subtracted; the others have an unsigned
    ADC, and W- or the bias columns are subtracted as numbers. "reference_column": the measured current of a bit line
    at G_off, the last of each tile, is subtracted; "ideal_before": GENIEx's, the ideal offset is removed and the rest
    divided by f_R = I_ideal / I; "ideal_after": the ideal offset is subtracted from the measured current."""
    rounding: Literal["nearest", "floor"] = "nearest"
    """How numbers become fixed point; "floor" is towards zero for magnitudes, down for two's complement and offset."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "tile", checked_tile(self.tile))
        check_architecture(self)

    @classmethod
    def puma(cls, **overrides: Any) -> Self:
        """The fixed-point semantics of the GENIEx authors' PUMA simulator (reference: DAC 2020, section 5).

        16 bits with 13 fraction bits, 4-bit slices and streams, 14-bit unsigned ADC per array with codes of one
        count, 32-bit accumulator with 24 fraction bits that wraps, ideal offset removed before the division by f_R,
        floor. The ADC clips column sums for every stream width; the authors' own ideal mode clips them for 1-bit
        streams only, so that 8-bit slices with 4-bit streams on 32 rows differ by 0.6 % (by 2e-7 with
        ``adc_bits=None``).
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

    @property
    def arrays(self) -> int:
        """Arrays that hold the same weights: W+ and W-, or one."""
        return 2 if self.weight_scheme == "differential" else 1

    @property
    def slices(self) -> int:
        """Bit lines that one output takes on an array."""
        if self.weight_scheme == "twos_complement":
            return 1 + math.ceil((self.weight_bits - 1) / self.slice_bits)
        stored = max(1, self.weight_bits - 1) if self.weight_scheme == "differential" else self.weight_bits
        return math.ceil(stored / self.slice_bits)

    @property
    def weight_range(self) -> tuple[int, int]:
        """Smallest and largest integer of a weight."""
        return _signed_range(self.weight_bits, symmetric=self.weight_scheme == "differential")

    @property
    def streaming(self) -> Literal["twos_complement", "passes", "unsigned"]:
        """The input scheme, "auto" resolved."""
        if self.input_scheme != "auto":
            return self.input_scheme
        return "twos_complement" if self.stream_bits == 1 else "passes"

    @property
    def passes(self) -> int:
        """2 where positive and negative parts are streamed apart, else 1."""
        return 2 if self.streaming == "passes" else 1

    @property
    def streams(self) -> int:
        """Reads of one pass over an input."""
        applied = max(1, self.input_bits - 1) if self.streaming == "passes" else self.input_bits
        return math.ceil(applied / self.stream_bits)

    @property
    def input_range(self) -> tuple[int, int]:
        """Smallest and largest integer of an input."""
        if self.streaming == "unsigned":
            return 0, 2**self.input_bits - 1
        return _signed_range(self.input_bits, symmetric=self.streaming == "passes")

    @property
    def bias_cols(self) -> int:
        """Bit lines of a tile that hold the offset of weights, right after the data's."""
        return self.slices if self.weight_scheme == "offset" else 0

    @property
    def data_cols(self) -> int:
        """Bit lines of a tile that can hold weights, the first ones."""
        return self.tile[1] - self.bias_cols - (self.offset == "reference_column")

    @property
    def outputs_per_tile(self) -> int:
        """Outputs whose slices fit side by side on one tile."""
        return self.data_cols // self.slices

    @property
    def current_scale(self) -> float:
        """Counts per ampere: one count is the product of one level step of G and one of V."""
        top = 2**self.stream_bits - 1
        return top / (self.window.step(2**self.slice_bits) * self.v_max)

    @property
    def adc_codes(self) -> tuple[int, int] | None:
        """Lowest and highest code of the ADC; None where it never clips."""
        if self.adc_bits is None:
            return None
        if self.offset == "analog_difference":
            return _signed_range(self.adc_bits)
        return 0, 2**self.adc_bits - 1

    @property
    def largest_count(self) -> int:
        """The most counts that the weights of one bit line give on the ideal crossbar."""
        return self.tile[0] * (2**self.slice_bits - 1) * (2**self.stream_bits - 1)


def _signed_range(bits: int, *, symmetric: bool = False) -> tuple[int, int]:
    """Two's complement of so many bits, or a sign and a magnitude of at least one bit."""
    if symmetric:
        top = 2 ** max(1, bits - 1) - 1
        return -top, top
    return -(2 ** (bits - 1)), 2 ** (bits - 1) - 1
