"""Layouts of layers by name: how a layer's weights become matrices, and how each matrix lies on tiles.

A layout has two parts. A ``Packing`` makes matrices of a layer's groups and splits the layer's inputs among them. A
``TileLayout`` places one of these matrices on tiles. ``register_layout`` gives the two a name. This module has the
layouts "dense" and "block_diagonal"; "toeplitz" and "compacted" are registered where their tiles are defined.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple, Self

import torch
from torch import Tensor

from geniex.errors import InputError
from geniex.jobs import share_registry
from geniex.mapping.architecture import Architecture
from geniex.mapping.layout.convolution import ConvGeometry, im2col
from geniex.mapping.layout.grid import TileLayout

Layout = str
"""Name of a layout: one of ``LAYOUTS``, or one that a user has registered."""
LAYOUTS = ("dense", "block_diagonal", "toeplitz", "compacted")
"""Names of the layouts that geniex has."""


class Packing(ABC):
    """The rule by which a layer's weights (groups, outputs, inputs) become matrices on tiles."""

    groups: int
    """Number of groups."""
    inputs: int
    """Inputs of one group; for convolutions, channels times kernel."""
    outputs: int
    """Outputs of one group."""

    @property
    @abstractmethod
    def features(self) -> int:
        """Number of inputs of all matrices, which one read takes."""

    @property
    @abstractmethod
    def shapes(self) -> list[tuple[int, int]]:
        """The size (outputs, inputs) of each matrix."""

    @property
    @abstractmethod
    def weights(self) -> int:
        """Number of weights in all matrices, without the zeros that the packing puts between them."""

    @property
    def positions(self) -> int:
        """Number of positions of an output map that one read gives: 1, unless the packing unrolls a convolution."""
        return 1

    @property
    def map_size(self) -> tuple[int, ...] | None:
        """Spatial size of the only maps that the packing takes; None takes maps of all sizes."""
        return None

    @property
    def mixes_groups(self) -> bool:
        """Whether a matrix holds several groups, with zeros between them that are no weights."""
        return False

    @abstractmethod
    def blocks(self, weight: Tensor) -> list[Tensor]:
        """What is programmed for each matrix, from the groups' weights (groups, outputs, inputs)."""

    @abstractmethod
    def unblock(self, blocks: Sequence[Tensor]) -> Tensor:
        """The groups' weights (groups, outputs, inputs) of ``blocks``: the inverse of ``blocks``."""

    @abstractmethod
    def split(self, fields: Tensor) -> tuple[Tensor, ...]:
        """The inputs of each matrix, from the inputs (..., features) of all."""

    @abstractmethod
    def join(self, products: Sequence[Tensor]) -> Tensor:
        """The layer's outputs (..., groups * outputs) from the product of each matrix.

        A packing that unrolls a convolution gives (..., positions, groups * outputs).
        """

    @abstractmethod
    def reached_by_nan(self, fields: Tensor) -> Tensor:
        """Whether each output sees a NaN in ``fields`` (..., features).

        The result is bool and broadcasts with the outputs of ``join``.
        """

    def read_maps(self, x: Tensor, geometry: ConvGeometry) -> tuple[Tensor, tuple[int, ...]]:
        """The inputs (batch, ..., features) of the matrices for maps (batch, channels, ...), and the output's size."""
        return im2col(x, geometry)


@dataclass(frozen=True)
class GroupPacking(Packing):
    """The packing of a layer's groups onto arrays: several matrices on one array's diagonal, zeros between them.

    Cells off the diagonal hold the weight 0, which is level 0 of differential weights and is removed by every offset
    scheme.
    """

    groups: int
    """Number of groups."""
    inputs: int
    """Inputs of one group."""
    outputs: int
    """Outputs of one group."""
    per_block: int = 1
    """Groups that share arrays, as one block; with 1 each group has arrays of its own."""

    @classmethod
    def of(cls, groups: int, inputs: int, outputs: int, architecture: Architecture) -> Self:
        """The packing of ``groups`` matrices (outputs, inputs), with as many on one array as fit whole."""
        if architecture.weight_bits == 1:
            return cls(groups, inputs, outputs)  # weights of one bit have no 0 to put between groups
        fitting = min(architecture.tile[0] // inputs, architecture.outputs_per_tile // outputs, groups)
        return cls(groups, inputs, outputs, max(1, fitting))

    @property
    def features(self) -> int:
        """Number of inputs of all groups."""
        return self.groups * self.inputs

    @cached_property
    def shapes(self) -> list[tuple[int, int]]:
        """The size (outputs, inputs) of each block."""
        whole, rest = divmod(self.groups, self.per_block)
        sizes = [self.per_block] * whole + [rest] * bool(rest)
        return [(n * self.outputs, n * self.inputs) for n in sizes]

    @property
    def weights(self) -> int:
        """Number of weights of all groups, without the zeros between groups."""
        return self.groups * self.inputs * self.outputs

    @property
    def mixes_groups(self) -> bool:
        """Whether several groups share a block."""
        return self.per_block > 1

    def blocks(self, weight: Tensor) -> list[Tensor]:
        """The matrices (outputs, inputs) to program, from the groups' weights (groups, outputs, inputs)."""
        if self.per_block == 1:
            return list(weight)
        return [torch.block_diag(*part) for part in weight.split(self.per_block)]

    def unblock(self, blocks: Sequence[Tensor]) -> Tensor:
        """The groups' weights (groups, outputs, inputs) of ``blocks``, matrices (outputs, inputs)."""
        of_group = (
            block[k : k + self.outputs, at : at + self.inputs]
            for block in blocks
            for k, at in zip(range(0, block.shape[0], self.outputs), range(0, block.shape[1], self.inputs), strict=True)
        )
        return torch.stack(list(of_group))

    def split(self, fields: Tensor) -> tuple[Tensor, ...]:
        """The inputs of each block, from those of all groups (..., groups * inputs)."""
        return fields.split(self.per_block * self.inputs, -1)

    def join(self, products: Sequence[Tensor]) -> Tensor:
        """Outputs (..., groups * outputs) of the blocks' products."""
        return products[0] if len(products) == 1 else torch.cat(list(products), -1)

    def reached_by_nan(self, fields: Tensor) -> Tensor:
        """Whether the group of each output has a NaN in ``fields`` (..., features).

        It comes from maxima, which are NaN where any of their numbers is, because they take less memory than a mask of
        all numbers.
        """
        lost = fields.unflatten(-1, (self.groups, self.inputs)).amax(-1).isnan()
        return lost if self.groups == 1 else lost.repeat_interleave(self.outputs, -1)


@dataclass(frozen=True)
class LayerLayout:
    """One layer on tiles: its packing into matrices, and the tiles of each matrix."""

    name: Layout
    """Name of the layout."""
    packing: Packing
    tiles: tuple[TileLayout, ...]
    """The layout of each matrix on its tiles."""

    @cached_property
    def tile_count(self) -> int:
        """Number of tiles of all matrices; W+ and W- count once."""
        return sum(math.prod(layout.stack) for layout in self.tiles)

    @property
    def grid_count(self) -> int:
        """Number of tiles as if none were left out."""
        return sum(layout.row_tiles * layout.col_tiles for layout in self.tiles)

    @property
    def weights(self) -> int:
        """Number of weights that have cells, without zeros between groups or weights that are left out."""
        held = [layout.held for layout in self.tiles if layout.held is not None]
        return sum(int(which.sum()) for which in held) if held else self.packing.weights

    @property
    def by_values(self) -> bool:
        """Whether the values of the weights decide which of them have cells."""
        return any(layout.held is not None for layout in self.tiles)

    @property
    def utilisation(self) -> float:
        """Share of the cells that hold a slice of a weight."""
        arch = self.tiles[0].architecture
        return self.weights * arch.slices / (self.tile_count * math.prod(arch.tile))


Pack = Callable[[Tensor, Architecture, ConvGeometry | None, tuple[int, ...] | None], Packing]
"""Function from a layer's weights (groups, outputs, inputs), an architecture, the geometry of a convolution and the
size of its maps to a packing. The geometry is None for layers without positions, the size is None while unknown."""
Tile = Callable[[Tensor, Architecture, Packing], TileLayout]
"""Function from what is programmed for a matrix, an architecture and the layer's packing to a layout on tiles."""


class _Registered(NamedTuple):
    pack: Pack
    tile: Tile
    unrolls: bool


_layouts: dict[str, _Registered] = {}
"""Layouts by name."""


def register_layout(name: Layout, *, tile: Tile | None = None, pack: Pack | None = None, unrolls: bool = False) -> None:
    """Register a layout, so that ``convert(..., layout=name)`` and rules for layers find it.

    Args:
        name: name of the layout. A name that is registered already gets the new layout, except those of ``LAYOUTS``.
        tile: the tiles of one matrix. It is given what the packing's ``blocks`` made of the weights, such as a matrix
            (outputs, inputs), the architecture and the packing. None lays a matrix on a grid.
        pack: the packing of a layer. It is given the weights (groups, outputs, inputs), which may have no values, the
            architecture, the geometry of a convolution or None, and the size of its maps where it is known. None puts
            as many groups on one array as fit.
        unrolls: whether the layout is for maps of one size, which ``pack`` needs to know. Layers without positions then
            have the layout "dense".

    >>> def mirrored(matrix, architecture, packing):
    ...     outputs, inputs = matrix.shape
    ...     return TileLayout(architecture, inputs, outputs, Arrangement.of(outputs=range(outputs)[::-1]))
    >>> from geniex.mapping import Arrangement
    >>> register_layout("mirrored", tile=mirrored)
    >>> lay_out(torch.ones(1, 3, 2), Architecture(), "mirrored").tiles[0].locate(output=2, input=0).cols
    (0, 1, 2, 3)

    Raises:
        InputError: the name is no word, geniex has a layout of that name, or ``tile`` or ``pack`` is no function.
    """
    if not isinstance(name, str) or not name.isidentifier():
        raise InputError("name", repr(name), "it must be an identifier (letters, digits and _)")
    if name in LAYOUTS and name in _layouts:
        raise InputError("name", repr(name), "geniex has a layout of that name: give yours another")
    for argument, function in (("tile", tile), ("pack", pack)):
        if function is not None and not callable(function):
            raise InputError(argument, repr(function), "it must be a function")
    _layouts[name] = _Registered(pack or _pack_together, tile or _tile_grid, unrolls)


def _register(name: Layout, layout: _Registered) -> None:
    _layouts[name] = layout


share_registry(lambda: [(_register, item) for item in _layouts.items() if item[0] not in LAYOUTS])


def check_layout(layout: object) -> None:
    """Raise ``InputError`` unless ``layout`` is the name of a registered layout."""
    if not isinstance(layout, str) or layout not in _layouts:
        names = [*LAYOUTS, *(name for name in _layouts if name not in LAYOUTS)]
        raise InputError("layout", repr(layout), f"it must be one of {', '.join(names)}")


def unrolls(layout: Layout) -> bool:
    """Whether the layout is for maps of one size, which must be known before a layer is packed."""
    return _layouts[layout].unrolls


def pack(
    weight: Tensor,
    architecture: Architecture,
    layout: Layout,
    geometry: ConvGeometry | None = None,
    map_size: Sequence[int] | None = None,
) -> Packing:
    """The packing that ``layout`` gives a layer's ``weight`` (groups, outputs, inputs); values are not looked at.

    Args:
        weight: the layer's weights.
        architecture: determines the tile and the outputs that fit on it.
        layout: name of a layout.
        geometry: geometry of a convolution; None for layers without positions.
        map_size: spatial size of a convolution's maps, which layouts that unroll need.

    Raises:
        InputError: the layout is unknown, or it cannot take this layer.
    """
    check_layout(layout)
    name = "dense" if geometry is None and unrolls(layout) else layout
    packing = _layouts[name].pack(weight, architecture, geometry, None if map_size is None else tuple(map_size))
    if not isinstance(packing, Packing):
        raise InputError("layout", repr(layout), f"its pack returned a {type(packing).__name__}: it must be a Packing")
    return packing


def lay_out(
    weight: Tensor,
    architecture: Architecture,
    layout: Layout,
    geometry: ConvGeometry | None = None,
    map_size: Sequence[int] | None = None,
    packing: Packing | None = None,
) -> LayerLayout:
    """The layout of a layer's ``weight`` (groups, outputs, inputs) on tiles.

    Arguments and errors are those of ``pack``. A ``packing`` that is known already is not made again.
    """
    if packing is None:
        packing = pack(weight, architecture, layout, geometry, map_size)
    tile = _layouts[layout].tile
    tiles = tuple(tile(block, architecture, packing) for block in packing.blocks(weight))
    for made, (outputs, inputs) in zip(tiles, packing.shapes, strict=True):
        _check_tiles(layout, made, architecture, outputs, inputs)
    return LayerLayout(layout, packing, tiles)


def _check_tiles(layout: Layout, made: object, architecture: Architecture, outputs: int, inputs: int) -> None:
    """Raise ``InputError`` unless what a layout's ``tile`` made is a layout of such a matrix."""
    if not isinstance(made, TileLayout):
        raise InputError("layout", repr(layout), f"its tile returned a {type(made).__name__}: it must be a TileLayout")
    if (made.outputs, made.inputs) != (outputs, inputs):
        given = f"{made.inputs} inputs and {made.outputs} outputs"
        allowed = f"its tile returned a layout of {given}: the matrix has {inputs} inputs and {outputs} outputs"
        raise InputError("layout", repr(layout), allowed)
    if made.architecture != architecture:
        raise InputError("layout", repr(layout), "its tile returned a layout of another architecture than it was given")


def _pack_apart(weight: Tensor, architecture: Architecture, *_: object) -> GroupPacking:
    groups, outputs, inputs = weight.shape
    return GroupPacking(groups, inputs, outputs)


def _pack_together(weight: Tensor, architecture: Architecture, *_: object) -> GroupPacking:
    groups, outputs, inputs = weight.shape
    return GroupPacking.of(groups, inputs, outputs, architecture)


def _tile_grid(matrix: Tensor, architecture: Architecture, packing: Packing) -> TileLayout:
    return TileLayout(architecture, inputs=matrix.shape[1], outputs=matrix.shape[0])


register_layout("dense", pack=_pack_apart)
register_layout("block_diagonal")
