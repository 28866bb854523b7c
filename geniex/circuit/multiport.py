"""Rectangles of linear cells as multi-ports, and how two neighbours become one.

A block of n x m cells meets the rest of the array at its n word lines, left and right, and its m bit lines,
top and bottom. Every cell has its word-line segment on its left and its bit-line segment below, so that the
driver's resistance is the first segment of a row and the sense resistance the last of a column. A block maps

    inputs    L: voltages on the left, R: currents drawn on the right,
              T: currents entering at the top, B: voltages at the bottom
    outputs   L: currents entering on the left, R: voltages on the right,
              T: voltages at the top, B: currents leaving at the bottom

which is finite for all resistances and conductances >= 0. Where two blocks meet, the output of each is the
input of the other (v_R and i_L, or i_B and v_T). With p the output there of the first block P, q that of the
second, Q, and x the inputs at all other ports,

    p = P_ix x_P + P_ii q,   q = Q_ix x_Q + Q_ii p,   so   p = (1 - P_ii Q_ii)^-1 (P_ix x_P + P_ii Q_ix x_Q),

the star product of R. Redheffer (J. Math. and Phys. 41, 1962). One of P_ii and Q_ii is the impedance and the
other minus the admittance of a passive network, so the eigenvalues of 1 - P_ii Q_ii are at least 1.

At the edges of the array L is driven, no current is drawn at R or enters at T, and B is virtual ground. Inputs
that are zero and outputs that are not needed are dropped from the matrices as soon as that is known.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import pad


@dataclass(frozen=True)
class Blocks:
    """A grid of equal blocks, with the ports that their matrices have, in order."""

    matrix: Tensor
    """Matrices of the blocks (tiles, blocks down, blocks across, outputs, inputs)."""
    outputs: str
    inputs: str
    rows: int
    cols: int

    @property
    def grid(self) -> tuple[int, int]:
        """The number of blocks down and across."""
        return self.matrix.shape[1], self.matrix.shape[2]

    def part(self, outputs: str, inputs: str) -> Tensor:
        """The blocks' matrices (..., outputs, inputs) between these ports only, in this order."""
        return self._pick(self._pick(self.matrix, self.outputs, outputs, -2), self.inputs, inputs, -1)

    def join(self, across: bool) -> Blocks:
        """The grid in which pairs of neighbours, left and right (``across``) or upper and lower, are one block each."""
        down, wide = self.grid
        outputs, inputs = open_ports(down if across else down // 2, wide // 2 if across else wide)
        size = (self.rows, 2 * self.cols) if across else (2 * self.rows, self.cols)
        halves = self.matrix.unfold(2 if across else 1, 2, 2).unbind(-1)
        near, far = (Blocks(half, self.outputs, self.inputs, self.rows, self.cols) for half in halves)
        # P is the block whose output where they meet is a current; its other ports keep their capital letters.
        p, q, p_at, q_at = (far, near, "L", "R") if across else (near, far, "B", "T")
        p_out, p_in = outputs.replace(p_at, ""), inputs.replace(p_at, "")
        q_out, q_in = outputs.replace(q_at, ""), inputs.replace(q_at, "")
        p_ii, q_ii = p.part(p_at, p_at), q.part(q_at, q_at)
        p_xi, q_xi = p.part(p_out, p_at), q.part(q_out, q_at)
        q_ix = q.part(q_at, q_in)
        inverse = _inverse_of_one_minus(p_ii @ q_ii)
        p_of_p, p_of_q = inverse @ p.part(p_at, p_in), inverse @ (p_ii @ q_ix)
        q_of_p, q_of_q = q_ii @ p_of_p, q_ix + q_ii @ p_of_q
        upper = torch.cat([p.part(p_out, p_in) + p_xi @ q_of_p, p_xi @ q_of_q], dim=-1)
        lower = torch.cat([q_xi @ p_of_p, q.part(q_out, q_in) + q_xi @ p_of_q], dim=-1)
        both = Blocks(
            torch.cat([upper, lower], dim=-2), p_out + q_out.lower(), p_in + q_in.lower(), self.rows, self.cols
        )
        # On a side that both blocks have, the lines of the near block (left or upper) come before those of the far one.
        order_out, order_in = (
            "".join(x for port in names for x in (port, port.lower())[:: -1 if across else 1] if x in had)
            for names, had in ((outputs, both.outputs), (inputs, both.inputs))
        )
        return Blocks(both.part(order_out, order_in), outputs, inputs, *size)

    def _pick(self, matrix: Tensor, names: str, wanted: str, dim: int) -> Tensor:
        if names == wanted:
            return matrix
        sizes = [self.rows if name in "LRlr" else self.cols for name in names]
        pieces = dict(zip(names, matrix.split(sizes, dim), strict=True))
        if len(wanted) == 1:
            return pieces[wanted]
        return torch.cat([pieces[name] for name in wanted], dim) if wanted else matrix.narrow(dim, 0, 0)


def _inverse_of_one_minus(product: Tensor) -> Tensor:
    """(1 - product)^-1, by a matrix with its rows scaled alike.

    A line that carries no current is then its own pivot, and its current stays 0.
    """
    matrix = torch.eye(product.shape[-1], dtype=product.dtype, device=product.device) - product
    scale = 1 / matrix.detach().abs().sum(-1, keepdim=True)
    return torch.linalg.inv_ex(scale * matrix).inverse * scale.mT


def open_ports(down: int, across: int) -> tuple[str, str]:
    """The outputs and inputs of blocks in a grid of this size, without ports at the array's edge in all blocks."""
    outputs = ("LR" if across > 1 else "") + ("T" if down > 1 else "") + "B"
    inputs = "L" + ("R" if across > 1 else "") + ("TB" if down > 1 else "")
    return outputs, inputs


def solve_leaf_blocks(conductances: Tensor, word: Tensor, bit: Tensor, rows: int, cols: int) -> Blocks:
    """Blocks of ``rows`` x ``cols`` cells, each solved densely.

    Let E be the voltages at the cells per unit of each input while no cell carries a current, and K the wires'
    operator within the block. Then the cells' currents are I = D (E x - K I) = (1 + D K)^-1 D E x. By
    reciprocity the outputs that I adds are E^T I, with the opposite sign at T and B.

    Args:
        conductances: the cells' conductances (tiles, rows of cells, columns of cells), siemens.
        word: resistances of the word-line segments left of the cells, (tiles | 1, columns of cells), ohm.
        bit: resistances of the bit-line segments below the cells, (tiles | 1, rows of cells), ohm.
        rows: rows of a block; the number divides the rows of cells.
        cols: columns of a block; the number divides the columns of cells.
    """
    down, across = conductances.shape[1] // rows, conductances.shape[2] // cols
    g = conductances.reshape(-1, down, rows, across, cols).transpose(2, 3).reshape(-1, down, across, rows * cols, 1)
    row, col = (torch.eye(size, dtype=g.dtype, device=g.device) for size in (rows, cols))
    # Resistances from each cell to the left end of its word line and to the lower end of its bit line.
    left = word.reshape(-1, 1, across, cols, 1).cumsum(-2)
    below = bit.reshape(-1, down, 1, rows, 1).flip(-2).cumsum(-2).flip(-2)
    i, j = (torch.arange(size, device=g.device) for size in (rows, cols))
    along = left[..., torch.minimum(j[:, None], j), 0]
    beneath = below[..., torch.maximum(i[:, None], i), 0]
    k = torch.kron(row, along) + torch.kron(beneath, col)

    lead = k.shape[:3]
    e_word = torch.cat([torch.kron(row, torch.ones_like(left)), torch.kron(row, -left)], -1)
    e_bit = torch.cat([torch.kron(-below, col), torch.kron(-torch.ones_like(below), col)], -1)
    e_word, e_bit = e_word.expand(*lead, -1, -1), e_bit.expand(*lead, -1, -1)
    # The rows are scaled alike, as where blocks are joined: (s + s D K) I = s D E x.
    scale = 1 / (1 + (g * k.sum(-1, keepdim=True)).detach())
    g = scale * g
    currents = torch.linalg.solve_ex(scale * torch.kron(row, col) + g * k, g * torch.cat([e_word, e_bit], -1)).result
    of_cells = torch.cat([e_word, -e_bit], -1).mT @ currents

    # The outputs of the wires alone: i_L = i_R, v_R = v_L - R i_R, and i_B = i_T, v_T = v_B + R i_T.
    first, last = torch.eye(2, dtype=g.dtype, device=g.device).diag_embed()
    swap = torch.eye(2, dtype=g.dtype, device=g.device).flip(0)
    word_line = torch.kron(swap - left[..., -1:, :] * last, row)
    bit_line = torch.kron(swap + below[..., :1, :] * first, col)
    of_wires = pad(word_line, (0, 2 * cols, 0, 2 * cols)) + pad(bit_line, (2 * rows, 0, 2 * rows, 0))

    outputs, inputs = open_ports(down, across)
    blocks = Blocks(of_wires + of_cells, "LRTB", "LRTB", rows, cols)
    return Blocks(blocks.part(outputs, inputs), outputs, inputs, rows, cols)
