"""The wires of a crossbar, as the linear operator from cell currents to the voltages that they drop.

Word line i runs from the driver V_i through R_source to node r_{i,0}, with R_row between r_{i,j} and r_{i,j+1}. Bit
line j starts at node c_{0,j}, with R_col between c_{i,j} and c_{i+1,j}, and ends with R_sink from c_{N-1,j} to
virtual ground. So

    r = V - I K_row,   K_row[k, j] = R_source + R_row * min(k, j)
    c = K_col I,       K_col[i, k] = R_sink   + R_col * (N - 1 - max(i, k))

and the cell voltage is u = V - K(I), with the symmetric operator K(I) = I K_row + K_col I. Both terms are
nested prefix sums, so applying K costs O(NM), and it stays finite when a resistance is zero.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

Scalar = float | Tensor


@dataclass(frozen=True)
class Wires:
    """Resistances in ohm, as floats or as tensors that broadcast against the leading (tile) dimensions."""

    r_source: Scalar
    r_sink: Scalar
    r_row: Scalar
    r_col: Scalar

    def detached(self) -> Wires:
        """The same resistances without their gradients."""
        return Wires(*(r.detach() if isinstance(r, Tensor) else r for r in vars(self).values()))

    def drop(self, currents: Tensor) -> Tensor:
        """K(I): the voltage lost at each cell (..., rows, cols) [V] for cell currents (..., rows, cols) [A]."""
        return self.row_drop(currents) + self.col_drop(currents)

    def row_drop(self, currents: Tensor) -> Tensor:
        """I K_row: how far each word-line node lies below its driver (..., rows, cols) [V]."""
        # Segment j carries the current into columns >= j; segment 0 is the driver's resistance.
        before = torch.cumsum(currents, dim=-1)
        total = before[..., -1:]
        passing = total - before[..., :-1]
        first = _lead(self.r_source) * total
        if passing.shape[-1] == 0:
            return first
        return torch.cat([first, first + _lead(self.r_row) * torch.cumsum(passing, dim=-1)], dim=-1)

    def col_drop(self, currents: Tensor) -> Tensor:
        """K_col I: how far each bit-line node lies above virtual ground (..., rows, cols) [V]."""
        passing = torch.cumsum(currents, dim=-2)
        last = _lead(self.r_sink) * passing[..., -1:, :]
        below = _lead(self.r_col) * passing[..., :-1, :]
        if below.shape[-2] == 0:
            return last
        # Voltages over the segments from row i down to the sense side are summed.
        downward = torch.cumsum(below, dim=-2)
        return torch.cat([last + (downward[..., -1:, :] - downward) + below, last], dim=-2)


def _lead(value: Scalar) -> Scalar:
    return value[..., None, None] if isinstance(value, Tensor) and value.dim() > 0 else value
