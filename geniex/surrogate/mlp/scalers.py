"""Scaling of a surrogate's inputs and targets to order one, and back."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from geniex.config import Config, check_number
from geniex.errors import InputError
from geniex.mapping import ConductanceWindow

RATIO_FLOOR = 0.5
"""Lower limit of unscaled ratios, as a fraction of the lowest ratio in training."""
_MIN_SPAN = 1e-6
"""Lower limit of the span that ratios are divided by, because an ideal array's ratio is 1 everywhere."""


@dataclass(frozen=True)
class Scalers(Config):
    """The scalers of one configuration (Chakraborty et al., DAC 2020), to G', V' and f_R' and back.

    f_R = I_ideal / I is the ratio that the network learns, one per column.
    """

    window: ConductanceWindow
    """Range of the conductances: G' = (G - G_off) / (G_on - G_off)."""
    v_max: float
    """Full-scale voltage, volt: V' = V / V_max."""
    r_min: float = 0.0
    """Lowest ratio of the training data."""
    r_max: float = 1.0
    """Highest ratio of the training data: f_R' = (f_R - r_min) / (r_max - r_min)."""

    def __post_init__(self) -> None:
        check_number("v_max", self.v_max, low=0.0, unit="volt", open_low=True)
        check_number("r_min", self.r_min, low=0.0)
        check_number("r_max", self.r_max, low=self.r_min)

    @classmethod
    def fit(cls, window: ConductanceWindow, v_max: float, ratios: Tensor) -> Scalers:
        """Scalers with the r_min and r_max of ``ratios`` (any shape), of which NaN (no ratio) does not count."""
        known = ratios[~torch.isnan(ratios)]
        if not known.numel() or not torch.isfinite(known).all() or known.min() <= 0:
            span = f"{known.min().item():g} to {known.max().item():g}" if known.numel() else "none"
            raise InputError("ratios", span, "every ratio I_ideal / I must be positive and finite; is V >= 0?")
        return cls(window, v_max, known.min().item(), known.max().item())

    @property
    def span(self) -> float:
        """r_max - r_min, kept away from zero."""
        return max(self.r_max - self.r_min, _MIN_SPAN)

    def scale_conductance(self, g: Tensor) -> Tensor:
        """G' in 0..1 for conductances ``g`` [S] within the window."""
        return (g - self.window.g_off) / (self.window.g_on - self.window.g_off)

    def scale_voltage(self, v: Tensor) -> Tensor:
        """V' in 0..1 for voltages ``v`` [V] up to V_max."""
        return v / self.v_max

    def scale_ratio(self, f: Tensor) -> Tensor:
        """f_R' of ratios ``f``: 0..1 over the training data."""
        return (f - self.r_min) / self.span

    def unscale_ratio(self, scaled: Tensor) -> Tensor:
        """f_R of scaled ratios, never below ``RATIO_FLOOR * r_min``.

        A current is I_ideal / f_R, so a ratio extrapolated to zero or below would give an unbounded or negative
        current. Below the floor the gradient is zero, as a ReLU's.
        """
        return torch.clamp(self.r_min + self.span * scaled, min=RATIO_FLOOR * self.r_min)


def current_ratio(ideal: Tensor, currents: Tensor) -> Tensor:
    """f_R = I_ideal / I per column, dimensionless; NaN where I_ideal = 0."""
    empty = ideal == 0
    return torch.where(empty, torch.nan, ideal / torch.where(empty, 1.0, currents))
