"""Errors of predicted column currents against exact ones."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from geniex.circuit import non_ideality_factor
from geniex.circuit.figures import relative_error

TAIL = 0.999
"""The quantile that is reported beside RMS and maximum."""

_MOST_LOGS = 700.0
"""Of a factor that float64 still holds."""
_DRAWN_AT_ONCE = 10_000_000
"""Samples that a bootstrap draws at once, for its memory."""


@dataclass(frozen=True)
class CurrentErrors:
    """How far predicted column currents are from the exact ones."""

    nf_rmse_pp: float
    """RMS difference of the non-ideality factors, percent points; NaN where no column has one."""
    relative_rms: float
    """RMS of |dI_j| / max(|I_j|, 1e-3 max_j |I_j|)."""
    relative_p999: float
    """Its 99.9th percentile."""
    relative_max: float
    """Its maximum."""
    columns: int
    """Column currents that were compared."""

    def to_dict(self) -> dict[str, Any]:
        """The figures by name, JSON-ready: None where there is none."""
        return {name: finite(value) for name, value in dataclasses.asdict(self).items()}


def nf_error(ideal: Tensor, exact: Tensor, predicted: Tensor) -> Tensor:
    """NF of ``predicted`` minus NF of ``exact`` currents, a fraction, in their shape; NaN where I_ideal = 0."""
    return non_ideality_factor(ideal, predicted) - non_ideality_factor(ideal, exact)


def current_errors(ideal: Tensor, exact: Tensor, predicted: Tensor) -> CurrentErrors:
    """Errors of ``predicted`` currents (..., cols) [A] against ``exact`` ones; ``ideal`` ones define the NF."""
    return summarised(nf_error(ideal, exact, predicted), relative_error(exact, predicted))


def summarised(nf: Tensor, relative: Tensor) -> CurrentErrors:
    """The figures of at least one column's ``nf_error`` and ``relative_error``, each of any shape."""
    ordered = relative.flatten().sort().values
    return CurrentErrors(
        nf_rmse_pp=100 * nf.square().nanmean().sqrt().item(),
        relative_rms=ordered.square().mean().sqrt().item(),
        relative_p999=ordered[round(TAIL * (ordered.numel() - 1))].item(),
        relative_max=ordered[-1].item(),
        columns=ordered.numel(),
    )


def wilson_interval(successes: int, trials: int, z: float = 1.959964) -> tuple[float, float]:
    """The 95 % confidence interval of a proportion (Wilson's score interval), both ends in 0..1.

    >>> low, high = wilson_interval(0, 10)
    >>> round(low, 3), round(high, 3)
    (0.0, 0.278)
    """
    if trials == 0:
        return 0.0, 1.0
    share = successes / trials
    centre = share + z * z / (2 * trials)
    spread = z * math.sqrt(share * (1 - share) / trials + z * z / (4 * trials * trials))
    scale = 1 + z * z / trials
    # The ends lie on either side of the share; at 0 and 1 rounding must not put them within it.
    return max(0.0, min(share, (centre - spread) / scale)), min(1.0, max(share, (centre + spread) / scale))


def bootstrap_ratio(above: Tensor, below: Tensor, draws: int = 2000, seed: int = 0) -> tuple[float, float]:
    """The 95 % percentile-bootstrap interval of sum(above) / sum(below), both (samples,), drawn in pairs.

    NaN where a draw's sum(below) is not above 0: there is no such ratio then.
    """
    generator = np.random.default_rng(seed)
    # Samples that are the same are drawn together: images are right or wrong, thousands of them in a few kinds.
    kinds, counts = torch.stack([above, below], 1).double().cpu().unique(dim=0, return_counts=True)
    shares = counts.double().numpy() / len(above)
    ratios = torch.empty(0, dtype=torch.float64)
    for part in torch.arange(draws).split(max(1, _DRAWN_AT_ONCE // len(kinds))):
        drawn = torch.from_numpy(generator.multinomial(len(above), shares, size=len(part))).double()
        totals = drawn @ kinds
        if (totals[:, 1] <= 0).any():
            return math.nan, math.nan
        ratios = torch.cat([ratios, totals[:, 0] / totals[:, 1]])
    low, high = torch.quantile(ratios, ratios.new_tensor([0.025, 0.975])).tolist()
    # Of few samples the percentiles may miss the ratio itself, which must lie in its own interval.
    own = float(above.double().sum() / below.double().sum())
    return min(low, own), max(high, own)


def logit_error(found: Tensor, truth: Tensor) -> tuple[float, float, float]:
    """How far logits lie from ``truth``, both (images, classes), and the ends of its 95 % interval over the images.

    The RMS of the difference over the RMS of ``truth``; the interval is a percentile bootstrap of images.
    """
    apart, there = (x.double().square().sum(-1) for x in (found.double() - truth.double(), truth))
    low, high = bootstrap_ratio(apart, there)
    return math.sqrt(float(apart.sum() / there.sum())), math.sqrt(low), math.sqrt(high)


def bootstrap_mean(values: Tensor, draws: int = 2000, seed: int = 0) -> tuple[float, float]:
    """The 95 % percentile-bootstrap interval of the mean of ``values`` (samples,)."""
    return bootstrap_ratio(values, torch.ones_like(values), draws, seed)


def mean_interval(values: Tensor, low: float = -math.inf, high: float = math.inf) -> tuple[float, float]:
    """The 95 % confidence interval of the mean of ``values`` (samples,), by Student's t; all that is allowed for one.

    A mean that cannot lie below ``low`` has its interval on the scale of log(mean - low), and one that cannot lie
    above ``high`` either on the logit scale between the two, by the delta method: both ends are then allowed values,
    and the mean lies between them. Few values that scatter little have the same interval on every scale.

    Args:
        values: independent samples of about a normal distribution.
        low: below which no mean can be.
        high: above which no mean can be; only beside a finite ``low``.

    >>> low, high = mean_interval(torch.tensor([1.0, 2.0, 3.0]))
    >>> round(low, 3), round(high, 3)
    (-0.484, 4.484)
    >>> low, high = mean_interval(torch.tensor([0.90, 0.99, 0.96]), 0.0, 1.0)  # accuracies
    >>> round(low, 3), round(high, 3)
    (0.634, 0.995)
    """
    values = values.double()
    mean, count = float(values.mean()), values.numel()
    if count == 1:
        return low, high
    half = student_quantile(count - 1) * float(values.std()) / math.sqrt(count)
    if low == -math.inf:
        return mean - half, mean + half
    below, above = mean - low, high - mean
    if below <= 0 or above <= 0:  # at an end these scales have no slope
        return max(low, mean - half), min(high, mean + half)
    if above == math.inf:
        factor = math.exp(min(half / below, _MOST_LOGS))
        return low + below / factor, low + below * factor
    factor = math.exp(min(half * (high - low) / (below * above), _MOST_LOGS))
    ends = [(low * above + high * odds * below) / (above + odds * below) for odds in (1 / factor, factor)]
    return min(mean, ends[0]), max(mean, ends[1])


def difference_interval(values: Tensor, low: float, high: float) -> tuple[float, float]:
    """The 95 % confidence interval of the mean of paired differences (samples,), by Student's t, cut off at the bounds.

    Differences of accuracies scatter alike on both sides of their mean, however near to 0 or 100 % the accuracies are:
    their scale is left as it is, and what no accuracy can make is only cut off.

    >>> low, high = difference_interval(torch.tensor([0.1, 0.9, 0.8]), -0.9, 0.9)  # below a reference of 90 %
    >>> round(low, 3), high
    (-0.483, 0.9)
    """
    ends = mean_interval(values)
    mean = float(values.double().mean())
    return min(mean, max(low, ends[0])), max(mean, min(high, ends[1]))


def ratio_interval(above: Tensor, below: Tensor) -> tuple[float, float]:
    """The 95 % confidence interval of mean(above) / mean(below), both (samples,) in pairs, by Student's t.

    The ratio is taken as linear in both means, which holds where mean(below) is known well; infinite for one sample.
    """
    above, below = above.double(), below.double()
    ratio = float(above.mean() / below.mean())
    low, high = mean_interval((above - ratio * below) / below.mean())
    return ratio + low, ratio + high


def student_quantile(freedom: int, coverage: float = 0.95) -> float:
    """The t that Student's distribution of ``freedom`` degrees keeps within with probability ``coverage``."""
    from scipy.special import stdtrit

    return float(stdtrit(freedom, (1 + coverage) / 2))


def finite(value: float) -> float | None:
    """The value, for JSON; None for an infinite one and for no number."""
    return value if math.isfinite(value) else None
