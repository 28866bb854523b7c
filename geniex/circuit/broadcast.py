"""Leading dimensions that broadcast without expanding either side, in products and in (tiles, vectors) groups."""

from __future__ import annotations

import math
import string

import torch
from torch import Tensor

from geniex.circuit.wires import Scalar


def shared_matmul(vectors: Tensor, matrices: Tensor) -> Tensor:
    """The products (..., cols) of ``vectors`` (..., rows) and ``matrices`` (..., rows, cols); leading dims broadcast.

    Dimensions that only the vectors have become GEMM rows, those that only the matrices have become GEMM
    columns, and those that both have become the batch of one batched GEMM.
    """
    lead_v, lead_m = vectors.shape[:-1], matrices.shape[:-2]
    depth = max(len(lead_v), len(lead_m))
    full_v = (1,) * (depth - len(lead_v)) + tuple(lead_v)
    full_m = (1,) * (depth - len(lead_m)) + tuple(lead_m)
    names = string.ascii_lowercase[:depth]
    keep_v = [k for k in range(depth) if full_v[k] != 1]
    keep_m = [k for k in range(depth) if full_m[k] != 1]
    keep_out = sorted({*keep_v, *keep_m})
    v = vectors.reshape(*(full_v[k] for k in keep_v), vectors.shape[-1])
    m = matrices.reshape(*(full_m[k] for k in keep_m), *matrices.shape[-2:])

    def letters(axes: list[int]) -> str:
        return "".join(names[k] for k in axes)

    out = torch.einsum(f"{letters(keep_v)}Y,{letters(keep_m)}YZ->{letters(keep_out)}Z", v, m)
    return out.reshape(*torch.broadcast_shapes(full_v, full_m), matrices.shape[-1])


class Groups:
    """Leading dimensions sorted into (tiles, vectors), where all "vectors" of a tile share its conductances."""

    def __init__(self, lead: torch.Size, lead_g: torch.Size) -> None:
        depth = len(lead)
        sizes = (1,) * (depth - len(lead_g)) + tuple(lead_g)
        self.lead = lead
        self.order = [k for k in range(depth) if sizes[k] != 1] + [k for k in range(depth) if sizes[k] == 1]
        self.tiles = math.prod(sizes)
        self.vectors = math.prod(lead) // max(self.tiles, 1)

    def gather(self, x: Tensor) -> Tensor:
        """``x`` (*lead, a, b) as (tiles, vectors, a, b)."""
        depth = len(self.lead)
        return x.permute(*self.order, depth, depth + 1).reshape(self.tiles, self.vectors, *x.shape[-2:])

    def gather_scalar(self, value: Scalar) -> Scalar:
        if not isinstance(value, Tensor) or value.dim() == 0:
            return value
        return self.gather(value.expand(self.lead)[..., None, None])[..., 0, 0]

    def scatter(self, x: Tensor) -> Tensor:
        """``x`` (tiles, vectors, a, b) as (*lead, a, b)."""
        depth = len(self.lead)
        shuffled = x.reshape(*(self.lead[k] for k in self.order), *x.shape[-2:])
        inverse = [self.order.index(k) for k in range(depth)]
        return shuffled.permute(*inverse, depth, depth + 1)

    def index(self, tile: int, vector: int) -> tuple[int, ...]:
        """The position of one problem in the leading dimensions."""
        flat, at = tile * self.vectors + vector, [0] * len(self.lead)
        for k in reversed(self.order):
            flat, at[k] = divmod(flat, self.lead[k])
        return tuple(at)
