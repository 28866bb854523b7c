"""The error bound of an expansion, predicted from the read itself.

The error of an expansion grows with the cells' non-linearity, with the current lost in the wires, and with the
imbalance between a column and its neighbours. Two more matrix products give these indicators for every read. A linear
function of their logarithms, fitted to exact solutions, predicts the logarithm of the relative error and lies above
95 % of the errors.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from geniex.circuit import shared_matmul
from geniex.circuit.metrics import current_scale

COVERAGE = 0.95
"""Share of column currents whose error lies below the bound, on the data that the bound was fitted to."""
_SMALLEST = 1e-6
"""Lower limit that indicators are raised to; smaller ones cause no error that matters."""
_RESOLVED = 1e-9
"""Relative error below which errors are the exact solver's own."""


@dataclass(frozen=True)
class Validity:
    """The error bound: log10 of the relative error that most columns stay below is linear in the ``indicators``."""

    slopes: tuple[float, ...]
    """Slope for each indicator."""
    constant: float
    """Value where all indicators are 0."""

    def bound(self, figures: Tensor) -> Tensor:
        """Bounds of the relative errors (...) for the indicators ``figures`` (..., indicators)."""
        slopes = torch.tensor(self.slopes, dtype=figures.dtype, device=figures.device)
        return torch.exp(math.log(10) * (figures @ slopes + self.constant))


def indicators(response: Tensor, conductances: Tensor, voltages: Tensor, currents: Tensor) -> Tensor:
    """log10 of the seven indicators (..., cols, 7) that errors grow with, for the columns of a read.

    1. The non-linearity |I - A^T V|, relative to the column's current.
    2. The column's rise: its current over the linear one with all drivers at the largest input.
    3. The mean of the rises over the tile.
    4. The difference between the column's rise and that mean.
    5. The share of the current that the wires take with all drivers alike.
    6. The column's current if it rose by the mean, relative to its current.
    7. The linear current with inputs cubed, (V / max V)^2 V, relative to the column's current: the weight of the
       largest inputs.

    Args:
        response: the linear array's A (..., rows, cols) [S].
        conductances: (..., rows, cols) [S].
        voltages: driver voltages (..., rows) [V].
        currents: column currents (..., cols) [A] as read.
    """
    scale = current_scale(currents).clamp(min=torch.finfo(currents.dtype).tiny)
    top = voltages.amax(-1, keepdim=True).clamp(min=torch.finfo(voltages.dtype).tiny)
    linear = shared_matmul(voltages, response)
    peaked = shared_matmul(voltages * (voltages / top).square(), response)
    full = _positive(response.sum(-2)) * top  # with all drivers at the largest input
    lost = 1 - response.sum(-2) / _positive(conductances.sum(-2))
    rise, mean = currents / full, currents.sum(-1, keepdim=True) / full.sum(-1, keepdim=True)
    figures = (
        (currents - linear).abs() / scale,
        rise.abs(),
        mean.abs().expand_as(rise),
        (rise - mean).abs(),
        lost.abs().expand_as(rise),
        (full * mean).abs() / scale,
        peaked.abs() / scale,
    )
    return torch.stack([figure.clamp(min=_SMALLEST).log10() for figure in figures], -1)


def fit_bound(figures: Tensor, errors: Tensor, slopes: tuple[float, ...] | None = None) -> Validity:
    """The least-squares fit to the logarithms of relative ``errors`` (...), raised above most of them.

    ``figures`` (..., indicators) are the indicators of the same columns. Columns without an error, as in arrays that
    carry no current, are left out. Where ``slopes`` are given, only the constant is fitted, for which a few tiles are
    enough.
    """
    figures, errors = figures.flatten(0, -2).double(), errors.flatten().double()
    known = torch.isfinite(errors) & torch.isfinite(figures).all(-1) & (errors > 0)
    if not known.any():  # the surrogate is exact to the last bit everywhere, as for ideal circuits
        return Validity(slopes or (0.0,) * figures.shape[-1], math.log10(_RESOLVED))
    figures, wanted = figures[known], (errors[known] + _RESOLVED).log10()
    if slopes is None:
        basis = torch.cat([figures, torch.ones_like(figures[:, :1])], -1)
        slopes = tuple(torch.linalg.lstsq(basis, wanted[:, None]).solution[:-1, 0].tolist())
    rest = (wanted - figures @ figures.new_tensor(slopes)).sort().values
    return Validity(slopes, float(rest[min(len(rest) - 1, math.ceil(COVERAGE * len(rest)))]))


def _positive(x: Tensor) -> Tensor:
    return x.clamp(min=torch.finfo(x.dtype).tiny)
