"""Kirchhoff's current law at every node, by damped Newton with SciPy's SuperLU: slow, simple, independent.

The unknowns x are not potentials but drops: the voltage of a word-line node below its driver, and of a bit-line node
above ground. Let L be the conductance matrix of the wires (drivers and sense terminals grounded) and B x the part of
the cells' voltages that the drops take. The circuit is then

    L x = B^T f(V - B x),

where both sides are currents and no small difference of large potentials is rounded. Its Jacobian
L + B^T diag(f') B is symmetric and positive definite, and the equation sets the gradient of a convex function to zero,
so that Newton's method with a line search converges from anywhere. Nodes that a zero resistance joins are merged.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from geniex.circuit import Crossbar
from geniex.distribution import install_hint
from geniex.errors import ConvergenceError, MissingDependencyError

if TYPE_CHECKING:
    from scipy.sparse import csc_matrix

Array = NDArray[np.float64]
Index = NDArray[np.int64]

_MAX_ITERATIONS = 100
_MAX_HALVINGS = 40
_NEAR = 1e-6
"""Residual, as a share of a column current, below which Newton converges quadratically."""
_GROUND = -1
"""Index of a node whose drop is fixed at zero."""


class NodalSolution(NamedTuple):
    """Column currents (cols,) [A], and the number of Newton iterations."""

    currents: Array
    iterations: int


@dataclass(frozen=True)
class _Wire:
    """Equal resistors between pairs of nodes."""

    a: Index
    b: Index
    ohm: float


class NodalArray:
    """The equations of one crossbar; the parts that do not depend on its conductances are built once."""

    def __init__(self, crossbar: Crossbar) -> None:
        self.crossbar = crossbar
        row, col, self.count = _nodes(crossbar)
        self._row, self._col = row.reshape(-1), col.reshape(-1)
        self._laplace = _laplacian(_wires(crossbar, row, col), self.count)
        self._pattern = _JacobianPattern(self._laplace, self._row, self._col) if self.count else None

    def solve(self, voltages: Array, conductances: Array, tol: float) -> NodalSolution:
        """Column currents for voltages (rows,) [V] and conductances (rows, cols) [S].

        Newton stops if the residual at the nodes of each column is less than ``tol`` of the column's current (or of
        1e-3 of the largest one), or if rounding limits it.

        Raises:
            ConvergenceError: Newton does not converge.
        """
        drive = np.repeat(voltages, self.crossbar.cols)
        g = conductances.reshape(-1)
        x, before, factor = np.zeros(self.count), np.inf, None
        for iteration in range(_MAX_ITERATIONS):
            current, slope = self._cells(drive, g, x)
            gap = self._gap(x, current)
            missed = self._share(gap, current)
            # Near the solution each step reduces the residual by far more than two until rounding limits it.
            if missed <= tol or (missed < _NEAR and missed > before / 2):
                return NodalSolution(current.reshape(conductances.shape).sum(0), iteration)
            before = missed
            if factor is None or not self.crossbar.cell.is_linear:
                factor = self._factor(slope)
            step = factor.solve(-gap)
            # Near the solution the line search would only see rounding.
            x = x + step * (1.0 if missed < _NEAR else self._stride(drive, g, x, step, gap @ step))
        raise ConvergenceError(f"SuperLU Newton missed {missed:.2g} of a column current after {_MAX_ITERATIONS} steps")

    def solve_linear(self, voltages: Array, conductances: Array) -> Array:
        """Column currents (vectors, cols) of linear cells for voltages (vectors, rows): one factorisation."""
        g = conductances.reshape(-1)
        drive = np.repeat(voltages, self.crossbar.cols, axis=1)  # (vectors, cells)
        right = self._gather((g * drive).T)
        x = self._factor(g).solve(right) if self.count else right
        current = g * (drive - self._spread(x).T)
        return current.reshape(-1, *conductances.shape).sum(1)

    def _cells(self, drive: Array, g: Array, x: Array) -> tuple[Array, Array]:
        u = torch.from_numpy(drive - self._spread(x))
        with torch.no_grad():
            current, slope = self.crossbar.cell.current_and_derivative(u, torch.from_numpy(g))
        return current.numpy(), slope.numpy()

    def _spread(self, x: Array) -> Array:
        """B x: the sum of the drops at the two nodes of each cell, which reduces its voltage."""
        padded = np.concatenate([x, np.zeros((1, *x.shape[1:]))])  # the ground is the last entry
        return padded[self._row] + padded[self._col]

    def _gather(self, current: Array) -> Array:
        """B^T I: the sum of the cell currents at each node; (cells, ...) to (nodes, ...)."""
        out = np.zeros((self.count + 1, *current.shape[1:]))
        np.add.at(out, self._row, current)
        np.add.at(out, self._col, current)
        return out[:-1]

    def _gap(self, x: Array, current: Array) -> Array:
        return self._laplace @ x - self._gather(current)

    def _share(self, gap: Array, current: Array) -> float:
        """The largest ratio over the columns of the residual at a column's nodes to its current."""
        shape = (self.crossbar.rows, self.crossbar.cols)
        padded = np.abs(np.append(gap, 0.0))
        missing = (padded[self._row] + padded[self._col]).reshape(shape).sum(0)
        column = np.abs(current.reshape(shape).sum(0))
        scale = np.maximum(column, 1e-3 * column.max())
        return float(np.divide(missing, scale, out=np.where(missing > 0, np.inf, 0.0), where=scale > 0).max())

    def _factor(self, slope: Array) -> Any:
        from scipy.sparse.linalg import splu

        assert self._pattern is not None
        # A symmetric, positive definite matrix needs no pivoting, and an ordering of A + A^T suits it.
        options = {"SymmetricMode": True}
        return splu(self._pattern.matrix(slope), permc_spec="MMD_AT_PLUS_A", diag_pivot_thresh=0.0, options=options)

    def _stride(self, drive: Array, g: Array, x: Array, step: Array, slope: float) -> float:
        """The longest of 1, 1/2, 1/4, ... that does not overshoot the convex function's minimum by much."""
        stride = 1.0
        for _ in range(_MAX_HALVINGS):
            with np.errstate(over="ignore", invalid="ignore"):
                ahead = self._gap(x + stride * step, self._cells(drive, g, x + stride * step)[0]) @ step
            if ahead <= 0.5 * abs(slope):
                break
            stride /= 2
        return stride


class _JacobianPattern:
    """The matrix L + B^T diag(slope) B; its sparsity pattern is found once."""

    def __init__(self, laplace: csc_matrix, row: Index, col: Index) -> None:
        from scipy import sparse

        # Each cell couples its word-line node and its bit-line node, unless one of them is ground.
        a, b = np.concatenate([row, col, row, col]), np.concatenate([row, col, col, row])
        cell = np.tile(np.arange(row.size), 4)
        inside = (a != _GROUND) & (b != _GROUND)
        a, b, cell = a[inside], b[inside], cell[inside]
        count = laplace.shape[0]
        ones = sparse.csc_matrix((np.ones(a.size), (a, b)), shape=laplace.shape)
        full = (abs(laplace) + ones).tocsc()
        full.sort_indices()
        column = np.repeat(np.arange(count), np.diff(full.indptr))
        keys = column * count + full.indices
        wires = laplace.tocoo()
        self._indices, self._indptr, self._shape = full.indices, full.indptr, laplace.shape
        self._fixed = np.zeros(full.nnz)
        np.add.at(self._fixed, np.searchsorted(keys, wires.col.astype(np.int64) * count + wires.row), wires.data)
        place = np.searchsorted(keys, b * count + a)
        self._spread = sparse.csr_matrix((np.ones(a.size), (place, cell)), shape=(full.nnz, row.size))

    def matrix(self, slope: Array) -> csc_matrix:
        from scipy import sparse

        data = self._fixed + self._spread @ slope
        return sparse.csc_matrix((data, self._indices, self._indptr), shape=self._shape)


def _nodes(crossbar: Crossbar) -> tuple[Index, Index, int]:
    """The indices of the unknowns at each cell's word-line and bit-line node (rows, cols), and their number."""
    wires = crossbar.wires
    i, j = np.indices((crossbar.rows, crossbar.cols))
    row = i * crossbar.cols + (0 if wires.r_row == 0 else j)
    col = j * crossbar.rows + (0 if wires.r_col == 0 else i)
    row_ground = (wires.r_source == 0) & ((j == 0) | (wires.r_row == 0))
    col_ground = (wires.r_sink == 0) & ((i == crossbar.rows - 1) | (wires.r_col == 0))
    names = np.stack([np.where(row_ground, _GROUND, row), np.where(col_ground, _GROUND, col + row.size)])
    used, place = np.unique(names, return_inverse=True)
    grounded = int(used[0] == _GROUND)
    numbers = place.reshape(names.shape) - grounded
    return numbers[0], numbers[1], used.size - grounded


def _wires(crossbar: Crossbar, row: Index, col: Index) -> list[_Wire]:
    w = crossbar.wires
    ground = np.full(max(crossbar.rows, crossbar.cols), _GROUND)
    every = [
        _Wire(row[:, 0], ground[: crossbar.rows], float(w.r_source)),
        _Wire(row[:, :-1].reshape(-1), row[:, 1:].reshape(-1), float(w.r_row)),
        _Wire(col[:-1].reshape(-1), col[1:].reshape(-1), float(w.r_col)),
        _Wire(col[-1], ground[: crossbar.cols], float(w.r_sink)),
    ]
    return [wire for wire in every if wire.ohm > 0]


def _laplacian(wires: list[_Wire], count: int) -> csc_matrix:
    try:
        from scipy import sparse
    except ImportError as error:
        raise MissingDependencyError("scipy", "the SuperLU rival", install_hint()) from error

    total = sparse.csc_matrix((count, count))
    for wire in wires:
        a, b = np.concatenate([wire.a, wire.b]), np.concatenate([wire.b, wire.a])
        held = a != _GROUND
        both = held & (b != _GROUND)
        siemens = 1 / wire.ohm
        at = np.concatenate([a[held], a[both]]), np.concatenate([a[held], b[both]])
        value = np.concatenate([np.full(held.sum(), siemens), np.full(both.sum(), -siemens)])
        total = total + sparse.csc_matrix((value, at), shape=(count, count))
    return total
