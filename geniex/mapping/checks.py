"""Checks of an ``Architecture``'s fields, each alone and all together."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, get_args, get_type_hints

from geniex.config import check_number, check_positive_int
from geniex.errors import InputError
from geniex.mapping.window import ConductanceWindow, check_drive

if TYPE_CHECKING:
    from geniex.mapping.architecture import Architecture

_WIDTHS = {
    "weight_bits": (24, "weights are always integers: 16 with weight_scale='channel' is nearly not to quantise them"),
    "input_bits": (24, "inputs are always integers: 16 with input_scale='tensor' is nearly not to quantise them"),
    "slice_bits": (12, "a cell holds at least 1 bit: as many as the weight's magnitude has put it into one cell"),
    "stream_bits": (12, "a read applies at least 1 bit: as many as the input's magnitude has apply it in one read"),
    "adc_bits": (
        48,
        "None for one that never clips, which with adc_rounding='none' and accumulator_bits=None is no ADC",
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


def checked_tile(tile: Any) -> tuple[int, int]:
    """``tile`` as (rows, cols); raises ``InputError`` unless it is two positive whole numbers."""
    if not isinstance(tile, (tuple, list)) or len(tile) != 2:
        raise InputError("tile", repr(tile), "it must be (rows, cols)")
    for name, value in zip(("tile rows", "tile cols"), tile, strict=True):
        check_positive_int(name, value)
    return (tile[0], tile[1])


def check_width(name: str, value: Any) -> None:
    """Raise ``InputError`` unless ``value`` is a width that the field ``name`` of an architecture may have."""
    most, instead = _WIDTHS[name]
    if value is None and name in _OPTIONAL:
        return
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= most:
        link = "or " if name in _OPTIONAL else ""
        raise InputError(
            name, repr(value), f"it must be a whole number of bits, at least 1 and at most {most}, {link}{instead}"
        )


def check_architecture(arch: Architecture) -> None:
    """Raise ``InputError`` unless every field's value is allowed, and all of them fit together."""
    check_drive(arch.v_max)
    if not isinstance(arch.window, ConductanceWindow):
        raise InputError("window", repr(arch.window), "it must be a ConductanceWindow")
    for name in _WIDTHS:
        check_width(name, getattr(arch, name))
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
            "two's complement weights have one array, nothing to take a difference with: use reference_column,"
            " ideal_before or ideal_after, or weight_scheme='offset'",
        )
    if arch.input_scheme == "twos_complement" and arch.stream_bits != 1:
        raise InputError(
            "input_scheme",
            repr(arch.input_scheme),
            f"only 1-bit streams are two's complement, and stream_bits is {arch.stream_bits}: use passes or unsigned",
        )


def _check_calibration(arch: Architecture) -> None:
    if arch.input_calibration != "max" and arch.input_scale == "power_of_two" and arch.input_frac_bits is not None:
        raise InputError("input_calibration", repr(arch.input_calibration), "input_frac_bits has fixed the range: None")
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
            "an analog value has no code and no place in an accumulator: set adc_bits and accumulator_bits to None",
        )
    if arch.adc_range in ("full_scale", "calibrated"):
        least = 2 if arch.offset == "analog_difference" else 1
        if arch.adc_bits is None or arch.adc_bits < least:
            raise InputError("adc_bits", arch.adc_bits, f"adc_range={arch.adc_range!r} needs at least {least}")
    if arch.adc_granularity != "layer" and arch.adc_range != "calibrated":
        raise InputError("adc_granularity", repr(arch.adc_granularity), "it needs adc_range='calibrated'")
