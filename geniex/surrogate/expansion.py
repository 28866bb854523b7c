"""A crossbar's currents as polynomials of its inputs, from physics alone: what the physics surrogates read.

For drives w = V / v_max in [0, 1], voltages in units of v_max. Solved when a tile is programmed:

1. The linear array: A, with I = A^T w for cells at their small-signal conductance g, exactly.
2. The cells: f(u) = g (u + excess(u)), excess an odd polynomial of orders 3 to 9 fitted at Chebyshev nodes.
3. Every word line with all its cells, non-linear, for its own drive w_i and bit lines that have risen above ground by
   s c_ij, where c_ij is the rise in the linear array with all drivers at 1. That gives the cells' currents beyond the
   linear ones, Q_ij(w_i, s). They reach the sense side like linear ones: the share A_ij / (g_ij rho_ij), with rho_ij
   the linear voltage at the cell for bit lines at ground.

A column's s is its current in units of the linear one with all drivers at 1, s = I_j / sum_i A_ij, so

    I_j = sum_n I_j^n sum_i D_n,ij(w_i),

with polynomials D_n,ij in w, of which D_0,ij has the linear part A_ij w. Each D_n is a few matrices, one for each
power of w: reading is as many products. A column's rise does not keep its profile, though: with ``moments`` it also
follows where along the bit line the current enters. With polynomials b_k of the row position, orthogonal under the
weights A_ij of a column, the moments m_k = sum_i A_ij b_k w_i add rises in proportion, and to the current
sum_k m_k sum_i E_k,ij(w_i).

It is exact for linear cells, and for bit lines without resistance. In between, its error is of second order in the
product of non-linearity and the bit lines' rise.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from geniex.cells import Cell
from geniex.circuit import Wires
from geniex.circuit.implicit import implicit_step
from geniex.circuit.linear import effective_conductance
from geniex.circuit.lines import Ladders, array_voltages, line_voltages
from geniex.surrogate.circuit import Circuit

_ORDERS = (3, 5, 7, 9)
"""Powers of the cell voltage in the cells' excess current."""
_DRIVES = 5
"""Drives w at which polynomials are fitted."""
_RISES = (0.0, 0.6, 1.2)
"""Rises s at which they are; non-linear cells carry more than linear ones."""
_NEWTON = 5
"""Newton steps of the word lines' solutions from the linear ones."""
_SHARE = 1.3
"""Largest share of a cell's current that reaches the sense side; coupling adds a little to what is its own."""


@dataclass(frozen=True)
class Term:
    """A polynomial in w for every cell, summed over the rows: basis(w) @ matrix."""

    powers: tuple[int, ...]
    """Of w, in the order of the matrix' blocks."""
    matrix: Tensor
    """(tiles, powers * rows, cols)."""


@dataclass(frozen=True)
class Expansion:
    """What programmed tiles read."""

    terms: tuple[Term, ...]
    """D_n, in units of siemens^(1 - n)."""
    moments: tuple[tuple[Term, Term], ...]
    """(A b_k, E_k) for each moment."""


def expand(conductances: Tensor, circuit: Circuit, powers: Sequence[int], moments: int) -> Expansion:
    """The expansion of tiles (tiles, rows, cols) [S] in float64, with ``powers[n]`` non-linear powers of w in D_n.

    Differentiable in the conductances and in the circuit's tensors. No value is looked at.
    """
    conductances = conductances.double()
    g = circuit.cell.small_signal(conductances)
    *resistances, v_max = circuit.scalars(g)
    wires = Wires(*(r[:, 0, 0] for r in resistances))
    lines = Wires(wires.r_source, 0.0, wires.r_row, 0.0)  # bit lines at ground
    response = effective_conductance(g, wires)
    weights = _Weights(response, moments)
    rises = wires.col_drop(g * array_voltages(g, wires, weights.patterns))
    rho = line_voltages(g, lines, torch.ones_like(g))
    # A share of 0..1 and what coupling adds: where a cell is far weaker than its neighbours, A is not its own.
    reach = torch.minimum(response / rho, _SHARE * g).clamp(min=0)
    excess = _cell_polynomial(conductances, g, circuit.cell, v_max)
    u, beyond = _line_currents(g, excess, lines, rises[0], rho)
    by_rise = _solve_constant(torch.stack([_column(_RISES, g) ** n for n in range(len(_RISES))], 1))
    currents = torch.einsum("ns,swtij->nwtij", by_rise, beyond)
    terms = [_fitted(reach * currents[n] / weights.total**n, _powers(n, count)) for n, count in enumerate(powers)]
    terms[0] = Term((1, *terms[0].powers), torch.cat([response, terms[0].matrix], -2))
    slopes = 1 + _polynomial(excess, u[0], 1)
    pairs = []
    for k in range(1, moments + 1):
        rise = weights.orthogonal(rises, k)
        linear = line_voltages(g, lines, rise)
        tangent = line_voltages(g * slopes, lines, rise.expand_as(slopes))
        term = _fitted(-reach * (slopes * tangent - linear) / weights.norm(k), _powers(1, powers[1]))
        pairs.append((Term((1,), weights.matrix(k)), term))
    return Expansion(tuple(terms), tuple(pairs))


class _Weights:
    """Polynomials b_k of the row position, orthogonal over each column under the weights A."""

    def __init__(self, response: Tensor, count: int) -> None:
        self.total = _above_zero(response.sum(-2, keepdim=True))
        rows = response.shape[-2]
        position = torch.linspace(0, 1, rows, dtype=response.dtype, device=response.device)[:, None]
        self.patterns = torch.stack([(position**k).expand_as(response) for k in range(count + 1)])
        self._response = response
        self._basis = [torch.ones_like(response)]
        self._mixed: list[list[Tensor]] = [[]]  # of pattern k, how much of b_0 .. b_k-1 is taken away
        for k in range(1, count + 1):
            shares = [(response * b * self.patterns[k]).sum(-2, keepdim=True) / self._square(b) for b in self._basis]
            b = self.patterns[k] - sum(share * b for share, b in zip(shares, self._basis, strict=True))
            self._basis.append(b)
            self._mixed.append(shares)

    def matrix(self, k: int) -> Tensor:
        """A b_k."""
        return self._response * self._basis[k]

    def norm(self, k: int) -> Tensor:
        """sum_i A b_k^2 (tiles, 1, cols): moment k of a drive by b_k."""
        return self._square(self._basis[k])

    def orthogonal(self, fields: Tensor, k: int) -> Tensor:
        """What b_k does in a column, from what the patterns do (patterns, tiles, rows, cols)."""
        out = fields[k]
        for lower, share in enumerate(self._mixed[k]):
            out = out - share * self.orthogonal(fields, lower)
        return out

    def _square(self, b: Tensor) -> Tensor:
        return _above_zero((self._response * b * b).sum(-2, keepdim=True))


def _line_currents(g: Tensor, excess: list[Tensor], lines: Wires, rise: Tensor, rho: Tensor) -> tuple[Tensor, Tensor]:
    """Cell voltages and currents beyond the linear ones, over g, at rises and drives: (rises, drives, tiles, ...)."""
    w, s = _drives(g), _column(_RISES, g).reshape(-1, 1, 1, 1, 1)
    drives = w - s * rise
    linear = w * rho - s * line_voltages(g, lines, rise)
    with torch.no_grad():
        u = linear.detach()
        for _ in range(_NEWTON):
            ladders = Ladders(g * (1 + _polynomial(excess, u, 1)), lines)
            u = u + ladders.solve(drives - lines.row_drop(g * (u + _polynomial(excess, u))) - u)
        slopes = g * (1 + _polynomial(excess, u, 1))
        ladders = Ladders(slopes, lines)
    h = drives - lines.row_drop(g * (u + _polynomial(excess, u)))
    u = implicit_step(h, u, slopes, lines, ladders.solve)
    return u, u + _polynomial(excess, u) - linear


def _cell_polynomial(conductances: Tensor, g: Tensor, cell: Cell, v_max: Tensor) -> list[Tensor]:
    """Coefficients of excess(u) = f(u) / g - u, for u in units of v_max, by power in ``_ORDERS``."""
    u, closed = _drives(g), g > 0
    current = cell.current(u * v_max, conductances) / (torch.where(closed, g, 1) * v_max)
    fit = _solve_constant(_basis(g, [power - _ORDERS[0] for power in _ORDERS]))
    return list(torch.einsum("pk,k...->p...", fit, torch.where(closed, current - u, 0) / u ** _ORDERS[0]))


def _polynomial(excess: list[Tensor], u: Tensor, derivative: int = 0) -> Tensor:
    """The excess at u, or its first derivative."""
    square, out = u.square(), torch.zeros_like(u)
    for power, c in zip(reversed(_ORDERS), reversed(excess), strict=True):
        out = out * square + math.perm(power, derivative) * c
    return out * u ** (_ORDERS[0] - derivative)


def _powers(n: int, count: int) -> tuple[int, ...]:
    """Powers of w beside s^n: excess currents are odd in (w, s) together, and of the third order at least."""
    lowest = _ORDERS[0] - n
    return tuple(range(lowest, lowest + 2 * count, 2))


def _fitted(values: Tensor, powers: tuple[int, ...]) -> Term:
    """The least-squares polynomial through values at the drives (drives, tiles, rows, cols)."""
    fit = _solve_constant(_basis(values, powers))
    return Term(powers, torch.einsum("pk,ktij->tpij", fit, values).flatten(1, 2))


def _basis(like: Tensor, powers: Sequence[int]) -> Tensor:
    return torch.stack([_drives(like).flatten() ** power for power in powers], 1)


def _drives(like: Tensor) -> Tensor:
    """Chebyshev nodes in w^2, for the polynomials are even or odd: (drives, 1, 1, 1)."""
    squares = [(1 + math.cos(math.pi * (k + 0.5) / _DRIVES)) / 2 for k in range(_DRIVES)]
    return _column([math.sqrt(x) for x in squares], like).reshape(-1, 1, 1, 1)


def _column(values: Sequence[float], like: Tensor) -> Tensor:
    return torch.tensor(values, dtype=like.dtype, device=like.device)


def _solve_constant(matrix: Tensor) -> Tensor:
    """The pseudo-inverse of a few fixed numbers."""
    return torch.linalg.pinv(matrix)


def _above_zero(x: Tensor) -> Tensor:
    """``x``, a sum of conductances, as a divisor also where all cells are open."""
    return x.clamp(min=torch.finfo(x.dtype).tiny)
