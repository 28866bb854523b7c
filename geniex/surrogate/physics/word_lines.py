"""Word lines of non-linear cells, each solved on its own: the data that a crossbar's expansion is fitted to.

All bit lines have risen above ground by a given field t c, where t is a number and c the rise at every cell. The
drivers are at w. With the cells' currents f(u) = g (u + excess(u)) and K the operator of the word line's wires alone,
the cell voltages u solve

    u = w - t c - K f(u).

A linear array of the same g would have the voltages w u_driven - t u_lifted, where u_driven and u_lifted are its
solutions for drives of 1 and of c. The current beyond the linear one, over g, is thus

    beyond = u + excess(u) - (w u_driven - t u_lifted).

Derivatives follow from the same equation with the cells' slopes D = g (1 + excess'(u)). If all bit lines rise by a
further pattern p, the cell voltages fall by (1 + K D)^-1 p, the voltages of linear cells of conductance D that p
drives. If only the bit line of cell j rises, by 1, that cell's voltage falls by 1 / (1 + D_j R_j), where R_j is the
resistance that the cell sees of its word line with all other cells at their slopes.

Voltages are in units of v_max, and currents are divided by the cells' small-signal conductance g. Fields are
(..., tiles, rows, cols).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from geniex.cells import Cell
from geniex.circuit import Wires
from geniex.circuit.solve.implicit import attach_gradient
from geniex.circuit.solve.ladder import LineSolver, line_resistance, solve_word_lines, spread_over_rows

ORDERS = (3, 5, 7, 9)
"""Powers of the cell voltage in the excess polynomial."""
_NEWTON = 3
"""Newton steps from the linear solution; a fourth changes no figure."""


class Excess:
    """A cell's current beyond the linear one as a polynomial, with f(u) = g (u + excess(u)).

    It is fitted in the precision of ``conductances`` and ``v_max``, and evaluated in ``dtype``.
    """

    def __init__(self, conductances: Tensor, cell: Cell, v_max: Tensor, dtype: torch.dtype) -> None:
        if cell.scales_with_conductance:  # one polynomial for all of a tile's cells
            conductances = torch.ones_like(v_max)
        g = cell.small_signal(conductances)
        u, closed = column(chebyshev_nodes(5), g).reshape(-1, 1, 1, 1), g > 0
        current = cell.current(u * v_max, conductances) / (torch.where(closed, g, 1) * v_max)
        basis = torch.stack([u.flatten() ** (power - ORDERS[0]) for power in ORDERS], 1)
        values = torch.where(closed, current - u, 0) / u ** ORDERS[0]
        self.coefficients = torch.einsum("pk,k...->p...", torch.linalg.pinv(basis), values).to(dtype)
        """Coefficients of the powers in ``ORDERS`` (powers, tiles | 1, rows | 1, cols | 1)."""

    def __call__(self, u: Tensor, derivative: int = 0) -> Tensor:
        """The excess at ``u``, or its derivative of this order, up to the third."""
        square, out = u.square(), torch.zeros_like(u)
        for power, c in zip(reversed(ORDERS), self.coefficients.flip(0), strict=True):
            out = out * square + math.perm(power, derivative) * c
        return out * u ** (ORDERS[0] - derivative)


@dataclass(frozen=True)
class States:
    """The states that word lines are solved for: drivers at w, and bit lines that have risen by t times a field."""

    w: Tensor
    """Drives (states, 1, 1, 1)."""
    t: Tensor
    """Factors of the rise (states, 1, 1, 1)."""
    rise: Tensor
    """Rise c of the bit lines at each cell (tiles, rows, cols)."""
    driven: Tensor
    """Voltages of linear cells for w = 1 and t = 0 (tiles, rows, cols)."""
    lifted: Tensor
    """Fall of the voltages of linear cells from t = 0 to t = 1 (tiles, rows, cols)."""

    def drives(self) -> Tensor:
        """Driver voltages less the rises of the bit lines."""
        return self.w - self.t * self.rise

    def linear(self) -> Tensor:
        """Voltages of linear cells."""
        return self.w * self.driven - self.t * self.lifted


class _March:
    """Solves word lines from their far ends, without gradients.

    The voltage of a line's last node gives its last cell's current, hence the voltage of the node before, and so on
    up to the driver. Newton's method thus has one unknown a line: the last node's voltage at which the driver comes
    out at w. Each step works on a slice, which is one column of all lines.
    """

    def __init__(self, g: Tensor, excess: Excess, lines: Wires, states: States) -> None:
        self._w, self._t = states.w[..., 0].detach(), states.t[..., 0].detach()
        fields = (x.detach().movedim(-1, 0).contiguous() for x in (g, states.rise, states.driven, states.lifted))
        self._g, self._rise, self._driven, self._lifted = (x.unbind() for x in fields)
        powers = excess.coefficients.detach().movedim(-1, 0).contiguous()
        orders = column(list(ORDERS), powers).reshape(-1, 1, 1)
        self._powers, self._steeper = (
            [x.unbind() for x in c.expand(len(self._g), *c.shape[1:])] for c in (powers, orders * powers)
        )
        first, others = (spread_over_rows(r, powers).detach() for r in (lines.r_source, lines.r_row))
        self._resistances = [first, *[others] * (len(self._g) - 1)]
        far = self._w * self._driven[-1] + self._t * (self._rise[-1] - self._lifted[-1])
        for _ in range(_NEWTON):
            reached, slope = self._driver(far)
            far = far - (reached - self._w) / slope
        self._far = far

    def voltages(self) -> Tensor:
        """Cell voltages (states, tiles, rows, cols)."""
        return torch.stack([u for u, _ in self._cells()][::-1]).movedim(0, -1)

    def beyond(self) -> Tensor:
        """Currents beyond those of linear cells, over g (states, tiles, rows, cols)."""
        out = [f for _, f in self._cells()][::-1]
        for f, driven, lifted in zip(out, self._driven, self._lifted, strict=True):
            f.addcmul_(self._w, driven, value=-1).addcmul_(self._t, lifted)
        return torch.stack(out).movedim(0, -1)

    def _driver(self, far: Tensor) -> tuple[Tensor, Tensor]:
        """The driver voltages at which the last nodes are at ``far``, and their derivatives by ``far``."""
        node, current = far.clone(), torch.zeros_like(far)
        slope, conductance = torch.ones_like(far), torch.zeros_like(far)
        for j in reversed(range(len(self._g))):
            u = torch.addcmul(node, self._t, self._rise[j], value=-1)
            square = u * u
            current.addcmul_(_times(u, square, self._powers[j]), self._g[j])
            node.addcmul_(current, self._resistances[j])
            conductance.addcmul_(_times(slope, square, self._steeper[j]), self._g[j])
            slope.addcmul_(conductance, self._resistances[j])
        return node, slope

    def _cells(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Voltages and currents over g of each column's cells, from the last column to the first."""
        node, current = self._far.clone(), torch.zeros_like(self._far)
        for j in reversed(range(len(self._g))):
            u = torch.addcmul(node, self._t, self._rise[j], value=-1)
            f = _times(u, u * u, self._powers[j])
            yield u, f
            current.addcmul_(f, self._g[j])
            node.addcmul_(current, self._resistances[j])


def _times(x: Tensor, square: Tensor, coefficients: Sequence[Tensor]) -> Tensor:
    """x (1 + a square + b square^2 + ...)."""
    *lower, last = coefficients
    out = square * last
    for c in reversed(lower):
        out = out.add_(c).mul_(square)
    return torch.addcmul(x, x, out)


@dataclass(frozen=True)
class WordLines:
    """Solved word lines, whose bit lines have all risen by a field, and the derivatives around that solution."""

    g: Tensor
    """Small-signal conductances (tiles, rows, cols) [S]."""
    lines: Wires
    """The word lines' wires, with bit lines at ground."""
    beyond: Tensor
    """Currents beyond those of linear cells at the same drive and rise, over g (states, tiles, rows, cols)."""
    slopes: Tensor
    """f'(u) / g at the cells' voltages (states, tiles, rows, cols)."""
    curvature: Tensor
    """f''(u) / g at the cells' voltages (states, tiles, rows, cols)."""

    @classmethod
    def solve(cls, g: Tensor, excess: Excess, lines: Wires, states: States) -> WordLines:
        """The word lines solved in these states."""
        with torch.no_grad():
            u = _March(g, excess, lines, states).voltages()
        u = _differentiable(u, g, excess, lines, states)
        return cls(g, lines, u + excess(u) - states.linear(), 1 + excess(u, 1), excess(u, 2))

    def by_rises(self, rises: Tensor, linear: Tensor) -> Tensor:
        """Derivatives of ``beyond`` (patterns, states, tiles, rows, cols) as all columns rise by a further pattern.

        ``rises`` are the patterns (patterns, tiles, rows, cols), ``linear`` the voltages of linear cells that they
        drive.
        """
        slopes, patterns = (self.g * self.slopes)[None], rises[:, None]
        return linear[:, None] - self.slopes * solve_word_lines(slopes, self.lines, patterns)

    def by_own_rise(self) -> tuple[Tensor, Tensor]:
        """First and second derivative of ``beyond`` by a rise of the cell's own column alone."""
        slopes = self.g * self.slopes
        passed = 1 / (1 + slopes * line_resistance(slopes, self.lines))
        return own_response(self.g, self.lines) - self.slopes * passed, self.curvature * passed**3


def beyond_linear(g: Tensor, excess: Excess, lines: Wires, states: States) -> Tensor:
    """``WordLines.beyond`` (states, tiles, rows, cols) without the derivatives."""
    with torch.no_grad():
        march = _March(g, excess, lines, states)
    if not any(x.requires_grad for x in (g, states.rise, excess.coefficients)):
        return march.beyond()
    u = _differentiable(march.voltages(), g, excess, lines, states)
    return u + excess(u) - states.linear()


def _differentiable(u: Tensor, g: Tensor, excess: Excess, lines: Wires, states: States) -> Tensor:
    """The solution ``u`` with its gradient (``geniex.circuit.solve.implicit``)."""
    with torch.no_grad():
        slopes = g * (1 + excess(u, 1))
        solver = LineSolver(slopes, lines)
    h = states.drives() - lines.row_drop(g * (u + excess(u)))
    return attach_gradient(h, u, slopes, lines, lambda _, b: solver.solve(b))


def own_response(g: Tensor, lines: Wires) -> Tensor:
    """Fall of a linear cell's voltage (tiles, rows, cols) per rise of its own bit line alone."""
    return 1 / (1 + g * line_resistance(g, lines))


def chebyshev_nodes(count: int) -> list[float]:
    """Nodes in (0, 1] for even or odd polynomials: the square roots of Chebyshev's nodes in [0, 1]."""
    return [math.sqrt((1 + math.cos(math.pi * (k + 0.5) / count)) / 2) for k in range(count)]


def column(values: list[float], like: Tensor) -> Tensor:
    """``values`` as a tensor with the dtype and device of ``like``."""
    return torch.tensor(values, dtype=like.dtype, device=like.device)
