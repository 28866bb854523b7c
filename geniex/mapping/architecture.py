"""The digital side of a crossbar accelerator: how numbers become levels, and currents become numbers again."""

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
        object.__setattr__(self, "tile", checked_tile(self.tile))
        check_architecture(self)

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

    @property
    def arrays(self) -> int:
        """Number of arrays that store a weight together: 2 for W+ and W-, otherwise 1."""
        return 2 if self.weight_scheme == "differential" else 1

    @property
    def slices(self) -> int:
        """Number of bit lines that one output takes on an array."""
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
        """The input scheme, with "auto" resolved."""
        if self.input_scheme != "auto":
            return self.input_scheme
        return "twos_complement" if self.stream_bits == 1 else "passes"

    @property
    def passes(self) -> int:
        """Number of passes over an input: 2 where positive and negative parts are streamed apart, otherwise 1."""
        return 2 if self.streaming == "passes" else 1

    @property
    def streams(self) -> int:
        """Number of reads in one pass over an input."""
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
        """Number of bit lines of a tile that hold the offset of weights, right after those of the data."""
        return self.slices if self.weight_scheme == "offset" else 0

    @property
    def data_cols(self) -> int:
        """Number of bit lines of a tile that can hold weights; they are the first ones."""
        return self.tile[1] - self.bias_cols - (self.offset == "reference_column")

    @property
    def outputs_per_tile(self) -> int:
        """Number of outputs whose slices fit side by side on one tile."""
        return self.data_cols // self.slices

    @property
    def current_scale(self) -> float:
        """Counts per ampere: one count is the product of one level step of G and one of V."""
        top = 2**self.stream_bits - 1
        return top / (self.window.step(2**self.slice_bits) * self.v_max)

    @property
    def adc_codes(self) -> tuple[int, int] | None:
        """Lowest and highest code of the ADC; None where the ADC never clips."""
        if self.adc_bits is None:
            return None
        if self.offset == "analog_difference":
            return _signed_range(self.adc_bits)
        return 0, 2**self.adc_bits - 1

    @property
    def largest_count(self) -> int:
        """Largest number of counts that one bit line gives on the ideal crossbar."""
        return self.tile[0] * (2**self.slice_bits - 1) * (2**self.stream_bits - 1)


def _signed_range(bits: int, *, symmetric: bool = False) -> tuple[int, int]:
    """Range of two's complement with ``bits`` bits, or of a sign and a magnitude of at least one bit."""
    if symmetric:
        top = 2 ** max(1, bits - 1) - 1
        return -top, top
    return -(2 ** (bits - 1)), 2 ** (bits - 1) - 1
