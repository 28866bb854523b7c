"""The voltages of linear cells, in a whole array and on its word lines alone, with implicit gradients.

Both solve u + K(D u) = b. For the whole array K is the wires' operator; for word lines alone (bit lines at ground)
it is the row part of that operator, and every line is a ladder of its own. The gradient does not run through the
solver: with h = b - K(D u) evaluated at the solution, du = (1 + K D)^-1 dh, see ``geniex.circuit.solve.implicit``.

Fields are (..., tiles, rows, cols); resistances are (tiles,), or (1,) for all tiles.
"""

from __future__ import annotations

import torch
from torch import Tensor

from geniex.circuit.solve.elimination import Elimination
from geniex.circuit.solve.fields import seen, stored, turn, turned_wires
from geniex.circuit.solve.implicit import Inverse, implicit_step
from geniex.circuit.wires import Scalar, Wires

_BYTES = 128 << 20
"""Bytes of eliminations that are held at a time."""


def array_voltages(slopes: Tensor, wires: Wires, drives: Tensor) -> Tensor:
    """Cell voltages (patterns, tiles, rows, cols) of linear cells (tiles, rows, cols) [S] driven by ``drives``.

    ``drives`` (patterns, tiles, rows, cols) [V] holds, at each cell, the driver voltage of its word line.
    """
    with torch.no_grad():
        inverse = _array(wires)
        u = inverse(slopes, drives)
    return implicit_step(drives - wires.drop(slopes * u), u, slopes, wires, inverse)


def line_voltages(slopes: Tensor, lines: Wires, drives: Tensor) -> Tensor:
    """``array_voltages`` for word lines whose bit lines are at ground; ``slopes`` have the dimensions of ``drives``."""
    with torch.no_grad():
        ladders = Ladders(slopes, lines)
        u = ladders.solve(drives)
    return implicit_step(drives - lines.row_drop(slopes * u), u, slopes, lines, lambda _, b: ladders.solve(b))


class Ladders:
    """The operator (1 + K D)^-1 of word lines with cell slopes D (..., tiles, rows, cols) and bit lines at ground."""

    def __init__(self, slopes: Tensor, lines: Wires) -> None:
        d = slopes.detach().movedim(-1, 0).contiguous()  # (cols, ..., rows): a step of a recurrence is a slice
        first, others = (over_rows(r) for r in (lines.r_source, lines.r_row))
        self._slopes, self._resistances = d, [first, *[others] * (len(d) - 1)]
        # The share that the segment before a column lets through, of the current that the cells from there on would
        # draw without it.
        self._share = torch.empty_like(d)
        admittance = torch.zeros_like(d[0])
        for j in reversed(range(len(d))):
            admittance = admittance + d[j]
            self._share[j] = 1 / (1 + self._resistances[j] * admittance)
            admittance = admittance * self._share[j]

    def solve(self, b: Tensor) -> Tensor:
        """The u (..., tiles, rows, cols) with u + K(D u) = b."""
        x = self._slopes * b.movedim(-1, 0)
        for j in reversed(range(len(x) - 1)):
            x[j] += self._share[j + 1] * x[j + 1]
        for j in range(len(x)):
            x[j] *= self._resistances[j] * self._share[j]
            if j:
                x[j] += self._share[j] * x[j - 1]
        return b - x.movedim(0, -1)


def _array(wires: Wires) -> Inverse:
    """The function that applies (1 + K D)^-1 of whole arrays, by eliminations of as many tiles as fit the memory."""

    def inverse(slopes: Tensor, b: Tensor) -> Tensor:
        tiles, rows, cols = slopes.shape
        step = max(1, _BYTES // (2 * slopes.element_size() * rows * cols * min(rows, cols)))
        chunks = (slice(k, k + step) for k in range(0, tiles, step))
        return torch.cat([_eliminated(slopes[at], wires, at, b[:, at]) for at in chunks], 1)

    return inverse


def _eliminated(slopes: Tensor, wires: Wires, at: slice, b: Tensor) -> Tensor:
    part = Wires(*(_of_tiles(r, at) for r in vars(wires).values()))
    turned = slopes.shape[-2] > slopes.shape[-1]
    if turned:  # an elimination costs rows^3 cols
        slopes, b, part = turn(slopes), turn(b), turned_wires(part)
    d, drive = stored(slopes[:, None]).contiguous(), stored(b.transpose(0, 1)).contiguous()
    u = seen(Elimination(d, part).solve(drive)).transpose(0, 1)
    return turn(u) if turned else u


def _of_tiles(value: Scalar, at: slice) -> Scalar:
    if not isinstance(value, Tensor) or value.dim() == 0:
        return value
    return (value if len(value) == 1 else value[at])[:, None].detach()


def over_rows(value: Scalar) -> Scalar:
    """A scalar in the shape that broadcasts against a slice (..., tiles, rows), without its gradient."""
    return value.detach()[..., None] if isinstance(value, Tensor) and value.dim() else value
