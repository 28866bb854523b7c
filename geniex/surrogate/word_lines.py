"""Word lines of non-linear cells, each solved on its own: what a crossbar's expansion is fitted to.

All bit lines have risen above ground by a given field. Voltages are in units of v_max, currents over the cells'
small-signal conductance g. Fields are (..., tiles, rows, cols).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from geniex.cells import Cell
from geniex.circuit import Wires
from geniex.circuit.implicit import implicit_step
from geniex.circuit.lines import Ladders, line_voltages

ORDERS = (3, 5, 7, 9)
"""Powers of the cell voltage in the cells' excess current."""
_NEWTON = 3
"""Newton steps of the word lines' solutions from the linear ones; a fourth changes no figure."""


class Excess:
    """A cell's current beyond the linear one as a polynomial: f(u) = g (u + excess(u))."""

    def __init__(self, conductances: Tensor, g: Tensor, cell: Cell, v_max: Tensor) -> None:
        u, closed = column(chebyshev(5), g).reshape(-1, 1, 1, 1), g > 0
        current = cell.current(u * v_max, conductances) / (torch.where(closed, g, 1) * v_max)
        basis = torch.stack([u.flatten() ** (power - ORDERS[0]) for power in ORDERS], 1)
        values = torch.where(closed, current - u, 0) / u ** ORDERS[0]
        self._coefficients = torch.einsum("pk,k...->p...", torch.linalg.pinv(basis), values)

    def __call__(self, u: Tensor, derivative: int = 0) -> Tensor:
        """The excess at u, or a derivative of it, up to the third."""
        square, out = u.square(), torch.zeros_like(u)
        for power, c in zip(reversed(ORDERS), self._coefficients.flip(0), strict=True):
            out = out * square + math.perm(power, derivative) * c
        return out * u ** (ORDERS[0] - derivative)


@dataclass(frozen=True)
class WordLines:
    """Cells at bit lines that have all risen by the field that they were solved for."""

    g: Tensor
    lines: Wires
    """With bit lines at ground."""
    beyond: Tensor
    """Currents beyond those of linear cells at the same drive and rise."""
    slopes: Tensor
    """f' / g at the cells' voltages."""
    curvature: Tensor
    """f'' / g."""

    @classmethod
    def solved(cls, g: Tensor, excess: Excess, lines: Wires, drives: Tensor, linear: Tensor) -> WordLines:
        """Those driven by ``drives``, drivers less rises; ``linear`` are the voltages of linear cells there."""
        with torch.no_grad():
            u = linear.detach()
            for _ in range(_NEWTON):
                ladders = Ladders(g * (1 + excess(u, 1)), lines)
                u = u + ladders.solve(drives - lines.row_drop(g * (u + excess(u))) - u)
            slopes = g * (1 + excess(u, 1))
            ladders = Ladders(slopes, lines)
        h = drives - lines.row_drop(g * (u + excess(u)))
        u = implicit_step(h, u, slopes, lines, ladders.solve)
        return cls(g, lines, u + excess(u) - linear, 1 + excess(u, 1), excess(u, 2))

    def by_rises(self, rises: Tensor, linear: Tensor) -> Tensor:
        """Derivative of ``beyond`` as all columns rise by more: for patterns (patterns, tiles, rows, cols).

        ``linear`` are the voltages that the patterns drive linear cells to.
        """
        slopes, patterns = (self.g * self.slopes)[None], rises[:, None, None]
        return linear[:, None, None] - self.slopes * line_voltages(slopes, self.lines, patterns)

    def by_own_rise(self) -> tuple[Tensor, Tensor]:
        """First and second derivative of ``beyond`` as the cell's own column rises alone."""
        slopes = self.g * self.slopes
        passed = 1 / (1 + slopes * seen_resistance(slopes, self.lines))
        return own_response(self.g, self.lines) - self.slopes * passed, self.curvature * passed**3


def own_response(g: Tensor, lines: Wires) -> Tensor:
    """By how much a linear cell's voltage falls as its own bit line rises alone."""
    return 1 / (1 + g * seen_resistance(g, lines))


def seen_resistance(slopes: Tensor, lines: Wires) -> Tensor:
    """What each cell sees of its word line with itself taken out, bit lines at ground [ohm].

    ``slopes`` [S] of all cells (..., tiles, rows, cols).
    """
    cells = slopes.movedim(-1, 0).unbind()
    first, others = (
        torch.as_tensor(r, dtype=slopes.dtype, device=slopes.device) for r in (lines.r_source, lines.r_row)
    )
    first, others = (r[..., None] if r.dim() else r for r in (first, others))  # (tiles, rows)
    beyond = [torch.zeros_like(cells[0])]  # admittance of the line after each cell
    for cell in reversed(cells[1:]):
        there = beyond[-1] + cell
        beyond.append(there / (1 + others * there))
    out, before = [], first.expand_as(cells[0])
    for cell, after in zip(cells, reversed(beyond), strict=True):
        out.append(before / (1 + before * after))
        before = before / (1 + before * cell) + others
    return torch.stack(out, -1)


def chebyshev(count: int) -> list[float]:
    """Nodes for polynomials in (0, 1] that are even or odd: Chebyshev's in the square."""
    return [math.sqrt((1 + math.cos(math.pi * (k + 0.5) / count)) / 2) for k in range(count)]


def column(values: list[float], like: Tensor) -> Tensor:
    """Fixed numbers as ``like``."""
    return torch.tensor(values, dtype=like.dtype, device=like.device)
