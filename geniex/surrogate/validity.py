"""How far a read of an expansion may be off, told from the read itself.

The error of an expansion grows with the cells' non-linearity, with what the wires take, and with how little a column
carries beside its neighbours. Each is a figure that a read gives for two more products; a line through their
logarithms, fitted to exact solutions, predicts the logarithm of the relative error, and lies above 95 % of them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from geniex.circuit import shared_matmul
from geniex.circuit.figures import current_scale

COVERAGE = 0.95
"""Share of column currents whose error lies below the bound, on the data that it was fitted to."""
_SMALLEST = 1e-6
"""Indicators below this are taken for it: what is smaller makes no error that matters."""
_RESOLVED = 1e-9
"""Relative errors below this are the exact solver's own."""


@dataclass(frozen=True)
class Validity:
    """log10 of the relative error that most columns stay below: a line in the logarithms of ``indicators``."""

    slopes: tuple[float, ...]
    """One for each indicator."""
    constant: float

    def bound(self, figures: Tensor) -> Tensor:
        """Relative errors (...) for ``figures`` (..., indicators)."""
        slopes = torch.tensor(self.slopes, dtype=figures.dtype, device=figures.device)
        return torch.exp(math.log(10) * (figures @ slopes + self.constant))


def indicators(response: Tensor, conductances: Tensor, voltages: Tensor, currents: Tensor) -> Tensor:
    """log10 of what errors grow with, (..., cols, 7), for column ``currents`` (..., cols) [A] of a read.

    In order: non-linearity, |I - A^T V| over the current; the column's rise, its current over that with all drivers
    at the mean input; the rises' mean over the tile; how far the column is from it; the current lost in the wires
    with all drivers alike; the mean rise over the column's; the share of the largest inputs in the linear current.

    Args:
        response: the linear array's A (..., rows, cols) [S].
        conductances: (..., rows, cols) [S].
        voltages: (..., rows) [V].
        currents: as read.
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


def fitted(figures: Tensor, errors: Tensor, slopes: tuple[float, ...] | None = None) -> Validity:
    """The least-squares line through the logarithms of relative ``errors`` (...), raised above most of them.

    ``figures`` (..., indicators) are those of the same columns. Columns without an error, as those of arrays that
    carry nothing, are left out. With ``slopes`` only the line's height is fitted, for which a few tiles are enough.
    """
    figures, errors = figures.flatten(0, -2).double(), errors.flatten().double()
    known = torch.isfinite(errors) & torch.isfinite(figures).all(-1) & (errors > 0)
    if not known.any():  # exact to the last bit everywhere, as ideal circuits are
        return Validity(slopes or (0.0,) * figures.shape[-1], math.log10(_RESOLVED))
    figures, wanted = figures[known], (errors[known] + _RESOLVED).log10()
    if slopes is None:
        basis = torch.cat([figures, torch.ones_like(figures[:, :1])], -1)
        slopes = tuple(torch.linalg.lstsq(basis, wanted[:, None]).solution[:-1, 0].tolist())
    rest = wanted - figures @ figures.new_tensor(slopes)
    return Validity(slopes, _quantile(rest, COVERAGE))


def _quantile(x: Tensor, share: float) -> float:
    return float(x.sort().values[min(len(x) - 1, math.ceil(share * len(x)))])


def _positive(x: Tensor) -> Tensor:
    return x.clamp(min=torch.finfo(x.dtype).tiny)
