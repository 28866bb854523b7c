"""Lines of linear cells as ladders: one recurrence, for the lines of an array on their own and for coupled lines.

Number the cells of a line from its near end (a word line's driver, a bit line's sense side), with resistance R_j in
the segment before cell j. Let the cells have the conductances d_j and inject the currents i_j = d_j b_j; let h_j be the
current that segment j carries while its near end is held at zero drop, and x_j the drop up to cell j. Seen from the
near end, the line from cell j on is the admittance y_j, of which segment j passes on the share q_j:

    y_j = d_j + q_{j+1} y_{j+1},     q_j = (1 + R_j y_j)^-1
    h_j = q_j (i_j + h_{j+1}),       x_j = q_j x_{j-1} + R_j h_j.

The cell voltages u = b - x then solve u + K(D u) = b for the wires' operator K of the line (``geniex.circuit.wires``).
The shares depend on D alone, and each drive costs two sweeps. Nothing is divided by a conductance or a resistance, so
open cells and zero resistances need no special care.

Where other lines couple the lines of an array, as bit lines couple word lines, d_j and y_j are the matrices of the
admittances of all lines together, q_j too, and the recurrence stays the same.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from geniex.circuit.solve.implicit import attach_gradient
from geniex.circuit.wires import Scalar, Wires


class Ladder:
    """The shares q_j of lines, which give the drops along them for any currents of the cells.

    Everything is a sequence of slices, one for each cell of a line, from the near end on. Lines that differ are
    entries of a slice, and everything is elementwise.
    """

    def __init__(self, admittances: Sequence[Tensor], first: Tensor, others: Tensor) -> None:
        """Find the shares of lines with ``admittances`` d_j [S], and R_0 = ``first``, else ``others`` [ohm]."""
        self.resistances = [first, *[others] * (len(admittances) - 1)]
        self.shares = [share for _, share, _ in self.look_out(admittances, self.resistances)][::-1]

    @classmethod
    def look_out(
        cls, admittances: Sequence[Tensor], resistances: Sequence[Tensor]
    ) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Yields y_j, q_j and q_j y_j, from the far end of the line to its near end."""
        behind: Tensor | None = None
        for d, r in zip(reversed(admittances), reversed(resistances), strict=True):
            y = d if behind is None else d + behind
            share = cls._share(r, y)
            behind = cls._times(share, y)
            yield y, share, behind

    def drops(self, currents: Sequence[Tensor], out: Sequence[Tensor]) -> None:
        """Write the drops x_j for the ``currents`` i_j to ``out``; the currents are overwritten.

        A ladder that works elementwise also takes ``currents`` as ``out``.
        """
        for j in reversed(range(len(out))):
            if j + 1 < len(out):
                currents[j].add_(out[j + 1])
            self._times(self.shares[j], currents[j], out=out[j])
        for j, resistance in enumerate(self.resistances):
            out[j].mul_(resistance)
            if j:
                self._add_times(out[j], self.shares[j], out[j - 1])

    @staticmethod
    def _share(resistance: Tensor, admittance: Tensor) -> Tensor:
        return torch.reciprocal(1 + resistance * admittance)

    @staticmethod
    def _times(share: Tensor, x: Tensor, out: Tensor | None = None) -> Tensor:
        return torch.mul(share, x, out=out)

    @staticmethod
    def _add_times(out: Tensor, share: Tensor, x: Tensor) -> None:
        out.addcmul_(share, x)


class CoupledLadder(Ladder):
    """A ladder whose slices are coupled: admittances and shares are matrices (..., lines, lines), which are symmetric
    and positive semidefinite, and positive definite; currents and drops are (..., lines, vectors)."""

    @staticmethod
    def _share(resistance: Tensor, admittance: Tensor) -> Tensor:
        eye = torch.eye(admittance.shape[-1], dtype=admittance.dtype, device=admittance.device)
        lower = torch.linalg.cholesky_ex(torch.addcmul(eye, resistance, admittance)).L
        # The inverse comes in column-major order, in which the products of the sweeps would be slow.
        return torch.cholesky_inverse(lower).contiguous()

    @staticmethod
    def _times(share: Tensor, x: Tensor, out: Tensor | None = None) -> Tensor:
        return torch.bmm(share, x, out=out)

    @staticmethod
    def _add_times(out: Tensor, share: Tensor, x: Tensor) -> None:
        out.baddbmm_(share, x)


class LineSolver:
    """The operator (1 + K D)^-1 of word lines with cell slopes D (..., tiles, rows, cols) [S] and bit lines at ground.

    Resistances are (tiles,), or (1,) for all tiles.
    """

    def __init__(self, slopes: Tensor, lines: Wires) -> None:
        self._slopes = slopes.detach().movedim(-1, 0).contiguous()  # one slice for each column
        first, others = (spread_over_rows(r, slopes).detach() for r in (lines.r_source, lines.r_row))
        self._ladder = Ladder(self._slopes.unbind(), first, others)

    def solve(self, b: Tensor) -> Tensor:
        """The u (..., tiles, rows, cols) with u + K(D u) = b."""
        x = self._slopes * b.movedim(-1, 0)
        slices = x.unbind()
        self._ladder.drops(slices, slices)
        return b - x.movedim(0, -1)


def solve_word_lines(slopes: Tensor, lines: Wires, drives: Tensor) -> Tensor:
    """Cell voltages (..., tiles, rows, cols) [V] of linear cells on word lines alone, with bit lines at ground.

    ``slopes`` [S] and ``drives`` [V] have that shape; the drives hold, at each cell, the driver voltage of its word
    line. Gradients are implicit (``geniex.circuit.solve.implicit``).
    """
    with torch.no_grad():
        solver = LineSolver(slopes, lines)
        u = solver.solve(drives)
    return attach_gradient(drives - lines.row_drop(slopes * u), u, slopes, lines, lambda _, b: solver.solve(b))


def line_resistance(slopes: Tensor, lines: Wires) -> Tensor:
    """Resistance [ohm] (..., tiles, rows, cols) that each cell sees of its word line, with bit lines at ground.

    ``slopes`` (..., tiles, rows, cols) [S] are those of all cells; a cell's own does not count. Towards the far end the
    cell sees the admittance q y of the next segment. Towards the driver it sees a resistance, by the same recurrence
    with resistances and conductances exchanged, which is the ladder's dual.
    """
    cells = slopes.movedim(-1, 0).unbind()
    first, others = (spread_over_rows(r, slopes) for r in (lines.r_source, lines.r_row))
    resistances = [first.expand_as(cells[0]), *[others] * (len(cells) - 1)]
    behind = [seen for _, _, seen in Ladder.look_out(cells[1:], resistances[1:])][::-1]
    before = [seen for seen, _, _ in Ladder.look_out(resistances[::-1], cells[::-1])]
    seen = [r / (1 + r * y) for r, y in zip(before, behind, strict=False)]
    return torch.stack([*seen, before[-1]], -1)


def spread_over_rows(value: Scalar, like: Tensor) -> Tensor:
    """A scalar () or (tiles,) in the shape that broadcasts against a slice (..., tiles, rows), with its gradient."""
    scalar = torch.as_tensor(value, dtype=like.dtype, device=like.device)
    return scalar[..., None] if scalar.dim() else scalar
