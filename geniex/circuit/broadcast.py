"""Matrix-vector products whose leading dimensions broadcast without expanding either side."""

from __future__ import annotations

import string

import torch
from torch import Tensor


def shared_matmul(vectors: Tensor, matrices: Tensor) -> Tensor:
    """``vectors`` (..., rows) times ``matrices`` (..., rows, cols): (..., cols), leading dimensions broadcast.

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
