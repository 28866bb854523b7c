"""The layout of a weight matrix on tiles."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from geniex.errors import InputError
from geniex.mapping.architecture import Architecture
from geniex.mapping.layout.placement import NATURAL, Arrangement, invert

Digits = Callable[[Tensor], Tensor]
"""Function from weights (outputs, inputs) to the levels that store them (arrays, outputs, inputs, slices)."""


class Location(NamedTuple):
    """The location of a weight: its tile's indices in tensors of tiles, its word line, and its bit lines, MSB first."""

    row_tile: int
    col_tile: int
    row: int
    cols: tuple[int, ...]


@dataclass(frozen=True)
class TileLayout:
    """The layout of a weight matrix on tiles: this one is a grid of row tiles by column tiles, zero-padded.

    All layouts have these properties and methods; a subclass overrides those in which its tiles differ. Whoever uses a
    layout asks it and does not look at its class. Laws of all layouts, for a matrix W (outputs, inputs):

    - ``join_weights`` of the places of ``place`` is W.
    - The products of ``split_inputs`` with the tiles, added by ``add_tiles`` and put into order by ``join_outputs``,
      are x @ W.T; so is ``multiply``.
    - ``locate`` finds each weight that is ``held``.
    - ``from_numbers`` of ``to_numbers`` is the layout.

    In a grid each input has a word line. Each output has as many bit lines side by side as it has slices; the bias
    columns of offset weights follow, and the reference column comes last. Unused cells (padding, the reference column)
    hold level 0. This is the natural order, from which an ``arrangement`` departs.
    """

    architecture: Architecture
    inputs: int
    outputs: int
    arrangement: Arrangement = NATURAL

    def __post_init__(self) -> None:
        if self.arrangement.natural:
            return
        cols = self.architecture.tile[1]
        self.arrangement.check(outputs=self.outputs, inputs=self.inputs, cols=cols, rows=self.order_rows)

    @cached_property
    def row_tiles(self) -> int:
        """Number of tiles that share an output, whose sums are added."""
        return math.ceil(self.inputs / self.architecture.tile[0])

    @property
    def order_rows(self) -> int:
        """Number of rows of tiles, each of which may have its own order of outputs."""
        return self.row_tiles

    @cached_property
    def col_tiles(self) -> int:
        """Number of tiles that share an input."""
        return math.ceil(self.outputs / self.architecture.outputs_per_tile)

    @cached_property
    def stack(self) -> tuple[int, int]:
        """Sizes of the two dimensions of the grid in tensors of tiles: its rows and its columns."""
        return self.row_tiles, self.col_tiles

    @property
    def grid(self) -> str:
        """The number of tiles in words, for reports."""
        return f"{self.row_tiles}x{self.col_tiles}"

    @property
    def held(self) -> Tensor | None:
        """Whether each weight has cells, bool (outputs, inputs); None where every weight has."""
        return None

    @property
    def outputs_can_move(self) -> bool:
        """Whether an arrangement may put outputs in another order."""
        return True

    @property
    def one_place_each(self) -> bool:
        """Whether each output has one place, the same on all row tiles, that an arrangement can change."""
        return not self.arrangement.by_row

    @property
    def tile_outputs(self) -> int:
        """Number of outputs of all tiles, each counted on every tile that holds it."""
        return self.row_tiles * self.outputs

    @property
    def utilisation(self) -> float:
        """Share of the cells that hold a slice of a weight."""
        rows, cols = self.architecture.tile
        cells = self.row_tiles * self.col_tiles * rows * cols
        return self.inputs * self.outputs * self.architecture.slices / cells

    def levels(self, weight: Tensor, digits: Digits, bias: Tensor | None) -> Tensor:
        """Levels (row_tiles, arrays, col_tiles, rows, cols) of ``weight`` (outputs, inputs), lines in natural order.

        ``bias`` has the meaning that it has in ``place``.
        """
        if self.row_tiles == 1:
            return self.place(digits(weight), bias)
        weight = _taken(weight, self.arrangement.inputs, 1)
        # The work goes row tile by row tile, because the intermediate integers are float64 and take much memory.
        blocks = weight.split(self.architecture.tile[0], dim=1)
        return torch.cat([row.place(digits(block), bias) for row, block in zip(self._rows(), blocks, strict=True)])

    def place(self, digits: Tensor, bias: Tensor | None = None) -> Tensor:
        """Slices (arrays, outputs, inputs, slices) as levels (row_tiles, arrays, col_tiles, rows, cols).

        ``bias`` (slices,) are the levels of the bias columns, on every word line that has an input. Bit lines are in
        their natural order; ``onto_lines`` puts them into that of the arrangement.
        """
        arch, (rows, cols) = self.architecture, self.architecture.tile
        if self.arrangement.by_row:
            parts = _taken(digits, self.arrangement.inputs, 2).split(rows, dim=2)
            return torch.cat([row.place(part, bias) for row, part in zip(self._rows(), parts, strict=True)])
        if not self.arrangement.natural:
            digits = _taken(_taken(digits, self.arrangement.outputs, 1), self.arrangement.inputs, 2)
        arrays, per_tile = digits.shape[0], arch.outputs_per_tile
        pad_in = self.row_tiles * rows - self.inputs
        pad_out = self.col_tiles * per_tile - self.outputs
        x = F.pad(digits, (0, 0, 0, pad_in, 0, pad_out))
        x = x.reshape(arrays, self.col_tiles, per_tile, self.row_tiles, rows, arch.slices)
        x = x.permute(3, 0, 1, 4, 2, 5).reshape(self.row_tiles, arrays, self.col_tiles, rows, per_tile * arch.slices)
        x = F.pad(x, (0, arch.data_cols - per_tile * arch.slices))
        if bias is not None:
            columns = F.pad(bias.expand(self.inputs, -1), (0, 0, 0, pad_in)).reshape(self.row_tiles, 1, 1, rows, -1)
            x = torch.cat([x, columns.expand(*x.shape[:-1], -1)], dim=-1)
        return F.pad(x, (0, cols - x.shape[-1]))

    def split_inputs(self, x: Tensor) -> Tensor:
        """Features (..., inputs) as (..., row_tiles, rows)."""
        rows = self.architecture.tile[0]
        x = F.pad(_taken(x, self.arrangement.inputs, -1), (0, self.row_tiles * rows - self.inputs))
        return x.reshape(*x.shape[:-1], self.row_tiles, rows)

    def join_inputs(self, x: Tensor) -> Tensor:
        """Features (..., inputs) of (..., row_tiles, rows): the inverse of ``split_inputs``."""
        return _back(x.flatten(-2)[..., : self.inputs], self.arrangement.inputs)

    def join_weights(self, numbers: Tensor) -> Tensor:
        """The matrix (arrays, outputs, inputs) of its parts on tiles (row_tiles, arrays, col_tiles, rows, places)."""
        by_row = self._in_order(numbers.movedim(3, 2).flatten(-2)) if self.arrangement.by_row else None
        whole = self.join_outputs(numbers.permute(1, 0, 3, 2, 4)) if by_row is None else by_row.movedim(0, 1)
        return self.join_inputs(whole.movedim(-1, 1))

    def add_tiles(self, sums: Tensor, at: slice | None = None) -> Tensor:
        """Sums (vectors, col_tiles, places) over row tiles of ``sums`` (vectors, row_tiles, col_tiles, places).

        ``at`` says which row tiles are given; None means all of them.
        """
        if not self.arrangement.by_row:
            return sums.sum(1)
        return self._padded(self._in_order(sums.flatten(2).movedim(1, 0), at).sum(0))

    def multiply(self, split: Tensor, weights: Tensor) -> Tensor:
        """Products (vectors, col_tiles, places) of inputs (vectors, row_tiles, rows) as ``split_inputs`` gives them.

        ``weights`` are (row_tiles, rows, col_tiles, places).
        """
        if self.arrangement.by_row:
            weights = self._padded(self._in_order(weights.flatten(2)))
        return (split.flatten(1) @ weights.flatten(0, 1).flatten(1)).unflatten(1, weights.shape[2:])

    def by_output(self, gain: Tensor) -> Tensor:
        """The gain of each output, from one gain () or from a gain for each row of the weight."""
        return gain

    def multiply_exactly(self, x: Tensor, weight: Tensor) -> Tensor:
        """The exact digital product (vectors, outputs) of inputs (vectors, inputs) and the weight."""
        return x @ weight.T

    def map_indices(self, function: Callable[[Tensor], Tensor]) -> TileLayout:
        """The layout with ``function`` applied to all orders."""
        if self.arrangement.natural:
            return self
        return dataclasses.replace(self, arrangement=self.arrangement.map_orders(function))

    def relocate_lines(self, cells: Tensor, new: TileLayout) -> Tensor:
        """``relocate`` for bit lines as they lie on the tiles, by the arrangements of this layout and of ``new``."""
        return new.onto_lines(self.relocate(self.off_lines(cells), new))

    def relocate(self, cells: Tensor, new: TileLayout) -> Tensor:
        """``cells`` (row_tiles, arrays, col_tiles, rows, cols) of this layout, moved to the places of layout ``new``.

        Both layouts have weights on the same cells and their bit lines in natural order. Cells without a weight stay.
        """
        here, there = self._weights(cells.device), new._weights(cells.device)
        where = here.new_zeros(self.inputs * self.outputs * self.architecture.slices + 1)
        where = where.scatter_(0, here.flatten(), torch.arange(here.numel(), device=here.device))
        by_array = cells.movedim(1, 0)
        by_array = by_array.reshape(len(by_array), *there.shape)
        moved = by_array.flatten(1)[:, where[there.flatten()]].reshape(by_array.shape)
        return torch.where(there == 0, by_array, moved).movedim(0, 1)

    def _weights(self, device: torch.device) -> Tensor:
        """A number, from 1, of the weight's slice in each cell (row_tiles, col_tiles, rows, cols); 0 means none."""
        shape = (1, self.outputs, self.inputs, self.architecture.slices)
        return self.place(torch.arange(1, math.prod(shape) + 1, device=device).reshape(shape))[:, 0]

    def to_numbers(self) -> list[int]:
        """The layout's numbers in a file, beside the architecture and the sizes."""
        return self.arrangement.to_numbers()

    def from_numbers(self, numbers: Sequence[int]) -> TileLayout:
        """The layout that wrote ``numbers``, with the architecture and the sizes of this one, on the CPU.

        Raises:
            InputError: the numbers were written by a layout of another kind.
        """
        arrangement, rest = Arrangement.read_numbers(numbers)
        if rest:
            allowed = "this matrix lies on a grid: convert the model with the layout that was saved"
            raise InputError("state_dict", "a matrix on compacted tiles", allowed)
        return dataclasses.replace(self, arrangement=arrangement)

    def slices_of(self, columns: Tensor) -> Tensor:
        """The data bit lines of (..., col_tiles, cols) as (..., col_tiles, outputs per tile, slices)."""
        per_tile, slices = self.architecture.outputs_per_tile, self.architecture.slices
        used = columns[..., : per_tile * slices]
        return used.reshape(*used.shape[:-1], per_tile, slices)

    def bias_of(self, columns: Tensor) -> Tensor:
        """The bias columns (..., col_tiles, slices) of offset weights among bit lines (..., col_tiles, cols)."""
        start = self.architecture.data_cols
        return columns[..., start : start + self.architecture.bias_cols]

    def join_outputs(self, x: Tensor) -> Tensor:
        """Outputs (..., outputs) in natural order of places (..., col_tiles, outputs per tile)."""
        order = None if self.arrangement.by_row else self.arrangement.outputs  # ``add_tiles`` has reordered rows
        return _back(x.flatten(-2)[..., : self.outputs], order)

    def by_row(self, x: Tensor) -> Tensor:
        """The value of each output on each row of tiles (rows, outputs), from places (row_tiles, col_tiles, places)."""
        return self._in_order(x.flatten(1)) if self.arrangement.by_row else self.join_outputs(x)

    def onto_lines(self, columns: Tensor) -> Tensor:
        """Bit lines (..., cols), given in natural order, in the order in which they lie on a tile."""
        order = self.arrangement.lines
        return columns if order is None else columns.index_select(-1, order)

    def off_lines(self, columns: Tensor) -> Tensor:
        """Bit lines (..., cols), given in the order in which they lie on a tile, in natural order."""
        order = self.arrangement.lines
        return columns if order is None else columns.index_select(-1, invert(order))

    def locate(self, output: int, input: int) -> Location:
        """The location of the weight from ``input`` to ``output``, the same in each of the arrays."""
        for name, value, size in (("output", output, self.outputs), ("input", input, self.inputs)):
            if not 0 <= value < size:
                raise InputError(name, value, f"it must be between 0 and {size - 1}")
        orders = self.arrangement
        row_tile, row = divmod(_place(input, orders.inputs), self.architecture.tile[0])
        of_row = orders.outputs[row_tile] if orders.by_row and orders.outputs is not None else orders.outputs
        col_tile, place = divmod(_place(output, of_row), self.architecture.outputs_per_tile)
        first = place * self.architecture.slices
        lines = (_place(first + k, orders.lines) for k in range(self.architecture.slices))
        return Location(row_tile, col_tile, row, tuple(lines))

    def _rows(self) -> Iterator[TileLayout]:
        """The rows of tiles, each as a layout of its own for the inputs on it."""
        size, order = self.architecture.tile[0], self.arrangement.outputs
        for k, start in enumerate(range(0, self.inputs, size)):
            own = order[k] if self.arrangement.by_row and order is not None else order
            yield TileLayout(self.architecture, min(size, self.inputs - start), self.outputs, Arrangement(own))

    def _in_order(self, x: Tensor, at: slice | None = None) -> Tensor:
        """Values (rows of tiles, ..., outputs) in natural order, from ``x`` (rows of tiles, ..., places) by place.

        ``at`` says which rows of tiles are given; None means all of them.
        """
        assert self.arrangement.outputs is not None
        places = invert(self.arrangement.outputs)[slice(None) if at is None else at]
        index = places.reshape(len(places), *[1] * (x.dim() - 2), -1)
        return x.gather(-1, index.expand(*x.shape[:-1], -1))

    def _padded(self, x: Tensor) -> Tensor:
        """Outputs (..., outputs) in natural order, padded, as (..., col_tiles, outputs per tile)."""
        per_tile = self.architecture.outputs_per_tile
        return F.pad(x, (0, self.col_tiles * per_tile - self.outputs)).unflatten(-1, (self.col_tiles, per_tile))


def _taken(x: Tensor, order: Tensor | None, dim: int) -> Tensor:
    return x if order is None else x.index_select(dim, order)


def _back(x: Tensor, order: Tensor | None) -> Tensor:
    return x if order is None else x.index_select(-1, invert(order))


def _place(index: int, order: Tensor | None) -> int:
    return index if order is None else int(invert(order)[index])
