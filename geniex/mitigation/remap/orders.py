"""Orders of outputs, word lines and bit lines, by sensitivity scores or by programmed conductances."""

from __future__ import annotations

import dataclasses
from typing import Literal, get_args

import torch
from torch import Tensor

from geniex.errors import InputError
from geniex.mapping import Architecture, Arrangement, TileLayout
from geniex.simulator import CrossbarMatrix

Rows = Literal["natural", "mdm"]
Bits = Literal["natural", "reversed", "msb_near", "lsb_near", "dense_near"]


def check_order(name: str, value: object, kinds: object) -> None:
    """Raise ``InputError`` unless ``value`` is one of the values of the Literal ``kinds``."""
    if value not in get_args(kinds):
        raise InputError(name, repr(value), f"it must be one of {', '.join(get_args(kinds))}")


def count_nearer(layout: TileLayout) -> Tensor:
    """The number of outputs that lie nearer to the drivers on the same tile, for each place (outputs,)."""
    return torch.arange(layout.outputs) % layout.architecture.outputs_per_tile


def rank(scores: Tensor, layout: TileLayout) -> Tensor:
    """The order of outputs (outputs,) that puts the highest ``scores`` (outputs,) nearest the drivers.

    The places nearest the drivers of all column tiles are filled before the second ones. Equal scores keep their order.
    """
    places = count_nearer(layout).argsort(stable=True)
    order = torch.empty(layout.outputs, dtype=torch.int64)
    order[places] = scores.cpu().argsort(descending=True, stable=True)
    return order


def order_rows(matrix: CrossbarMatrix, rows: Rows) -> Tensor | None:
    """The order of inputs (inputs,): "mdm" puts the word lines with the most conductance nearest the sense side.

    Manhattan distance mapping (MDM, 2025) sorts rows by the Manhattan distance of their active cells to the rails. A
    cell's distance along its word line does not depend on the order of rows, so that the sum of conductances decides.
    The word lines nearest the sense side of all row tiles are filled before the second ones.
    """
    if rows == "natural":
        return None
    layout, tile_rows = matrix.layout, matrix.architecture.tile[0]
    content = matrix.conductances.double().sum((1, 2, 4)).flatten()[: layout.inputs].cpu()  # of each word line
    here = layout.arrangement.inputs
    if here is not None:
        content = torch.empty_like(content).scatter_(0, here.cpu(), content)
    places = (torch.arange(layout.inputs) % tile_rows).argsort(descending=True, stable=True)
    order = torch.empty(layout.inputs, dtype=torch.int64)
    order[places] = content.argsort(descending=True, stable=True)
    return order


def order_lines(matrix: CrossbarMatrix, bits: Bits, outputs: Tensor | None = None) -> Tensor | None:
    """The order of a tile's bit lines (cols,) for an order of ``outputs`` (outputs,); None is the natural order.

    "natural" puts each output's slices side by side, most significant first; "reversed" puts the least significant
    first (as MDM does). "msb_near" puts the most significant slices of all outputs nearest the drivers, "lsb_near" the
    least significant ones. "dense_near" puts the bit lines with the most conductance, summed over all tiles, nearest
    the drivers (WAGONN's aim: ones where the IR drop is least). Bias and reference columns stay where they are.
    """
    if bits == "natural":
        return None
    arch = matrix.architecture
    groups = torch.arange(arch.outputs_per_tile * arch.slices).reshape(-1, arch.slices)
    if bits == "dense_near":
        data = groups.flatten()
        layout, device = matrix.layout, matrix.conductances.device
        there = Arrangement(None if outputs is None else outputs.to(device), layout.arrangement.inputs)
        moved = dataclasses.replace(layout, arrangement=there)
        cells = layout.relocate(layout.off_lines(matrix.conductances), moved)
        content = cells.double().sum((0, 1, 2, 3))[: len(data)].cpu()
        chosen = data[content.argsort(descending=True, stable=True)]
    else:
        by_slice = groups if bits in ("natural", "msb_near") else groups.flip(1)
        chosen = (by_slice if bits == "reversed" else by_slice.T).flatten()
    return _with_rest(chosen, arch)


def _with_rest(chosen: Tensor, architecture: Architecture) -> Tensor:
    """The chosen order of the first bit lines, followed by the other bit lines in place."""
    return torch.cat([chosen, torch.arange(len(chosen), architecture.tile[1])])
