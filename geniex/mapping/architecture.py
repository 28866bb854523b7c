"""How numbers become levels and currents become numbers again: the digital side of a crossbar accelerator."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, Literal, Self

from geniex.config import Config, check_positive_int
from geniex.errors import InputError
from geniex.mapping.window import ConductanceWindow, check_drive

Offset = Literal["analog_difference", "reference_column", "ideal_before", "ideal_after"]
OFFSETS = ("analog_difference", "reference_column", "ideal_before", "ideal_after")


@dataclass(frozen=True, kw_only=True)
class Architecture(Config):
    """Fixed point, bit slices and streams, converters and accumulator of one accelerator.

    A weight is a sign and ``weight_bits - 1`` bits of magnitude; positive and negative magnitudes sit in two
    arrays, cut into slices of ``slice_bits``, most significant first, side by side on neighbouring bit lines.
    Inputs arrive in streams of ``stream_bits``: 1-bit streams are two's complement, wider ones take the
    positive and the negative part in two passes.

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
    """Bits of a weight, sign included."""
    weight_frac_bits: int | None = None
    """Fraction bits of a weight; None takes, layer by layer, as many as the largest weight leaves room for."""
    input_bits: int = 16
    """Bits of an input, sign included."""
    input_frac_bits: int | None = None
    """Fraction bits of an input; None takes as many as the largest calibration input leaves room for."""
    slice_bits: int = 4
    """Bits of a weight that one cell holds."""
    stream_bits: int = 4
    """Bits of an input that one read applies."""
    adc_bits: int | None = 14
    """Range of the ADC, whose step is one product of level steps: [0, 2^bits - 1], or signed
    [-2^(bits-1), 2^(bits-1) - 1] for ``analog_difference``. None never clips."""
    accumulator_bits: int | None = 32
    """Width at which a tile's shifted and added sum wraps around, sign included; None never wraps or truncates."""
    accumulator_frac_bits: int = 24
    """Fraction bits kept by the accumulator; what lies below is cut off towards zero."""
    offset: Offset = "analog_difference"
    """How the current of level 0, G_off sum(V), is removed. "analog_difference": the two arrays' currents are
    subtracted before one signed ADC; "reference_column": the measured current of a bit line at G_off, the last
    of each tile; "ideal_before": GENIEx's, the ideal offset is removed and the rest divided by
    f_R = I_ideal / I; "ideal_after": the ideal offset is subtracted from the measured current."""
    rounding: Literal["nearest", "floor"] = "nearest"
    """How numbers become fixed point; "floor" is towards zero for magnitudes, down for two's complement."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "tile", self._checked_tile())
        check_drive(self.v_max)
        for name in ("weight_bits", "input_bits"):
            check_positive_int(name, getattr(self, name), 24)
            if getattr(self, name) < 2:
                raise InputError(name, getattr(self, name), "a sign and at least one bit of magnitude: at least 2")
        check_positive_int("slice_bits", self.slice_bits, 12)
        check_positive_int("stream_bits", self.stream_bits, 12)
        if self.adc_bits is not None:
            check_positive_int("adc_bits", self.adc_bits, 48)
        if self.accumulator_bits is not None:
            check_positive_int("accumulator_bits", self.accumulator_bits, 52)
        for name in ("weight_frac_bits", "input_frac_bits", "accumulator_frac_bits"):
            value = getattr(self, name)
            if value is not None and not (isinstance(value, int) and abs(value) <= 60):
                raise InputError(name, repr(value), "it must be a whole number between -60 and 60")
        for name, allowed in (("offset", OFFSETS), ("rounding", ("nearest", "floor"))):
            if getattr(self, name) not in allowed:
                raise InputError(name, repr(getattr(self, name)), f"it must be one of {', '.join(allowed)}")
        if not isinstance(self.window, ConductanceWindow):
            raise InputError("window", repr(self.window), "it must be a ConductanceWindow")
        if self.outputs_per_tile < 1:
            raise InputError(
                "tile",
                self.tile,
                f"an output's {self.slices} slices must fit on a tile's {self.data_cols} bit lines",
            )

    def _checked_tile(self) -> tuple[int, int]:
        if not isinstance(self.tile, (tuple, list)) or len(self.tile) != 2:
            raise InputError("tile", repr(self.tile), "it must be (rows, cols)")
        for name, value in zip(("tile rows", "tile cols"), self.tile, strict=True):
            check_positive_int(name, value)
        return (self.tile[0], self.tile[1])

    @classmethod
    def puma(cls, **overrides: Any) -> Self:
        """The fixed-point semantics of the GENIEx authors' PUMA simulator (reference: DAC 2020, section 5).

        16 bits with 13 fraction bits, 4-bit slices and streams, 14-bit unsigned ADC per array, 32-bit
        accumulator with 24 fraction bits, ideal offset removed before the division by f_R, floor.
        """
        settings: dict[str, Any] = {
            "weight_frac_bits": 13,
            "input_frac_bits": 13,
            "offset": "ideal_before",
            "rounding": "floor",
        }
        return cls(**(settings | overrides))

    @property
    def slices(self) -> int:
        """Bit lines that one output takes."""
        return math.ceil((self.weight_bits - 1) / self.slice_bits)

    @property
    def passes(self) -> int:
        """1 for two's complement 1-bit streams, 2 where positive and negative parts are streamed apart."""
        return 1 if self.stream_bits == 1 else 2

    @property
    def streams(self) -> int:
        """Reads of one pass over an input."""
        return self.input_bits if self.stream_bits == 1 else math.ceil((self.input_bits - 1) / self.stream_bits)

    @property
    def data_cols(self) -> int:
        """Bit lines of a tile that hold weights."""
        return self.tile[1] - (self.offset == "reference_column")

    @property
    def outputs_per_tile(self) -> int:
        """Outputs whose slices fit side by side on one tile."""
        return self.data_cols // self.slices

    @property
    def current_scale(self) -> float:
        """ADC steps per ampere: one step is the product of one level step of G and one of V."""
        top = 2**self.stream_bits - 1
        return top / (self.window.step(2**self.slice_bits) * self.v_max)
