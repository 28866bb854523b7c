"""Closed-form IR-drop models from the literature, as baselines; a read solves no node equations.

- DMR, the distance-based effective resistance: each cell is in series with its own wire path and nothing else.
- alpha-beta, the per-column affine fit: I_j = alpha_j I_ideal,j + beta_j, fitted on a few exact solutions.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from geniex.cells import Cell
from geniex.cells.base import per_tile
from geniex.circuit import Wires, shared_matmul, solve_cells

_SAME = 1e-6
"""Relative spread of ideal currents below which they are taken to be equal."""
CALIBRATION_TOL = 1e-6
"""Relative tolerance of the solutions that the affine model is fitted on, far below the model's own error."""


def compute_distance_conductance(small_signal: Tensor, wires: Wires) -> Tensor:
    """The distance-based (DMR) transfer matrix (..., rows, cols) [S] of cells ``small_signal`` (..., rows, cols) [S].

    Cell (i, j) is in series with its own path from the driver to the sense node,

        A_ij = 1 / (1 / g_ij + R_source + R_row j + R_col (N - 1 - i) + R_sink),

    as if no other cell drew current through it: the model ignores loads and so underestimates the drop. Wire scalars
    are floats, or tensors that broadcast against the leading dimensions.

    >>> cells = torch.full((2, 2), 1e-3, dtype=torch.float64)
    >>> compute_distance_conductance(cells, Wires(100.0, 50.0, 10.0, 20.0)) * 1e6
    tensor([[854.7009, 847.4576],
            [869.5652, 862.0690]], dtype=torch.float64)
    """
    rows, cols = small_signal.shape[-2:]
    along = torch.arange(cols, dtype=small_signal.dtype, device=small_signal.device)
    below = torch.arange(rows - 1, -1, -1, dtype=small_signal.dtype, device=small_signal.device)
    path = (
        per_tile(wires.r_source)
        + per_tile(wires.r_row) * along
        + per_tile(wires.r_col) * below[:, None]
        + per_tile(wires.r_sink)
    )
    return small_signal / (1 + small_signal * path)  # an open cell stays open


@dataclass(frozen=True)
class AffineFit:
    """The alpha-beta model of programmed arrays: I_j = alpha_j I_ideal,j + beta_j for each column j."""

    conductances: Tensor
    """Conductances (..., rows, cols) [S] that give the ideal currents."""
    alpha: Tensor
    """Slope (..., cols), dimensionless."""
    beta: Tensor
    """Offset (..., cols) [A]. It is not zero in general: the model carries a current at V = 0."""

    def read(self, voltages: Tensor) -> Tensor:
        """Column currents (..., cols) [A] for ``voltages`` (..., rows) [V]."""
        return self.alpha * shared_matmul(voltages, self.conductances) + self.beta


def fit_affine(voltages: Tensor, conductances: Tensor, currents: Tensor) -> AffineFit:
    """The alpha and beta of each array and column that minimise the squared NF error over some exact solutions.

    The NF error is (alpha I_ideal + beta - I) / I_ideal. Solutions therefore have the weight 1 / I_ideal^2, and
    solutions without ideal current do not count. A column with fewer than two different ideal currents has alpha = 1,
    and its beta is the weighted mean of I - I_ideal.

    Args:
        voltages: (..., vectors, rows) [V].
        conductances: (..., 1, rows, cols) [S]; the fit's tensors keep the 1.
        currents: exact ones (..., vectors, cols) [A].
    """
    ideal = shared_matmul(voltages, conductances)
    weight = torch.where(ideal == 0, 0.0, ideal.abs().amax(-2, keepdim=True) / ideal) ** 2
    total = weight.sum(-2, keepdim=True)
    share = weight / torch.where(total == 0, 1.0, total)
    mean_ideal, mean = (share * ideal).sum(-2, keepdim=True), (share * currents).sum(-2, keepdim=True)
    spread = ideal - mean_ideal
    size = (share * spread**2).sum(-2, keepdim=True)
    flat = size <= (_SAME * mean_ideal) ** 2
    slope = (share * spread * (currents - mean)).sum(-2, keepdim=True) / torch.where(flat, 1.0, size)
    alpha = torch.where(flat, 1.0, slope)
    return AffineFit(conductances, alpha, mean - alpha * mean_ideal)


def calibrate_affine(
    conductances: Tensor, cell: Cell, wires: Wires, v_max: Tensor | float, solutions: int, seed: int = 0
) -> AffineFit:
    """The alpha-beta model of each array of ``conductances`` (tiles, 1, rows, cols) [S], fitted on exact solutions.

    All arrays get the same ``solutions`` input vectors. With s = (k + 1) / K, vector k of K drives each row with
    probability s^2, and at least one row; the voltages are uniform between 0 and s ``v_max``. The fit thus spans sparse
    and weak inputs as well as dense and strong ones. The cells' and wires' scalars are floats or (tiles, 1).
    """
    generator = torch.Generator().manual_seed(seed)
    rows = conductances.shape[-2]
    share = (torch.arange(solutions, dtype=torch.float64) + 1) / solutions
    driven, drive = torch.rand(2, solutions, rows, dtype=torch.float64, generator=generator)
    threshold = torch.maximum(share[:, None] ** 2, driven.amin(-1, keepdim=True))
    drive = (share[:, None] * drive * (driven <= threshold)).to(conductances)
    voltages = (v_max[..., None] if isinstance(v_max, Tensor) else v_max) * drive.expand(len(conductances), -1, -1)
    currents = solve_cells(voltages, conductances, cell, wires, tol=CALIBRATION_TOL).currents
    return fit_affine(voltages, conductances, currents)
