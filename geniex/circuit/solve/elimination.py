"""One elimination of a linearised array, which then gives its exact response to any drive of its cells.

With cells of slope D, the cell voltages answer a drive b of each cell as u = b - K(D u), see
``geniex.circuit.wires``. Let x_j be the drop along the word lines up to column j. Then

    bit line j     u_j = P_j (b_j - x_j),     P_j = (1 + K_col D_j)^-1
    word lines     a ladder of the columns, whose cells have the admittance D_j P_j and inject the currents D_j P_j b_j

because a bit line, seen from its word lines, is the admittance D_j P_j. A bit line is a ladder itself, whose drops for
the currents D_j give P_j without factorising a matrix. The word lines are one ladder that the bit lines couple, with
matrices for shares. Both are the recurrence of ``geniex.circuit.solve.ladder``.

P and the shares depend on D alone. Each drive then costs two sweeps of matrix products over the columns and two
products with P. Open cells and zero resistances need no special care.
"""

from __future__ import annotations

import torch
from torch import Tensor

from geniex.circuit.solve.fields import average_per_tile, from_field, to_field, turn, turn_wires
from geniex.circuit.solve.implicit import Inverse, attach_gradient
from geniex.circuit.solve.ladder import CoupledLadder, Ladder
from geniex.circuit.wires import Scalar, Wires

_BYTES = 128 << 20
"""Bytes of eliminations that are held at a time."""


class Elimination:
    """The operator (1 + K D)^-1 of tiles with cell slopes D (cols, tiles, rows, 1) [S].

    The wires' scalars are () or (tiles, vectors), of which the mean over the vectors counts. It computes in the
    precision of the slopes; fields are as in ``geniex.circuit.solve.fields``.
    """

    def __init__(self, slopes: Tensor, wires: Wires) -> None:
        source, sink, row, col = (average_per_tile(r, slopes) for r in vars(wires).values())
        self.slopes = slopes
        self.bit_lines = _bit_lines(slopes, sink, col)
        self.word_lines = CoupledLadder((slopes * self.bit_lines).unbind(), source, row)

    def solve(self, b: Tensor) -> Tensor:
        """The u (cols, tiles, rows, vectors) with u + K(D u) = b, for b of the same shape."""
        bit_lines = self.bit_lines.flatten(0, 1)
        u = torch.bmm(bit_lines, b.flatten(0, 1))
        currents = self.slopes * u.view(b.shape)
        drops = torch.empty_like(currents)
        self.word_lines.drops(currents.unbind(), drops.unbind())
        return u.baddbmm_(bit_lines, drops.flatten(0, 1), alpha=-1).view(b.shape)


def _bit_lines(slopes: Tensor, sink: Tensor, col: Tensor) -> Tensor:
    """P_j = (1 + K_col D_j)^-1 (cols, tiles, rows, rows) of bit lines with slopes (cols, tiles, rows, 1)."""
    # The near end of a bit line is its last row.
    ladder = Ladder(slopes.unbind(2)[::-1], sink[..., 0], col[..., 0])
    eye = torch.eye(slopes.shape[2], dtype=slopes.dtype, device=slopes.device)
    drops = slopes * eye
    rows = drops.unbind(2)[::-1]
    ladder.drops(rows, rows)
    return eye - drops


def solve_linear_array(slopes: Tensor, wires: Wires, drives: Tensor) -> Tensor:
    """Cell voltages (patterns, tiles, rows, cols) [V] of linear cells (tiles, rows, cols) [S] driven by ``drives``.

    ``drives`` (patterns, tiles, rows, cols) [V] holds, at each cell, the driver voltage of its word line. Resistances
    are (tiles,), or (1,) for all tiles. Gradients are implicit (``geniex.circuit.solve.implicit``).
    """
    with torch.no_grad():
        inverse = _inverse(wires)
        u = inverse(slopes, drives)
    return attach_gradient(drives - wires.drop(slopes * u), u, slopes, wires, inverse)


def _inverse(wires: Wires) -> Inverse:
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
        slopes, b, part = turn(slopes), turn(b), turn_wires(part)
    d, drive = to_field(slopes[:, None]).contiguous(), to_field(b.transpose(0, 1)).contiguous()
    u = from_field(Elimination(d, part).solve(drive)).transpose(0, 1)
    return turn(u) if turned else u


def _of_tiles(value: Scalar, at: slice) -> Scalar:
    if not isinstance(value, Tensor) or value.dim() == 0:
        return value
    return (value if len(value) == 1 else value[at])[:, None].detach()
