"""Errors of predicted column currents and of logits, and confidence intervals."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from geniex.circuit import non_ideality_factor
from geniex.circuit.metrics import relative_error

TAIL = 0.999
"""Quantile that is reported beside RMS and maximum."""

_MOST_LOGS = 700.0
"""Largest logarithm of a factor that float64 still holds."""
_DRAWN_AT_ONCE = 10_000_000
"""Numbers that a bootstrap draws at once, which limits its memory."""


@dataclass(frozen=True)
class CurrentErrors:
    """Errors of predicted column currents against exact ones."""

    nf_rmse_pp: float
    """RMS difference of the non-ideality factors (NF), percent points; NaN if no column has one."""
    relative_rms: float
    """RMS of the relative error |dI_j| / max(|I_j|, 1e-3 max_j |I_j|)."""
    relative_p999: float
    """99.9th percentile of the relative error."""
    relative_max: float
    """Maximum of the relative error."""
    columns: int
    """Number of compared column currents."""

    def to_dict(self) -> dict[str, Any]:
        """The figures by name, JSON-ready; None for a figure that is not finite."""
        return {name: to_finite(value) for name, value in dataclasses.asdict(self).items()}


def compute_nf_error(ideal: Tensor, exact: Tensor, predicted: Tensor) -> Tensor:
    """The NF of ``predicted`` minus the NF of ``exact`` currents, a fraction in their shape; NaN where I_ideal = 0."""
    return non_ideality_factor(ideal, predicted) - non_ideality_factor(ideal, exact)


def measure_current_errors(ideal: Tensor, exact: Tensor, predicted: Tensor) -> CurrentErrors:
    """The errors of ``predicted`` currents (..., cols) [A] against ``exact`` ones; ``ideal`` ones define the NF."""
    return summarise(compute_nf_error(ideal, exact, predicted), relative_error(exact, predicted))


def summarise(nf: Tensor, relative: Tensor) -> CurrentErrors:
    """The figures from ``compute_nf_error`` and ``relative_error`` of at least one column, both of any shape."""
    ordered = relative.flatten().sort().values
    return CurrentErrors(
        nf_rmse_pp=100 * nf.square().nanmean().sqrt().item(),
        relative_rms=ordered.square().mean().sqrt().item(),
        relative_p999=ordered[round(TAIL * (ordered.numel() - 1))].item(),
        relative_max=ordered[-1].item(),
        columns=ordered.numel(),
    )


def wilson_interval(successes: int, trials: int, z: float = 1.959964) -> tuple[float, float]:
    """The 95 % confidence interval of a proportion (Wilson's score interval), with both ends in 0..1.

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
    # The ends lie on either side of the share; at shares of 0 and 1 rounding must not move them past it.
    return max(0.0, min(share, (centre - spread) / scale)), min(1.0, max(share, (centre + spread) / scale))


def bootstrap_ratio(above: Tensor, below: Tensor, draws: int = 2000, seed: int = 0) -> tuple[float, float]:
    """The 95 % percentile-bootstrap interval of sum(above) / sum(below), both (samples,), drawn in pairs.

    Both ends are NaN if sum(below) of any draw is not above 0, because that draw has no ratio.
    """
    generator = np.random.default_rng(seed)
    # Equal samples are drawn together: thousands of images, each right or wrong, make only a few kinds of samples.
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
    # With few samples the percentiles may miss the ratio itself, which must lie in its own interval.
    own = float(above.double().sum() / below.double().sum())
    return min(low, own), max(high, own)


def measure_logit_error(found: Tensor, truth: Tensor) -> tuple[float, float, float]:
    """The relative error of logits against ``truth``, both (images, classes), and the ends of its 95 % interval.

    The error is the RMS of the difference over the RMS of ``truth``. The interval is a percentile bootstrap over the
    images.
    """
    apart, there = (x.double().square().sum(-1) for x in (found.double() - truth.double(), truth))
    low, high = bootstrap_ratio(apart, there)
    return math.sqrt(float(apart.sum() / there.sum())), math.sqrt(low), math.sqrt(high)


def bootstrap_mean(values: Tensor, draws: int = 2000, seed: int = 0) -> tuple[float, float]:
    """The 95 % percentile-bootstrap interval of the mean of ``values`` (samples,)."""
    return bootstrap_ratio(values, torch.ones_like(values), draws, seed)


def mean_interval(values: Tensor, low: float = -math.inf, high: float = math.inf) -> tuple[float, float]:
    """The 95 % confidence interval of the mean of ``values`` (samples,), by Student's t.

    With a finite ``low`` the interval is taken on the scale of log(mean - low), and with a finite ``high`` too on the
    logit scale between the bounds, both by the delta method. The ends are then within the bounds, with the mean between
    them. Values with little scatter have nearly the same interval on every scale. A single value has the whole range
    from ``low`` to ``high`` as its interval.

    Args:
        values: independent samples of an approximately normal distribution.
        low: lower bound of the mean.
        high: upper bound of the mean; it needs a finite ``low``.

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
    if below <= 0 or above <= 0:  # at a bound the slope of these scales is infinite
        return max(low, mean - half), min(high, mean + half)
    if above == math.inf:
        factor = math.exp(min(half / below, _MOST_LOGS))
        return low + below / factor, low + below * factor
    factor = math.exp(min(half * (high - low) / (below * above), _MOST_LOGS))
    ends = [(low * above + high * odds * below) / (above + odds * below) for odds in (1 / factor, factor)]
    return min(mean, ends[0]), max(mean, ends[1])


def difference_interval(values: Tensor, low: float, high: float) -> tuple[float, float]:
    """The 95 % confidence interval of the mean of paired differences (samples,), by Student's t, cut off at the bounds.

    Differences of accuracies scatter symmetrically around their mean even if the accuracies are near 0 or 100 %.
    Their scale is therefore not transformed; values that no accuracies can give are only cut off.

    >>> low, high = difference_interval(torch.tensor([0.1, 0.9, 0.8]), -0.9, 0.9)  # below a reference of 90 %
    >>> round(low, 3), high
    (-0.483, 0.9)
    """
    ends = mean_interval(values)
    mean = float(values.double().mean())
    return min(mean, max(low, ends[0])), max(mean, min(high, ends[1]))


def ratio_interval(above: Tensor, below: Tensor) -> tuple[float, float]:
    """The 95 % confidence interval of mean(above) / mean(below), both (samples,) in pairs, by Student's t.

    The ratio is linearised in both means, which holds if mean(below) is known well. The interval of a single pair is
    infinite.
    """
    above, below = above.double(), below.double()
    ratio = float(above.mean() / below.mean())
    low, high = mean_interval((above - ratio * below) / below.mean())
    return ratio + low, ratio + high


def student_quantile(freedom: int, coverage: float = 0.95) -> float:
    """The t for which Student's distribution of ``freedom`` degrees of freedom has P(|T| <= t) = ``coverage``."""
    from scipy.special import stdtrit

    return float(stdtrit(freedom, (1 + coverage) / 2))


def to_finite(value: float) -> float | None:
    """The value for JSON; None for infinities and NaN."""
    return value if math.isfinite(value) else None
