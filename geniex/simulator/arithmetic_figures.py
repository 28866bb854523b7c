"""Figures of how well a converted layer's numbers fit its fixed point, ADCs and accumulators, for its report.

Where they fit badly, a caution says so, and names the setting that avoids it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch

from geniex.circuit.checks import has_values
from geniex.mapping import Architecture
from geniex.simulator.matrix import CrossbarMatrix
from geniex.simulator.periphery.converters import ConverterUse
from geniex.simulator.plan import PlannedLayer
from geniex.simulator.scales import (
    InputStatistics,
    Quantisation,
    Scale,
    measure_input_quantisation,
    measure_weight_quantisation,
)

_USE_VECTORS, _USE_COLUMNS = 16, 1 << 13
"""Fewest calibration vectors on which the use of a matrix's converters is looked at, and bit lines times vectors."""
_CLIPPED = 1e-3
"""Share of numbers, conversions or sums beyond their range above which a layer gets a caution."""
_FEW_CODES, _FEW_OF_ALL = 64, 0.25
"""Codes in use, and their share of the ADC's codes. Below both, a step above one count loses resolution needlessly."""
_COARSE = 0.3
"""Relative fixed-point error above which the range, and not the bit width, is to blame."""
_WIDE = 6
"""Bit width at which numbers that use their range have a far smaller error than ``_COARSE``."""


def measure_arithmetic(
    layer: PlannedLayer, matrices: Sequence[CrossbarMatrix], seen: Sequence[InputStatistics] | None
) -> dict[str, Any]:
    """The errors of fixed point, ADCs and accumulators on a layer's numbers, as fields of its report."""
    arch, weight = layer.architecture, layer.weight
    if not has_values(weight):
        return {}
    lows, highs, weights = list[float](), list[float](), _Total()
    for block, matrix in zip(layer.packing.blocks(weight), matrices, strict=True):
        step = torch.ones(()) if matrix.adc_step is None else matrix.adc_step
        lows.append(float(step.min()))
        highs.append(float(step.max()))
        scale = Scale(matrix.weight_frac_bits, matrix.weight_gain)
        weights.add(block.numel(), measure_weight_quantisation(block, arch, scale))
    inputs, use = _Total(), None
    converting = (arch.adc_codes, arch.accumulator_bits) != (None, None)
    usable = seen is not None and all(one.count for one in seen)
    for one, matrix in zip(seen or (), matrices, strict=True) if usable else ():
        scale = Scale(matrix.input_frac_bits, matrix.input_gain)
        inputs.add(one.count, measure_input_quantisation(one.vectors, arch, scale))
        if converting:
            # The first vectors of the sample chose the ADC ranges; the last ones are new.
            last = one.vectors[-max(_USE_VECTORS, _USE_COLUMNS // matrix.bit_lines) :]
            used = matrix.converter_use(last)
            use = used if use is None else use + used
    told = "all of its calibration inputs are 0 and give no range: calibrate on other inputs"
    empty = (told,) if seen and all(one.count and not one.largest for one in seen) else ()
    step_ends, weight_fit, input_fit = (min(lows), max(highs)), weights.quantisation, inputs.quantisation
    assert weight_fit is not None
    return {
        "weight_error": weight_fit.error,
        "weights_clipped": weight_fit.clipped,
        "input_error": None if input_fit is None else input_fit.error,
        "inputs_clipped": None if input_fit is None else input_fit.clipped,
        "adc_step": None if arch.adc_codes is None else step_ends,
        "adc_clipped": None if use is None or arch.adc_codes is None else use.clipped_share,
        "adc_codes_used": None if use is None else use.codes_used,
        "overflowed": None if use is None or arch.accumulator_bits is None else use.overflowed_share,
        "adc_error": None if use is None or arch.adc_codes is None else use.adc_error,
        "accumulator_error": None if use is None or arch.accumulator_bits is None else use.accumulator_error,
        "cautions": (*empty, *list_cautions(arch, weight_fit, input_fit, use, step_ends[1])),
    }


class _Total:
    """The fixed-point errors of the numbers of several matrices; errors add up in square."""

    def __init__(self) -> None:
        self.count, self.square, self.clipped, self.typical = 0, 0.0, 0.0, 0.0

    def add(self, count: int, found: Quantisation) -> None:
        """Add a matrix of ``count`` numbers."""
        self.count += count
        self.square += count * found.error**2
        self.clipped += count * found.clipped
        self.typical = max(self.typical, found.typical)

    @property
    def quantisation(self) -> Quantisation | None:
        """The errors over all matrices; None without any."""
        if not self.count:
            return None
        return Quantisation(math.sqrt(self.square / self.count), self.clipped / self.count, self.typical)


def list_cautions(
    arch: Architecture,
    weights: Quantisation,
    inputs: Quantisation | None,
    use: ConverterUse | None,
    largest_step: float,
) -> tuple[str, ...]:
    """Sentences that say what clips, overflows or is too coarse on a layer's calibration inputs, and what to set.

    ``inputs`` and ``use`` are None where calibration saw no inputs. ``largest_step`` is the ADC's largest step, in
    counts per code.
    """
    found = [_weights(arch, weights)]
    if inputs is not None:
        found.append(_inputs(arch, inputs))
    if use is not None:
        adc = _clipping(arch, use) or _few_codes(arch, use, largest_step) or _coarse_adc(arch, use)
        found += [adc, _accumulator(arch, use)]
    return tuple(text for text in found if text)


def _weights(arch: Architecture, found: Quantisation) -> str:
    fixed = arch.weight_frac_bits is not None and arch.weight_scale == "power_of_two"
    if found.clipped > _CLIPPED:
        set_to = "set weight_frac_bits=None" if fixed else "give a larger weight_full_scale"
        return f"{found.clipped:.2%} of its weights lie beyond the fixed-point range and clip: {set_to}"
    error = max(found.error, found.typical)
    if error > _COARSE and arch.weight_bits >= _WIDE:
        set_to = "weight_frac_bits=None" if fixed else "weight_scale='channel' if a few weights are far larger"
        return f"fixed point changes most of its outputs' weights by {error:.0%} (RMS): set {set_to}"
    return ""


def _inputs(arch: Architecture, found: Quantisation) -> str:
    fixed = arch.input_frac_bits is not None and arch.input_scale == "power_of_two"
    chosen = arch.input_calibration != "max" and arch.streaming != "unsigned"  # the user then asked for clipping
    if found.clipped > _CLIPPED and not chosen:
        unsigned = arch.streaming == "unsigned"
        set_to = "set input_frac_bits=None" if fixed else "calibrate on inputs that cover the whole range"
        set_to = "use another input_scheme if they are negative" if unsigned else set_to
        return f"{found.clipped:.2%} of its inputs lie beyond the fixed-point range and clip: {set_to}"
    error = max(found.error, found.typical)
    if error > _COARSE and arch.input_bits >= _WIDE and not chosen:
        set_to = "set input_frac_bits=None" if fixed else "set input_calibration='mse' if a few inputs are far larger"
        return f"fixed point changes most of its inputs by {error:.0%} (RMS): {set_to}"
    return ""


def _clipping(arch: Architecture, use: ConverterUse) -> str:
    share = use.clipped_share
    if share is None or share <= _CLIPPED or arch.adc_codes is None:
        return ""
    low, high = arch.adc_codes
    remedies = []
    if low == 0 and use.lowest_wanted < 0:
        remedies.append("set offset='analog_difference', whose ADC is signed, as counts fall below 0")
    if low < 0 or use.highest_wanted > high:
        calibrated = arch.adc_range in ("auto", "calibrated")
        better = "calibrate on more inputs" if calibrated else "set adc_range='calibrated'"
        remedies.append("give it more adc_bits" if arch.adc_bits == 1 else better)
    return (
        f"{share:.2%} of its ADC conversions clip (adc_range={arch.adc_range!r}, {arch.adc_bits} bits, codes {low} to"
        f" {high}): {', and '.join(remedies)}"
    )


def _few_codes(arch: Architecture, use: ConverterUse, largest_step: float) -> str:
    used = use.codes_used
    if used is None or use.codes is None or arch.adc_range in ("auto", "calibrated"):
        return ""
    if largest_step <= 1 or used >= _FEW_OF_ALL or used * use.codes >= _FEW_CODES:
        return ""
    return (
        f"only {used:.1%} of its ADC's {use.codes} codes occur, each worth {largest_step:g} counts"
        f" (adc_range={arch.adc_range!r}): set adc_range='calibrated' for finer codes"
    )


def _coarse_adc(arch: Architecture, use: ConverterUse) -> str:
    if arch.adc_codes is None or use.adc_error is None or use.adc_error <= _COARSE:
        return ""
    finer = "more adc_bits" if arch.adc_granularity != "layer" else "more adc_bits, or a calibrated range by column"
    return f"its {arch.adc_bits}-bit ADC changes its sums by {use.adc_error:.0%} (RMS): set {finer}"


def _accumulator(arch: Architecture, use: ConverterUse) -> str:
    if arch.accumulator_bits is None:
        return ""
    point = f"{arch.accumulator_bits}-bit accumulator (accumulator_frac_bits={arch.accumulator_frac_bits})"
    if use.overflowed:
        what = "wrap" if arch.accumulator_overflow == "wrap" else "saturate"
        return (
            f"{use.overflowed_share:.2%} of its sums {what} in the {point}: set accumulator_bits=None, or"
            " accumulator_frac_bits=None, which leaves room for the largest sum"
        )
    if use.accumulator_error is not None and use.accumulator_error > _COARSE:
        error = f"{use.accumulator_error:.0%} (RMS)"
        return f"the {point} changes its sums by {error}, because it cuts off bits: set more accumulator_bits"
    return ""
