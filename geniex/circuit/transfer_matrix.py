"""The exact response of an array of linear cells, which is one matrix for all inputs.

The array is taken apart into small rectangles of cells, which are solved densely, and neighbours are joined in
pairs until one block is left (``geniex.circuit.multiport``). Joining 2n x 2n cells costs O(n^3), and there are
(N/n)^2 / 4 such squares, so half of the work is in the last join. The total is O(N^3) in log2(N M) batched steps,
where the elimination of one column after the other takes O(N^4) in M sequential steps.

Every step is an inverse or a product, so autograd differentiates it as often as asked. Where autograd's record
of all tiles would be large, the forward pass stores nothing, and the backward pass runs each chunk of tiles again;
it then needs the memory of one chunk.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from geniex.circuit.multiport import solve_leaf_blocks
from geniex.circuit.wires import Scalar, Wires
from geniex.workspace import workspace_bytes

_WORKSPACE_BYTES = {"cpu": 1 << 21, "cuda": 64 << 20}
"""Bytes of block matrices held at once: as many as a CPU core's own cache holds, or as keep a GPU busy."""
_ENTRIES = 16
"""Entries of the block matrices per cell: a block of n x n cells has (4 n)^2."""
_GRAPH_ENTRIES = 600
"""Entries that autograd keeps per cell: the blocks, their products and inverses from all rounds of joining."""
_GRAPH_BYTES = 512 << 20
"""Most bytes that the forward pass keeps for the backward pass."""
_LEAF = 5
"""Most rows or columns of a block that is solved densely."""


def effective_conductance(conductances: Tensor, wires: Wires) -> Tensor:
    """The matrix A (..., rows, cols) [S] with I = A^T V, for linear cells ``conductances`` (..., rows, cols) [S].

    Wire scalars are floats, or tensors that broadcast against the leading dimensions. A is twice differentiable in
    the conductances and the scalars.
    """
    lead, like = conductances.shape[:-2], conductances
    tiles = conductances.reshape(-1, *conductances.shape[-2:])
    if tiles.shape[0] == 0:
        return conductances.clone()
    scalars = [_per_tile(r, lead, like) for r in (wires.r_source, wires.r_sink, wires.r_row, wires.r_col)]
    return _Response.apply(tiles, *scalars).reshape(conductances.shape)


class _Response(torch.autograd.Function):
    """The A of tiles (tiles, rows, cols) with scalars () or (tiles,), computed chunk by chunk in both passes."""

    @staticmethod
    def forward(ctx: Any, *inputs: Tensor) -> Tensor:
        ctx.save_for_backward(*inputs)
        cells = inputs[0].numel() * inputs[0].element_size()
        if not any(ctx.needs_input_grad) or cells * _GRAPH_ENTRIES > workspace_bytes(_GRAPH_BYTES):
            ctx.graphs = None
            return torch.cat([_response(*chunk) for _, chunk in _chunks(inputs)])
        ctx.graphs = [_Graph(chunk, ctx.needs_input_grad) for _, chunk in _chunks(inputs)]
        return torch.cat([graph.out.detach() for graph in ctx.graphs])

    @staticmethod
    def backward(ctx: Any, cotangent: Tensor) -> tuple[Tensor | None, ...]:
        twice = torch.is_grad_enabled()
        graphs, ctx.graphs = ctx.graphs, None
        parts: list[tuple[Tensor, ...]] = []
        for k, (at, chunk) in enumerate(_chunks(ctx.saved_tensors)):
            if twice or graphs is None:
                graph = _Graph(chunk, ctx.needs_input_grad, of_inputs=twice)
            else:
                graph, graphs[k] = graphs[k], None
            parts.append(torch.autograd.grad(graph.out, graph.wanted, cotangent[at], create_graph=twice))
        grads = (torch.cat(x) if x[0].dim() else torch.stack(x).sum(0) for x in zip(*parts, strict=True))
        return tuple(next(grads) if need else None for need in ctx.needs_input_grad)


class _Graph:
    """The response of one chunk of tiles with autograd's record of it."""

    def __init__(self, chunk: list[Tensor], needed: tuple[bool, ...], of_inputs: bool = False) -> None:
        if not of_inputs:
            chunk = [x.detach().requires_grad_(need) for x, need in zip(chunk, needed, strict=True)]
        self.wanted = [x for x, need in zip(chunk, needed, strict=True) if need]
        with torch.enable_grad():
            self.out = _response(*chunk)


def _response(conductances: Tensor, r_source: Tensor, r_sink: Tensor, r_row: Tensor, r_col: Tensor) -> Tensor:
    rows, cols = conductances.shape[-2:]
    (n, down), (m, across) = _leaf(rows), _leaf(cols)
    # Open cells padded after the last column and before the first row, without wire resistance, change nothing.
    extra_rows, extra_cols = n * down - rows, m * across - cols
    g = pad(conductances, (0, extra_cols, extra_rows, 0))
    blocks = solve_leaf_blocks(
        g, _segments(r_source, r_row, cols, extra_cols), _segments(r_sink, r_col, rows, extra_rows).flip(-1), n, m
    )
    while max(blocks.grid) > 1:
        # Square blocks have the fewest ports for their number of cells.
        across_next = blocks.grid[0] == 1 or (blocks.grid[1] > 1 and blocks.cols <= blocks.rows)
        blocks = blocks.join(across=across_next)
    return blocks.part("B", "L")[:, 0, 0].mT[:, extra_rows:, :cols]


def _leaf(lines: int) -> tuple[int, int]:
    """The lines of a smallest block, and the number of such blocks, a power of two, in the array."""
    blocks = 1
    while lines > _LEAF * blocks:
        blocks *= 2
    return -(-lines // blocks), blocks


def _segments(first: Tensor, others: Tensor, lines: int, extra: int) -> Tensor:
    """The resistances along a line (tiles | 1, lines + extra): ``first``, then ``others``, then zeros."""
    first, others = torch.broadcast_tensors(first.reshape(-1, 1), others.reshape(-1, 1))
    return pad(torch.cat([first, others.expand(-1, lines - 1)], -1), (0, extra))


def _per_tile(value: Scalar, lead: torch.Size, like: Tensor) -> Tensor:
    scalar = torch.as_tensor(value, dtype=like.dtype, device=like.device)
    return scalar.expand(lead).reshape(-1) if scalar.dim() else scalar


def _chunks(inputs: tuple[Tensor, ...]) -> list[tuple[slice, list[Tensor]]]:
    tiles, rows, cols = inputs[0].shape
    size = inputs[0].element_size() * rows * cols * _ENTRIES
    step = max(1, workspace_bytes(_WORKSPACE_BYTES.get(inputs[0].device.type, 64 << 20)) // size)
    slices = [slice(k, k + step) for k in range(0, tiles, step)]
    return [(at, [x[at] if x.dim() else x for x in inputs]) for at in slices]
