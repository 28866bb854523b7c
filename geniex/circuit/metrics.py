"""Figures of merit of a crossbar's currents."""

from __future__ import annotations

import torch
from torch import Tensor

RELATIVE_FLOOR = 1e-3
"""The fraction of an array's largest column current below which a column's error is relative to that bound instead."""


def non_ideality_factor(ideal: Tensor, actual: Tensor) -> Tensor:
    """The non-ideality factor NF = (I_ideal - I) / I_ideal, dimensionless (Chakraborty et al., DAC 2020, eq. 1).

    NaN where I_ideal = 0; negative where the cells' super-linearity exceeds the IR drop.

    >>> non_ideality_factor(torch.tensor([2.0]), torch.tensor([1.5]))
    tensor([0.2500])
    """
    safe = torch.where(ideal == 0, torch.nan, ideal)
    return (ideal - actual) / safe


def nf_rmse(ideal: Tensor, reference: Tensor, predicted: Tensor) -> Tensor:
    """Root mean square difference of the NF of ``predicted`` and ``reference`` currents, in percent points.

    Columns with I_ideal = 0 have no NF and do not count; the result is a scalar.
    """
    error = (non_ideality_factor(ideal, predicted) - non_ideality_factor(ideal, reference)) ** 2
    return 100 * torch.sqrt(torch.nanmean(error))


def current_scale(currents: Tensor) -> Tensor:
    """The scale max(|I_j|, 1e-3 max_j |I_j|) of errors of column currents (..., cols) [A]."""
    size = currents.abs()
    return torch.maximum(size, RELATIVE_FLOOR * size.amax(-1, keepdim=True))


def relative_error(exact: Tensor, predicted: Tensor) -> Tensor:
    """|dI_j| / max(|I_j|, 1e-3 max_j |I_j|) (..., cols), dimensionless; 0 where both solutions carry no current."""
    scale, error = current_scale(exact), (predicted - exact).abs()
    return torch.where((scale == 0) & (error == 0), 0.0, error / scale)
