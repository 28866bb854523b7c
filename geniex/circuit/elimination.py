"""One elimination of a linearised array, then its exact response to any drive of its cells.

With cells of slope D, the cell voltages answer a drive b of each cell as u = b - K(D u), see
``geniex.circuit.wires``. For column j, with x_j the drop along the word lines up to there and J_j the currents
that their segments before column j carry:

    bit line j     u_j = P_j (b_j - x_j),        P_j = (1 + K_col D_j)^-1
    word lines     J_j = D_j u_j + J_{j+1},      x_j = x_{j-1} + R_j J_j       (R_0 = R_source, else R_row)

A bit line is a ladder: two recurrences along its rows apply P_j without a matrix. Seen from its word lines it is
the admittance S_j = D_j P_j. From the far end, J_j = a_j - Y_j x_j with Y_j = S_j + Y'_{j+1} and
a_j = D_j P_j b_j + h_{j+1}; put x_j in and J_j = h_j - Y'_j x_{j-1} with Y'_j = (1 + R_j Y_j)^-1 Y_j and
h_j = a_j - R_j Y'_j a_j. R Y' depends on D alone: a drive then costs two sweeps of matrix products over the columns
and two ladders. Open cells and zero resistances need no special care. An array with more rows than columns is
eliminated along its rows: it is the same network with word and bit lines, sources and sinks exchanged.
"""

from __future__ import annotations

import torch
from torch import Tensor

from geniex.circuit.wires import Scalar, Wires


class Elimination:
    """(1 + K D)^-1 of tiles with cell slopes D (tiles, rows, cols) [S] and wires that broadcast to (tiles,).

    Factorised in the slopes' dtype, kept and applied in ``dtype``.
    """

    def __init__(self, slopes: Tensor, wires: Wires, dtype: torch.dtype) -> None:
        self.turned = slopes.shape[-2] > slopes.shape[-1]
        if self.turned:
            slopes = _turn(slopes)
            wires = Wires(wires.r_sink, wires.r_source, wires.r_col, wires.r_row)
        d = slopes.permute(2, 0, 1)[..., None].contiguous()  # (cols, tiles, rows, 1)
        ladder = _Ladder(d, _per_tile(wires.r_sink, d), _per_tile(wires.r_col, d))
        source, row = _per_tile(wires.r_source, d), _per_tile(wires.r_row, d)
        self.before = _word_line_sweep(d, ladder, source, row, dtype)
        self.slopes, self.ladder = d.to(dtype), ladder.to(dtype)
        self.source, self.row = source.to(dtype), row.to(dtype)

    def solve(self, b: Tensor) -> Tensor:
        """u (tiles, vectors, rows, cols) with u + K(D u) = b, for b of that shape, in b's dtype."""
        x = _turn(b) if self.turned else b
        x = x.permute(3, 0, 2, 1).to(self.slopes.dtype, memory_format=torch.contiguous_format)
        out = self._respond(x).permute(1, 3, 2, 0)
        return (_turn(out) if self.turned else out).to(b.dtype, memory_format=torch.contiguous_format)

    def _respond(self, b: Tensor) -> Tensor:
        """The same for b (cols, tiles, rows, vectors)."""
        u = self.ladder.solve(b)
        carried = self.slopes * u
        for j in reversed(range(len(carried))):
            if j + 1 < len(carried):
                carried[j] += carried[j + 1]
            carried[j] = torch.baddbmm(carried[j], self.before[j], carried[j], alpha=-1)
        first = self.source * carried[0]
        drop = carried.mul_(self.row)
        drop[0] = first
        for j in range(1, len(drop)):
            drop[j] += torch.baddbmm(drop[j - 1], self.before[j], drop[j - 1], alpha=-1)
        return u - self.ladder.solve(drop)


class _Ladder:
    """(1 + K_col D)^-1 for bit lines of cell slopes D (..., rows, 1)."""

    def __init__(self, slopes: Tensor, r_sink: Tensor, r_col: Tensor) -> None:
        rows = slopes.shape[-2]
        self.slopes = slopes
        self.pass_on = torch.empty_like(slopes)  # share of what arrives at a row that its lower segment carries on
        self.resistance = torch.cat(
            [r_col.expand(*slopes.shape[:-2], rows - 1, 1), r_sink.expand_as(slopes[..., :1, :])], -2
        )
        admittance = torch.zeros_like(slopes[..., 0, :])
        for i in range(rows):
            admittance = admittance + slopes[..., i, :]
            self.pass_on[..., i, :] = 1 / (1 + self.resistance[..., i, :] * admittance)
            admittance = admittance * self.pass_on[..., i, :]
        self.weight = self.resistance * self.pass_on

    def to(self, dtype: torch.dtype) -> _Ladder:
        """A copy in another precision."""
        out = object.__new__(_Ladder)
        out.slopes, out.pass_on, out.weight = self.slopes.to(dtype), self.pass_on.to(dtype), self.weight.to(dtype)
        return out

    def solve(self, b: Tensor) -> Tensor:
        """u with u + K_col D u = b, for b (..., rows, vectors)."""
        c = self.slopes * b
        rows = c.shape[-2]
        for i in range(1, rows):
            c[..., i, :].addcmul_(self.pass_on[..., i - 1, :], c[..., i - 1, :])
        c.mul_(self.weight)
        for i in range(rows - 2, -1, -1):
            c[..., i, :].addcmul_(self.pass_on[..., i, :], c[..., i + 1, :])
        return b - c


def _word_line_sweep(d: Tensor, ladder: _Ladder, source: Tensor, row: Tensor, dtype: torch.dtype) -> Tensor:
    """R_j Y'_j (cols, tiles, rows, rows): what of a drop before segment j its own current takes back."""
    cols, tiles, rows, _ = d.shape
    eye = torch.eye(rows, dtype=d.dtype, device=d.device)
    admittances = d * ladder.solve(eye.expand(cols, tiles, rows, rows))
    before = torch.empty(cols, tiles, rows, rows, dtype=dtype, device=d.device)
    y = torch.zeros(tiles, rows, rows, dtype=d.dtype, device=d.device)
    for j in reversed(range(cols)):
        y = y + admittances[j]
        y = (y + y.transpose(1, 2)) / 2
        r = row if j else source
        y = torch.cholesky_inverse(torch.linalg.cholesky_ex(eye + r * y).L) @ y
        before[j] = r * y
    return before


def _turn(field: Tensor) -> Tensor:
    """A field (..., rows, cols) of the array with word and bit lines exchanged; its own inverse."""
    return field.transpose(-1, -2).flip(-2, -1)


def _per_tile(value: Scalar, like: Tensor) -> Tensor:
    return torch.as_tensor(value, dtype=like.dtype, device=like.device).reshape(-1, 1, 1)
