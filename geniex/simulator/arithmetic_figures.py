"""How well a converted layer's numbers fit its fixed point, ADCs and accumulators, for its report."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch

from geniex.circuit.checks import has_values
from geniex.simulator.cautions import cautions
from geniex.simulator.matrix import CrossbarMatrix
from geniex.simulator.periphery.converters import ConverterUse
from geniex.simulator.plan import PlannedLayer
from geniex.simulator.scales import InputStatistics, Quantisation, Scale, input_quantisation, weight_quantisation

_USE_VECTORS, _USE_COLUMNS = 16, 1 << 13
"""Fewest calibration vectors on which the use of a matrix's converters is looked at, and bit lines times vectors."""


def arithmetic_figures(
    layer: PlannedLayer, matrices: Sequence[CrossbarMatrix], seen: Sequence[InputStatistics] | None
) -> dict[str, Any]:
    """How well fixed point, ADCs and accumulators fit a layer's numbers, as fields of its report."""
    arch, weight = layer.architecture, layer.kind.weight_of(layer.module)
    if not has_values(weight):
        return {}
    steps = [1.0 if m.adc_step is None else m.adc_step for m in matrices]
    ends = [(float(torch.as_tensor(s).min()), float(torch.as_tensor(s).max())) for s in steps]
    step = (min(low for low, _ in ends), max(high for _, high in ends))
    weights = _over_matrices(
        [
            (block.numel(), weight_quantisation(block, arch, Scale(m.weight_frac_bits, m.weight_gain)))
            for block, m in zip(layer.packing.blocks(weight), matrices, strict=True)
        ]
    )
    inputs, use = None, None
    told = "all of its calibration inputs are 0, which tell no range: calibrate on inputs that are not"
    empty = (told,) if seen and all(one.count and not one.largest for one in seen) else ()
    if seen and all(one.count for one in seen):
        pairs = list(zip(seen, matrices, strict=True))
        inputs = _over_matrices(
            [
                (one.count, input_quantisation(one.vectors, arch, Scale(m.input_frac_bits, m.input_gain)))
                for one, m in pairs
            ]
        )
        if (arch.adc_codes, arch.accumulator_bits) != (None, None):
            # The last vectors of the sample: those that ADC ranges were chosen by come first.
            counts = [max(_USE_VECTORS, _USE_COLUMNS // m.bit_lines) for m in matrices]
            used = [m.converter_use(one.vectors[-n:]) for (one, m), n in zip(pairs, counts, strict=True)]
            use = sum(used, ConverterUse())
    return {
        "weight_error": weights.error,
        "weights_clipped": weights.clipped,
        "input_error": None if inputs is None else inputs.error,
        "inputs_clipped": None if inputs is None else inputs.clipped,
        "adc_step": None if arch.adc_codes is None else step,
        "adc_clipped": None if use is None or arch.adc_codes is None else use.clipped_share,
        "adc_codes_used": None if use is None else use.codes_used,
        "overflowed": None if use is None or arch.accumulator_bits is None else use.overflowed_share,
        "adc_error": None if use is None or arch.adc_codes is None else use.adc_error,
        "accumulator_error": None if use is None or arch.accumulator_bits is None else use.accumulator_error,
        "cautions": (*empty, *cautions(arch, weights, inputs, use, step[1])),
    }


def _over_matrices(found: Sequence[tuple[int, Quantisation]]) -> Quantisation:
    """What fixed point does to the numbers of several matrices, each with so many of them; errors add up in square."""
    total = sum(count for count, _ in found)
    square = sum(count * one.error**2 for count, one in found) / total
    clipped = sum(count * one.clipped for count, one in found) / total
    return Quantisation(math.sqrt(square), clipped, max(one.typical for _, one in found))
