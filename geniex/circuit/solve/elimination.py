"""One elimination of a linearised array, which then gives its exact response to any drive of its cells.

With cells of slope D, the cell voltages answer a drive b of each cell as u = b - K(D u), see
``geniex.circuit.wires``. Let x_j be the drop along the word lines up to column j, and J_j the currents in the
word-line segments before column j. Then

    bit line j     u_j = P_j (b_j - x_j),        P_j = (1 + K_col D_j)^-1
    word lines     J_j = D_j u_j + J_{j+1},      x_j = x_{j-1} + R_j J_j       (R_0 = R_source, else R_row)

A bit line is a ladder: two recurrences along its rows give P_j without factorising a matrix. Seen from its word
lines, it is the admittance D_j P_j. From the far end, J_j = Q_j (D_j P_j b_j + h_{j+1}) - Y'_j x_{j-1}, with

    Y_j = D_j P_j + Y'_{j+1},   Q_j = (1 + R_j Y_j)^-1,   Y'_j = Q_j Y_j,   h_j = Q_j (D_j P_j b_j + h_{j+1}),

so that x_j = Q_j x_{j-1} + R_j h_j. P and Q depend on D alone. Each drive then costs two sweeps of matrix products
over the columns and two products with P. Open cells and zero resistances need no special care.
"""

from __future__ import annotations

import torch
from torch import Tensor

from geniex.circuit.solve.fields import per_tile
from geniex.circuit.wires import Wires


class Elimination:
    """The operator (1 + K D)^-1 of tiles with cell slopes D (cols, tiles, rows, 1) [S].

    The wires' scalars are () or (tiles, vectors), of which the mean over the vectors counts. It computes in the
    precision of the slopes; fields are as in ``geniex.circuit.solve.fields``.
    """

    def __init__(self, slopes: Tensor, wires: Wires) -> None:
        self.slopes = slopes
        self.source, sink, self.row, col = (
            per_tile(r, slopes) for r in (wires.r_source, wires.r_sink, wires.r_row, wires.r_col)
        )
        self.bit_lines = _ladders(slopes, sink, col)
        self.word_lines = _word_lines(slopes * self.bit_lines, self.source, self.row)

    def solve(self, b: Tensor) -> Tensor:
        """The u (cols, tiles, rows, vectors) with u + K(D u) = b, for b of the same shape."""
        bit_lines = self.bit_lines.flatten(0, 1)
        u = torch.bmm(bit_lines, b.flatten(0, 1))
        carried = self.slopes * u.view(b.shape)
        drops = torch.empty_like(carried)
        into, out, pass_on = carried.unbind(), drops.unbind(), self.word_lines.unbind()
        for j in reversed(range(len(into))):
            if j + 1 < len(into):
                into[j].add_(out[j + 1])
            torch.bmm(pass_on[j], into[j], out=out[j])
        drops[1:] *= self.row
        drops[0] *= self.source
        for j in range(1, len(out)):
            out[j].baddbmm_(pass_on[j], out[j - 1])
        return u.baddbmm_(bit_lines, drops.flatten(0, 1), alpha=-1).view(b.shape)


def _ladders(slopes: Tensor, sink: Tensor, col: Tensor) -> Tensor:
    """P_j = (1 + K_col D_j)^-1 (cols, tiles, rows, rows) of bit lines with slopes (cols, tiles, rows, 1)."""
    _, tiles, rows, _ = slopes.shape
    resistance = col.expand(1, tiles, rows, 1).clone()
    resistance[:, :, -1:] = sink
    # The share of the current arriving at a row that the segment below it carries on.
    share = torch.empty_like(slopes)
    admittance = slopes[:, :, 0]
    for i in range(rows):
        loaded = 1 + resistance[:, :, i] * admittance
        torch.reciprocal(loaded, out=share[:, :, i])
        if i + 1 < rows:
            admittance = torch.addcdiv(slopes[:, :, i + 1], admittance, loaded)
    eye = torch.eye(rows, dtype=slopes.dtype, device=slopes.device)
    c = slopes * eye
    for i in range(1, rows):
        c[:, :, i].addcmul_(share[:, :, i - 1], c[:, :, i - 1])
    c *= resistance * share
    for i in range(rows - 2, -1, -1):
        c[:, :, i].addcmul_(share[:, :, i], c[:, :, i + 1])
    return eye - c


def _word_lines(admittances: Tensor, source: Tensor, row: Tensor) -> Tensor:
    """Q_j (cols, tiles, rows, rows), which takes the drops before segment j to those that are left behind it."""
    eye = torch.eye(admittances.shape[-1], dtype=admittances.dtype, device=admittances.device)
    out = torch.empty_like(admittances)
    y = torch.zeros_like(admittances[0])
    for j in reversed(range(len(out))):
        y = y + admittances[j]
        lower = torch.linalg.cholesky_ex(torch.addcmul(eye, row if j else source, y)).L
        out[j] = torch.cholesky_inverse(lower)
        y = out[j] @ y
    return out
