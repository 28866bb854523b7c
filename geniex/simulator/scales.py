"""Statistics of a matrix's inputs in calibration, and the ranges chosen from them."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from geniex.circuit.checks import has_values
from geniex.config import check_number
from geniex.errors import InputError
from geniex.mapping import Architecture
from geniex.mapping.fixed_point import choose_gain, fit_frac_bits, to_input_integers, to_weight_integers

_OCTAVES = 10
"""Octaves below the largest magnitude in which the range of least squared error is sought."""


FullScale = float | tuple[float, ...]
"""The largest magnitude of a matrix's weights, or one for each output."""


class Scale(NamedTuple):
    """The real number for which an integer stands: integer * 2^-frac_bits * gain."""

    frac_bits: int
    gain: Tensor | None
    """Factor, float32: () for all numbers, or (outputs,) for each output; None is 1."""


class Quantisation(NamedTuple):
    """Fixed-point errors of a set of numbers."""

    error: float
    """RMS error of the fixed-point numbers, relative to the RMS of the exact numbers; 0 where all are 0."""
    clipped: float
    """Share of the numbers that lie beyond the fixed-point range by a last bit or more."""
    typical: float
    """Median of that error over single outputs or inputs, which shows how much precision a few large numbers cost."""


class InputStatistics:
    """Collects the range of the vectors that a matrix is multiplied with, and bounded samples of them.

    The samples are uniform over all that was added; equal seeds draw equal samples.

    >>> seen = InputStatistics()
    >>> seen.add(torch.tensor([[0.0, 2.0], [1.0, 0.5]]))
    >>> seen.count, seen.low, seen.high
    (4, 0.0, 2.0)
    """

    count: int
    """Number of values added."""
    low: float
    """Smallest value; infinity before any is added."""
    high: float
    """Largest value; minus infinity before any is added."""
    vectors: Tensor
    """A sample of whole vectors (at most ``max_vectors``, inputs), on the CPU."""
    values: Tensor
    """A sample of single values (at most ``max_values``,), float64, on the CPU."""

    def __init__(self, *, max_vectors: int = 512, max_values: int = 65536, seed: int = 0) -> None:
        self.max_vectors, self.max_values = max_vectors, max_values
        self.count, self.low, self.high = 0, float("inf"), float("-inf")
        self.values = torch.empty(0, dtype=torch.float64)
        self._generator = torch.Generator().manual_seed(seed)
        self._value_keys, self._vector_keys = torch.empty(0), torch.empty(0)

    def add(self, vectors: Tensor) -> None:
        """Add ``vectors`` (count, inputs) to the statistics."""
        if not isinstance(vectors, Tensor) or vectors.dim() != 2 or not vectors.is_floating_point():
            raise InputError(
                "vectors",
                getattr(vectors, "shape", type(vectors)),
                "it must be a floating-point tensor (count, inputs)",
            )
        if self.count and vectors.shape[1] != self.vectors.shape[1]:
            raise InputError("vectors", tuple(vectors.shape), f"earlier vectors had {self.vectors.shape[1]} inputs")
        if not has_values(vectors):
            raise InputError("vectors", "a tensor without values", "statistics need values")
        if vectors.numel() == 0:
            return
        vectors = vectors.detach()
        low, high = map(float, torch.aminmax(vectors))
        if not (abs(low) < float("inf") and abs(high) < float("inf")):
            raise InputError("calibration", "NaN or infinity", "every input of a layer must be finite")
        if not self.count:
            self.vectors = vectors.new_empty(0, vectors.shape[1], device="cpu")
        self.count += vectors.numel()
        self.low, self.high = min(self.low, low), max(self.high, high)
        self._vector_keys, self.vectors = self._sampled(vectors, self._vector_keys, self.vectors, self.max_vectors)
        self._value_keys, self.values = self._sampled(vectors.flatten(), self._value_keys, self.values, self.max_values)

    @property
    def non_negative(self) -> bool:
        """Whether values were added and none of them was negative."""
        return self.count > 0 and self.low >= 0

    @property
    def largest(self) -> float:
        """The largest magnitude; 0 before any value is added."""
        return max(-self.low, self.high) if self.count else 0.0

    def _sampled(self, new: Tensor, keys: Tensor, kept: Tensor, limit: int) -> tuple[Tensor, Tensor]:
        """The ``limit`` rows of ``kept`` and ``new`` with the smallest random keys: a uniform sample of all."""
        drawn = torch.rand(len(new), generator=self._generator)
        first = torch.topk(drawn, min(limit, len(new)), largest=False, sorted=False).indices
        all_keys = torch.cat([keys, drawn[first]])
        rows = torch.cat([kept, new[first.to(new.device)].to(kept)])
        best = torch.topk(all_keys, min(limit, len(all_keys)), largest=False).indices
        return all_keys[best], rows[best]


def choose_input_scale(architecture: Architecture, inputs: InputStatistics | float | None) -> Scale:
    """The scale of a matrix's inputs, from their calibration statistics or from their largest magnitude."""
    frac_bits, top = architecture.input_frac_bits, architecture.input_range[1]
    real = architecture.input_scale == "tensor"
    if frac_bits is not None and not real:
        return Scale(frac_bits, None)
    if inputs is None:
        raise InputError(
            "architecture.input_scale" if real else "architecture.input_frac_bits",
            repr(architecture.input_scale) if real else None,
            ("" if real else "give a number, or ") + "calibrate with convert(..., calibration=images) or inputs=",
        )
    if real and frac_bits is None:
        frac_bits = max(top, 1).bit_length()
    candidates = [_scale(architecture, largest, frac_bits) for largest in _ranges(architecture, inputs)]
    if len(candidates) == 1:
        return candidates[0]
    assert isinstance(inputs, InputStatistics)
    errors = [_squared_error(inputs.values, architecture, scale) for scale in candidates]
    return candidates[errors.index(min(errors))]


def choose_weight_scale(architecture: Architecture, weight: Tensor, full_scale: FullScale | None = None) -> Scale:
    """The scale of ``weight`` (outputs, inputs), from its largest magnitudes or from ``full_scale`` in their place."""
    frac_bits, top = architecture.weight_frac_bits, architecture.weight_range[1]
    magnitude = weight.detach().abs()
    given = None if full_scale is None else _full_scale(architecture, weight, full_scale)
    if architecture.weight_scale == "power_of_two":
        if frac_bits is None:
            if given is None and not has_values(weight):
                raise InputError(
                    "architecture.weight_frac_bits", None, "give a number, because these weights have no values"
                )
            frac_bits = fit_frac_bits(float(magnitude.max() if given is None else given), top)
        return Scale(frac_bits, None)
    if frac_bits is None:
        frac_bits = max(top, 1).bit_length()
    largest = magnitude.amax() if architecture.weight_scale == "tensor" else magnitude.amax(1)
    return Scale(
        frac_bits, choose_gain(largest if given is None else given.to(largest).expand_as(largest), top, frac_bits)
    )


def measure_weight_quantisation(weight: Tensor, architecture: Architecture, scale: Scale) -> Quantisation:
    """The fixed-point errors of ``weight`` (outputs, inputs)."""
    gain = 1.0 if scale.gain is None else scale.gain.to(weight.device).double().reshape(-1, 1)
    scaled = weight.detach().double() / gain
    integers = to_weight_integers(scaled, architecture, scale.frac_bits)
    return _quantisation(scaled, integers, gain, scale.frac_bits, architecture.weight_range)


def measure_input_quantisation(vectors: Tensor, architecture: Architecture, scale: Scale) -> Quantisation:
    """The fixed-point errors of the inputs ``vectors`` (count, inputs)."""
    gain = 1.0 if scale.gain is None else scale.gain.to(vectors.device).double()
    scaled = vectors.detach().double() / gain
    integers = to_input_integers(scaled, architecture, scale.frac_bits)
    return _quantisation(scaled.T, integers.T, gain, scale.frac_bits, architecture.input_range)


def _quantisation(
    scaled: Tensor, integers: Tensor, gain: Tensor | float, frac_bits: int, ends: tuple[int, int]
) -> Quantisation:
    """The errors of ``integers`` that stand for ``scaled`` times ``gain``, each row being an output or an input."""
    if not scaled.numel():
        return Quantisation(0.0, 0.0, 0.0)
    exact = scaled * 2.0**frac_bits
    power = (exact * gain).square().mean(1)
    noise = ((integers - exact) * gain).square().mean(1)
    by_row = torch.where(power > 0, noise / power.clamp(min=torch.finfo(power.dtype).tiny), 0.0).sqrt()
    error = math.sqrt(float(noise.mean()) / float(power.mean())) if power.any() else 0.0
    beyond = (exact <= ends[0] - 1) | (exact >= ends[1] + 1)
    return Quantisation(error, float(beyond.double().mean()), float(by_row.median()))


def check_weight(weight: Tensor) -> None:
    """Raise ``InputError`` unless ``weight`` is a finite matrix."""
    if not isinstance(weight, Tensor) or weight.dim() != 2 or not weight.is_floating_point():
        raise InputError(
            "weight", getattr(weight, "shape", type(weight)), "it must be a floating-point matrix (outputs, inputs)"
        )
    if weight.numel() == 0:
        raise InputError("weight", tuple(weight.shape), "it must hold at least one weight")
    if has_values(weight) and not torch.isfinite(weight).all():
        raise InputError("weight", "NaN or infinity", "every weight must be finite")


def check_vectors(vectors: Tensor, inputs: int) -> None:
    """Raise ``InputError`` unless ``vectors`` are one or more vectors (count, inputs)."""
    if vectors.dim() != 2 or not len(vectors) or vectors.shape[1] != inputs:
        raise InputError("vectors", tuple(vectors.shape), f"they must be one or more vectors (count, {inputs})")


def check_full_scale(full_scale: object, name: str = "weight_full_scale") -> None:
    """Raise ``InputError`` unless ``full_scale`` is a magnitude or a tuple of magnitudes."""
    for value in full_scale if isinstance(full_scale, tuple) and full_scale else (full_scale,):
        check_number(name, value, low=0.0, open_low=True)


def _full_scale(architecture: Architecture, weight: Tensor, full_scale: FullScale) -> Tensor:
    """The given magnitude (), or those of the outputs (outputs,), on the CPU."""
    check_full_scale(full_scale)
    if architecture.weight_scale == "power_of_two" and architecture.weight_frac_bits is not None:
        allowed = f"weight_frac_bits={architecture.weight_frac_bits} fixes the scale already: give only one of the two"
        raise InputError("weight_full_scale", full_scale, allowed)
    if isinstance(full_scale, tuple):
        if architecture.weight_scale != "channel":
            allowed = (
                f"it must be one number, because outputs share a scale with weight_scale={architecture.weight_scale!r}"
            )
            raise InputError("weight_full_scale", f"{len(full_scale)} numbers", allowed)
        if len(full_scale) != len(weight):
            allowed = f"it must be one number, or one for each of the {len(weight)} outputs"
            raise InputError("weight_full_scale", f"{len(full_scale)} numbers", allowed)
    return torch.tensor(full_scale, dtype=torch.float64)


def _scale(architecture: Architecture, largest: float, frac_bits: int | None) -> Scale:
    """The scale at which ``largest`` is the largest integer or, if a power of two, the finest at which it fits."""
    top = architecture.input_range[1]
    if architecture.input_scale == "power_of_two":
        return Scale(fit_frac_bits(largest, top), None)
    assert frac_bits is not None
    return Scale(frac_bits, choose_gain(torch.tensor(largest), top, frac_bits))


def _ranges(architecture: Architecture, inputs: InputStatistics | float) -> list[float]:
    """The largest magnitudes among which the input scale is chosen."""
    if not isinstance(inputs, InputStatistics):
        check_number("inputs", inputs, low=0.0)
        if architecture.input_calibration != "max":
            raise InputError(
                "inputs", inputs, f"input_calibration={architecture.input_calibration!r} needs InputStatistics"
            )
        return [inputs]
    unsigned = architecture.streaming == "unsigned"
    largest = max(inputs.high, 0.0) if unsigned else inputs.largest
    if architecture.input_calibration == "max" or largest == 0:
        return [largest]
    if architecture.input_calibration == "mse":
        per_octave = 1 if architecture.input_scale == "power_of_two" else 6
        return [largest * 2 ** (-k / per_octave) for k in range(_OCTAVES * per_octave)]
    magnitudes = inputs.values.clamp(min=0) if unsigned else inputs.values.abs()
    share = 99.9 if architecture.input_percentile is None else architecture.input_percentile
    return [float(torch.quantile(magnitudes, share / 100)) or largest]


def _squared_error(values: Tensor, architecture: Architecture, scale: Scale) -> float:
    factor = 1.0 if scale.gain is None else scale.gain.double()
    integers = to_input_integers(values / factor, architecture, scale.frac_bits)
    return float((integers * 2.0**-scale.frac_bits * factor - values).square().mean())
