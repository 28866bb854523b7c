"""The exact response of an array of linear cells: one elimination for all inputs.

Bit line j with its cells is a network between the N word-line nodes of column j and virtual ground; its
admittance is S_j = (I + D_j K_col)^-1 D_j, D_j = diag(G[:, j]). With K_col = W W^T (W finite for any
resistance >= 0) this is S_j = D_j - D_j W (I + W^T D_j W)^-1 W^T D_j, a Cholesky factorisation that also
holds for open cells and zero resistances.

Seen from the drivers, columns j.. have the admittance Y_j: Y_{M-1} = S_{M-1}, and one wire segment further
Y_j = S_j + (I + R_row Y_{j+1})^-1 Y_{j+1}. Let Q_j = (I + R Y_j)^-1 pass the voltages over segment j (R is
R_source for j = 0). The current of column j is 1^T S_j Q_j ... Q_0 V, so that A[:, j] = Q_0 ... Q_j S_j 1:
the same sweep carries these vectors along. Everything is autograd's to differentiate.
"""

from __future__ import annotations

import torch
from torch import Tensor

from geniex.circuit.wires import Scalar, Wires

_WORKSPACE_BYTES = 64 << 20
"""Bytes of column admittances held at once: tiles are taken in chunks of this size."""


def effective_conductance(conductances: Tensor, wires: Wires) -> Tensor:
    """A (..., rows, cols) [S] with I = A^T V, for linear cells ``conductances`` (..., rows, cols) [S].

    Wire scalars are floats, or tensors that broadcast against the leading dimensions.
    """
    lead = conductances.shape[:-2]
    rows, cols = conductances.shape[-2:]
    tiles = conductances.reshape(-1, rows, cols)
    if tiles.shape[0] == 0:
        return conductances.clone()
    flat = Wires(*(_per_tile(r, lead) for r in (wires.r_source, wires.r_sink, wires.r_row, wires.r_col)))
    per_tile = rows * rows * cols * conductances.element_size()
    step = max(1, _WORKSPACE_BYTES // per_tile)
    parts = [
        _eliminate(tiles[k : k + step], Wires(*(_slice(r, k, step) for r in vars(flat).values())))
        for k in range(0, tiles.shape[0], step)
    ]
    return torch.cat(parts).reshape(*lead, rows, cols)


def column_admittances(conductances: Tensor, r_sink: Scalar, r_col: Scalar) -> Tensor:
    """S (tiles, cols, rows, rows) [S]: what each bit line with its cells is to the word lines."""
    g = conductances.transpose(-1, -2)  # (tiles, cols, rows)
    rows = g.shape[-1]
    root = _segment_roots(rows, r_sink, r_col, g)  # (tiles | 1, rows)
    ones = torch.ones(rows, rows, dtype=g.dtype, device=g.device)
    w = (torch.triu(ones) * root[..., None, :])[:, None]  # (tiles | 1, 1, rows, rows)
    dw = g[..., None] * w
    h = torch.eye(rows, dtype=g.dtype, device=g.device) + w.transpose(-1, -2) @ dw
    factor = torch.linalg.cholesky_ex(h).L
    x = torch.linalg.solve_triangular(factor, dw.transpose(-1, -2), upper=False)
    return torch.diag_embed(g) - x.transpose(-1, -2) @ x


def _eliminate(conductances: Tensor, wires: Wires) -> Tensor:
    tiles, rows, cols = conductances.shape
    s = column_admittances(conductances, wires.r_sink, wires.r_col)
    drive = s.sum(-1, keepdim=True)  # (tiles, cols, rows, 1): S_j 1
    eye = torch.eye(rows, dtype=s.dtype, device=s.device)
    admittance = torch.zeros(tiles, rows, rows, dtype=s.dtype, device=s.device)
    response = torch.zeros(tiles, rows, 0, dtype=s.dtype, device=s.device)
    for j in reversed(range(cols)):
        admittance = admittance + s[:, j]
        response = torch.cat([drive[:, j], response], dim=-1)
        r = wires.r_row if j else wires.r_source
        r = r[:, None, None] if isinstance(r, Tensor) else r
        factor = torch.linalg.cholesky_ex(eye + r * admittance).L
        passed = torch.cholesky_solve(torch.cat([admittance, response], dim=-1), factor)
        admittance, response = passed[..., :rows], passed[..., rows:]
        admittance = (admittance + admittance.transpose(-1, -2)) / 2
    return response


def _segment_roots(rows: int, r_sink: Scalar, r_col: Scalar, like: Tensor) -> Tensor:
    """Square roots of the bit line's segment resistances, (tiles | 1, rows): R_col, ..., R_col, R_sink."""
    sink = torch.as_tensor(r_sink, dtype=like.dtype, device=like.device).reshape(-1, 1)
    col = torch.as_tensor(r_col, dtype=like.dtype, device=like.device).reshape(-1, 1)
    count = max(sink.shape[0], col.shape[0])
    return torch.cat([col.expand(count, rows - 1), sink.expand(count, 1)], dim=-1).sqrt()


def _per_tile(value: Scalar, lead: torch.Size) -> Scalar:
    return value.expand(lead).reshape(-1) if isinstance(value, Tensor) else value


def _slice(value: Scalar, start: int, step: int) -> Scalar:
    return value[start : start + step] if isinstance(value, Tensor) else value
