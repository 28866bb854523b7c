"""The transformation T: a pruned matrix compacted onto fewer tiles, without its zero rows and columns."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from geniex.circuit.checks import has_values
from geniex.errors import InputError
from geniex.mapping.architecture import Architecture
from geniex.mapping.layout.grid import Digits, Location, TileLayout
from geniex.mapping.layout.grouped import Packing, register_layout
from geniex.mapping.layout.placement import Arrangement, invert

Way = Literal["matrix", "columns", "rows"]
WAYS: tuple[Way, ...] = ("matrix", "columns", "rows")


@dataclass(frozen=True)
class CompactedTiles(TileLayout):
    """Tiles that each hold some inputs and some outputs, as two maps tell; weights on no tile are 0.

    In programmed tensors the first dimension numbers the tiles, and the dimension of column tiles has size 1. The sums
    of a tile go to the outputs that the tile holds. Tiles with the same inputs are a row of tiles, within which an
    ``arrangement`` may reorder the outputs; inputs keep their order.

    This is the transformation T of Bhattacharjee, Bhatnagar and Panda (DATE 2022, section 3), see ``compacted``.
    """

    inputs_of: Tensor = field(default=None, compare=False, repr=False)  # type: ignore[assignment]
    """Input on each word line, int64 (tiles, rows); the number ``inputs`` means none."""
    outputs_of: Tensor = field(default=None, compare=False, repr=False)  # type: ignore[assignment]
    """Output at each place in natural order, int64 (tiles, outputs per tile); the number ``outputs`` means none."""

    def __post_init__(self) -> None:
        rows, per_tile = self.architecture.tile[0], self.architecture.outputs_per_tile
        for name, width, most in (("inputs_of", rows, self.inputs), ("outputs_of", per_tile, self.outputs)):
            index = getattr(self, name)
            if index is None or index.dim() != 2 or not len(index) or index.shape[1] != width:
                given = None if index is None else tuple(index.shape)
                raise InputError(name, given, f"it must be int64 (tiles, {width}) with at least one tile")
            if index.device.type != "meta" and not bool(((index >= 0) & (index <= most)).all()):
                raise InputError(name, "an index out of range", f"indices must be 0 to {most - 1}, or {most} for none")
        if len(self.inputs_of) != len(self.outputs_of):
            raise InputError("outputs_of", f"{len(self.outputs_of)} tiles", f"inputs_of has {len(self.inputs_of)}")
        if self.arrangement.inputs is not None:
            raise InputError(
                "arrangement",
                "an order of inputs",
                "compacted tiles keep the natural order of inputs: reorder outputs or bit lines only",
            )
        super().__post_init__()

    @property
    def stack(self) -> tuple[int, int]:
        """The tiles, in one column."""
        return len(self.inputs_of), 1

    @property
    def order_rows(self) -> int:
        """Number of rows of tiles; the tiles of a row have the same inputs."""
        return int(self._row_of.max()) + 1

    @property
    def tile_outputs(self) -> int:
        """Number of outputs of all tiles, each counted on every tile that holds it."""
        return int((self.outputs_of < self.outputs).sum())

    @property
    def grid(self) -> str:
        """The number of tiles in words, for reports."""
        return f"{len(self.inputs_of)} in place of {super().grid}"

    @property
    def compression(self) -> float:
        """Number of tiles before compaction over that after it."""
        return self.row_tiles * self.col_tiles / len(self.inputs_of)

    @property
    def utilisation(self) -> float:
        """Share of the cells that hold a slice of a weight, which may be 0."""
        rows, cols = self.architecture.tile
        held = (self.inputs_of < self.inputs).sum(1) * (self.outputs_of < self.outputs).sum(1)
        return int(held.sum()) * self.architecture.slices / (len(held) * rows * cols)

    @property
    def one_place_each(self) -> bool:
        """False, because an output has a place on each row of tiles that holds it."""
        return False

    @property
    def held(self) -> Tensor:
        """Whether each weight is on a tile, bool (outputs, inputs)."""
        whole = torch.zeros(self.outputs + 1, self.inputs + 1, dtype=torch.bool, device=self.inputs_of.device)
        whole[self.outputs_of[:, None, :], self.inputs_of[:, :, None]] = True
        return whole[:-1, :-1]

    def levels(self, weight: Tensor, digits: Digits, bias: Tensor | None) -> Tensor:
        """Levels (tiles, arrays, 1, rows, cols) of the weights in ``weight`` (outputs, inputs) that are on a tile."""
        return self.place(digits(weight), bias)

    def place(self, digits: Tensor, bias: Tensor | None = None) -> Tensor:
        """Slices (arrays, outputs, inputs, slices) as levels (tiles, arrays, 1, rows, cols).

        ``bias`` has the meaning that it has in ``TileLayout.place``. Cells without an input or an output hold level 0.
        """
        arch = self.architecture
        padded = F.pad(digits, (0, 0, 0, 1, 0, 1))
        x = padded[:, self._outputs_there[:, None, :], self.inputs_of[:, :, None]]  # (arrays, tiles, rows, places, s)
        x = x.flatten(-2).movedim(1, 0)
        x = F.pad(x, (0, arch.data_cols - x.shape[-1]))
        if bias is not None:
            columns = bias * (self.inputs_of < self.inputs)[..., None].to(bias)
            x = torch.cat([x, columns[:, None].expand(*x.shape[:-1], -1)], dim=-1)
        return F.pad(x, (0, arch.tile[1] - x.shape[-1]))[:, :, None]

    def split_inputs(self, x: Tensor) -> Tensor:
        """Features (..., inputs) as each tile sees them (..., tiles, rows)."""
        seen = F.pad(x, (0, 1)).index_select(-1, self.inputs_of.flatten())
        return seen.unflatten(-1, self.inputs_of.shape)

    def join_weights(self, numbers: Tensor) -> Tensor:
        """The matrix (arrays, outputs, inputs) whose parts (tiles, arrays, 1, rows, places) are on the tiles."""
        whole = numbers.new_zeros(numbers.shape[1], self.outputs + 1, self.inputs + 1)
        whole[:, self._outputs_there[:, None, :], self.inputs_of[:, :, None]] = numbers[:, :, 0].movedim(1, 0)
        return whole[:, :-1, :-1]

    def add_tiles(self, sums: Tensor, at: slice | None = None) -> Tensor:
        """Sums (vectors, tiles, 1, places) of the tiles ``at``, added by output (vectors, col_tiles, places)."""
        places = self.col_tiles * self.architecture.outputs_per_tile
        # One more output takes the sums of places that hold none.
        total = sums.new_zeros(len(sums), max(places, self.outputs + 1))
        there = self._outputs_there[slice(None) if at is None else at]
        total = total.index_add(1, there.flatten(), sums.flatten(1))
        return self._padded(total[:, : self.outputs])

    def multiply(self, split: Tensor, weights: Tensor) -> Tensor:
        """Products (vectors, col_tiles, places) of (vectors, tiles, rows) and weights (tiles, rows, 1, places)."""
        return self.add_tiles(torch.einsum("vtr,tro->vto", split, weights[:, :, 0])[:, :, None])

    def join_outputs(self, x: Tensor) -> Tensor:
        """Outputs (..., outputs) of (..., col_tiles, places), which ``add_tiles`` has put into natural order."""
        return x.flatten(-2)[..., : self.outputs]

    def by_row(self, x: Tensor) -> Tensor:
        """The value of each output on each row of tiles (rows, outputs), from those of places (tiles, 1, places)."""
        row, width = self._row_of, self.outputs + 1
        whole = x.new_zeros(self.order_rows * width)
        index = row[:, None] * width + self._outputs_there
        return whole.index_add(0, index.flatten(), x.flatten()).unflatten(0, (-1, width))[:, :-1]

    def map_indices(self, function: Callable[[Tensor], Tensor]) -> TileLayout:
        """The layout with ``function`` applied to all orders and maps."""
        inputs_of, outputs_of = function(self.inputs_of), function(self.outputs_of)
        arrangement = self.arrangement.map_orders(function)
        return dataclasses.replace(self, arrangement=arrangement, inputs_of=inputs_of, outputs_of=outputs_of)

    def locate(self, output: int, input: int) -> Location:
        """The location of the weight from ``input`` to ``output``; ``row_tile`` is the tile's number, ``col_tile`` 0.

        Raises:
            InputError: the index is out of range, or no tile holds the weight, which is then 0.
        """
        for name, value, size in (("output", output, self.outputs), ("input", input, self.inputs)):
            if not 0 <= value < size:
                raise InputError(name, value, f"it must be between 0 and {size - 1}")
        has_input, has_output = self.inputs_of == input, self._outputs_there == output
        found = torch.nonzero(has_input.any(1) & has_output.any(1)).flatten().tolist()
        if not found:
            raise InputError("input", input, f"no tile holds its weight to output {output}, which is 0")
        slices, lines = self.architecture.slices, self.arrangement.lines
        first = int(has_output[found[0]].nonzero()[0, 0]) * slices
        places = range(first, first + slices)
        cols = tuple(places) if lines is None else tuple(invert(lines)[first : first + slices].tolist())
        return Location(found[0], 0, int(has_input[found[0]].nonzero()[0, 0]), cols)

    def to_numbers(self) -> list[int]:
        """The arrangement's numbers, then the number of tiles, and both maps."""
        maps = (*self.inputs_of.flatten().tolist(), *self.outputs_of.flatten().tolist())
        return [*self.arrangement.to_numbers(), len(self.inputs_of), *maps]

    def from_numbers(self, numbers: Sequence[int]) -> TileLayout:
        """The layout that wrote ``numbers``, with the architecture and the sizes of this one, on the CPU."""
        return _read_numbers(self, numbers)

    @cached_property
    def _row_of(self) -> Tensor:
        """The row of tiles that each tile is in, int64 (tiles,); rows are numbered by their inputs."""
        return torch.unique(self.inputs_of, dim=0, return_inverse=True)[1]

    @cached_property
    def _outputs_there(self) -> Tensor:
        """``outputs_of`` in the order of the arrangement: the outputs of a row are sorted by their places in it."""
        order = self.arrangement.outputs
        if order is None:
            return self.outputs_of
        row = self._row_of
        ranks = invert(order if order.dim() == 2 else order.expand(int(row.max()) + 1, -1))
        # Places without an output stay behind all others of their row, whose tiles need not be neighbours.
        ranks = F.pad(ranks, (0, 1), value=self.outputs)[row[:, None], self.outputs_of]
        keys = (row[:, None] * (self.outputs + 1) + ranks).flatten()
        slots = (row[:, None].expand_as(ranks)).flatten().argsort(stable=True)
        sorted_outputs = self.outputs_of.flatten()[keys.argsort(stable=True)]
        return torch.empty_like(sorted_outputs).scatter_(0, slots, sorted_outputs).reshape(self.outputs_of.shape)


@dataclass(frozen=True)
class UncompactedTiles(TileLayout):
    """The grid of a matrix that will be compacted once it has values, which decide the tiles that are left out.

    Its numbers may be those of compacted tiles, which then take its place.
    """

    @property
    def held(self) -> Tensor:
        """True for every weight, bool (outputs, inputs)."""
        return torch.ones(self.outputs, self.inputs, dtype=torch.bool)

    def from_numbers(self, numbers: Sequence[int]) -> TileLayout:
        """The layout that wrote ``numbers``, with the architecture and the sizes of this one, on the CPU."""
        return _read_numbers(self, numbers)


def compact(nonzero: Tensor, architecture: Architecture, way: Way | None = None) -> CompactedTiles:
    """The compacted tiles of a matrix whose weights are 0 where ``nonzero`` is false.

    Args:
        nonzero: bool (outputs, inputs), the weights that must be on a tile; others may be.
        architecture: determines the tile and the outputs that fit on it.
        way: "matrix" leaves out inputs and outputs that are 0 throughout, as channel/filter pruning (C/F) makes them.
            "columns" cuts the inputs into rows of tiles and leaves out of each row the outputs that are 0 there, as
            crossbar-column sparsity (XCS) makes them. "rows" cuts the outputs into columns of tiles and leaves out of
            each column the inputs that are 0 there, as crossbar-row sparsity (XRS) makes them. None takes the way with
            the fewest tiles, and the first of equal ones.

    Raises:
        InputError: ``nonzero`` is no bool matrix, the way is unknown, or weights are differential with one bit, which
            has no 0.

    >>> nonzero = torch.zeros(64, 256, dtype=torch.bool)
    >>> nonzero[:32, :128] = nonzero[32:, 128:] = True
    >>> arch = Architecture(tile=(128, 64), weight_bits=8, slice_bits=4)
    >>> {way: compact(nonzero, arch, way).compression for way in WAYS}
    {'matrix': 1.0, 'columns': 2.0, 'rows': 2.0}
    """
    if not isinstance(nonzero, Tensor) or nonzero.dim() != 2 or nonzero.dtype != torch.bool or not nonzero.numel():
        given = getattr(nonzero, "shape", type(nonzero).__name__)
        raise InputError("nonzero", given, "it must be a bool matrix (outputs, inputs)")
    if way not in (None, *WAYS):
        raise InputError("way", repr(way), f"it must be one of {', '.join(WAYS)}, or None")
    if architecture.weight_bits == 1 and architecture.weight_scheme == "differential":
        raise InputError(
            "layout", "'compacted'", "one-bit weights have no 0 to leave out: use 'dense' or 'block_diagonal'"
        )
    ways = WAYS if way is None else (way,)
    found = [_COMPACTORS[kind](nonzero, architecture) for kind in ways]
    return min(found, key=lambda tiles: len(tiles.inputs_of))


def _by_matrix(nonzero: Tensor, arch: Architecture) -> CompactedTiles:
    ins = _chunks(nonzero.any(0), arch.tile[0])
    outs = _chunks(nonzero.any(1), arch.outputs_per_tile)
    pairs = torch.cartesian_prod(*(torch.arange(len(x), device=nonzero.device) for x in (ins, outs)))
    return _layout(nonzero, arch, ins[pairs[:, 0]], outs[pairs[:, 1]])


def _by_columns(nonzero: Tensor, arch: Architecture) -> CompactedTiles:
    ins, band, outs = _bands(nonzero, arch.tile[0], arch.outputs_per_tile)
    return _layout(nonzero, arch, ins[band], outs)


def _by_rows(nonzero: Tensor, arch: Architecture) -> CompactedTiles:
    outs, band, ins = _bands(nonzero.T, arch.outputs_per_tile, arch.tile[0])
    return _layout(nonzero, arch, ins, outs[band])


def _bands(nonzero: Tensor, across: int, along: int) -> tuple[Tensor, Tensor, Tensor]:
    """``nonzero`` (others, lines) cut into bands of lines, and each band's nonzero others into tiles.

    Returns the lines of each band (bands, across), the band of each tile (tiles,), and the others that each tile holds
    (tiles, along).
    """
    others, lines = nonzero.shape
    count = -(-lines // across)
    cut = F.pad(nonzero, (0, count * across - lines)).unflatten(-1, (count, across))
    used = cut.any(-1).T  # (bands, others)
    tiles_of = -(-used.sum(1) // along)
    if not bool(tiles_of.any()):
        tiles_of[0] = 1  # a matrix of zeros still has a tile
    first = tiles_of.cumsum(0) - tiles_of
    band, other = used.nonzero(as_tuple=True)
    place = used.cumsum(1)[band, other] - 1
    held = torch.full((int(tiles_of.sum()), along), others, device=nonzero.device)
    held[first[band] + place // along, place % along] = other
    every = torch.ones(lines, dtype=torch.bool, device=nonzero.device)
    return _chunks(every, across), torch.arange(count, device=nonzero.device).repeat_interleave(tiles_of), held


def _chunks(chosen: Tensor, size: int) -> Tensor:
    """The indices at which ``chosen`` (count,) is true, in rows of ``size`` padded with count; at least one row."""
    index = chosen.nonzero().flatten()
    rows = max(1, -(-len(index) // size))
    return F.pad(index, (0, rows * size - len(index)), value=len(chosen)).reshape(rows, size)


def _layout(nonzero: Tensor, arch: Architecture, ins: Tensor, outs: Tensor) -> CompactedTiles:
    outputs, inputs = nonzero.shape
    return CompactedTiles(arch, inputs, outputs, inputs_of=ins, outputs_of=outs)


_COMPACTORS: dict[str, Callable[[Tensor, Architecture], CompactedTiles]] = {
    "matrix": _by_matrix,
    "columns": _by_columns,
    "rows": _by_rows,
}


def _read_numbers(like: TileLayout, numbers: Sequence[int]) -> TileLayout:
    """The compacted tiles that wrote ``numbers``; without maps, ``like`` with the arrangement that wrote them."""
    arrangement, rest = Arrangement.read_numbers(numbers)
    if not rest:
        return dataclasses.replace(like, arrangement=arrangement)
    arch, tiles = like.architecture, rest[0]
    split = 1 + tiles * arch.tile[0]
    inputs_of, outputs_of = (torch.tensor(part).reshape(tiles, -1) for part in (rest[1:split], rest[split:]))
    return CompactedTiles(arch, like.inputs, like.outputs, arrangement, inputs_of, outputs_of)


def _tile_compacted(matrix: Tensor, architecture: Architecture, packing: Packing) -> TileLayout:
    if not has_values(matrix):
        return UncompactedTiles(architecture, inputs=matrix.shape[1], outputs=matrix.shape[0])
    return compact(matrix.detach() != 0, architecture)


register_layout("compacted", tile=_tile_compacted)
