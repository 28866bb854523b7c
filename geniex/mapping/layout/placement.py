"""Orders of a matrix' inputs, outputs and bit lines that differ from the natural one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Self

import torch
from torch import Tensor

from geniex.errors import InputError


@dataclass(frozen=True, eq=False)
class Arrangement:
    """The input, output and bit line at each place; None is the natural order.

    An arrangement leaves the matrix' product as it is: inputs are put onto their word lines, and outputs back into
    their order. All column tiles of a matrix share the order of inputs, and all tiles share the order of bit lines. All
    row tiles share the order of outputs, unless each row of tiles is given its own.

    >>> Arrangement.of(outputs=[2, 0, 1]).outputs
    tensor([2, 0, 1])
    """

    outputs: Tensor | None = None
    """Output at each place, int64 (outputs,), or (row_tiles, outputs) with an order for each row of tiles. Places fill
    a column tile from the drivers on, then the next one. Where the rows' orders differ, the sums of a row are put back
    into the natural order before rows are added."""
    inputs: Tensor | None = None
    """Input on each word line, int64 (inputs,). The last word line of a tile is nearest the sense side."""
    lines: Tensor | None = None
    """Bit line, by its natural number within a tile, at each place, int64 (cols,). The first place is nearest the
    drivers."""

    @classmethod
    def of(
        cls,
        outputs: Sequence[int] | Sequence[Sequence[int]] | Tensor | None = None,
        inputs: Sequence[int] | Tensor | None = None,
        lines: Sequence[int] | Tensor | None = None,
    ) -> Self:
        """The arrangement of these permutations; raises ``InputError`` for an order that is no permutation."""
        return cls(_permutations("outputs", outputs), _permutation("inputs", inputs), _permutation("lines", lines))

    @cached_property
    def natural(self) -> bool:
        """Whether inputs, outputs and bit lines are all in natural order."""
        return self.outputs is None and self.inputs is None and self.lines is None

    @cached_property
    def by_row(self) -> bool:
        """Whether each row of tiles has an order of outputs of its own."""
        return self.outputs is not None and self.outputs.dim() == 2

    def check(self, *, outputs: int, inputs: int, cols: int, rows: int = 1) -> None:
        """Raise ``InputError`` unless the orders fit a matrix of this size on ``rows`` rows of tiles.

        ``cols`` are the bit lines of a tile.
        """
        if self.outputs is not None and self.outputs.dim() == 2 and len(self.outputs) != rows:
            raise InputError(
                "outputs",
                f"{len(self.outputs)} orders",
                f"it must have one order, or one for each of the {rows} rows of tiles",
            )
        for name, size in (("outputs", outputs), ("inputs", inputs), ("lines", cols)):
            order = getattr(self, name)
            if order is not None and order.shape[-1] != size:
                raise InputError(
                    name, f"an order of {order.shape[-1]}", f"it must have the {size} entries of this matrix"
                )

    def map_orders(self, function: Callable[[Tensor], Tensor]) -> Arrangement:
        """The arrangement with ``function`` applied to each order."""
        orders = (self.outputs, self.inputs, self.lines)
        return Arrangement(*(None if order is None else function(order) for order in orders))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Arrangement) and self.to_dict() == other.to_dict()

    def __hash__(self) -> int:
        return hash(repr(self.to_dict()))

    def to_dict(self) -> dict[str, Any]:
        """The orders as lists by name, JSON-ready."""
        names = ("outputs", "inputs", "lines")
        return {name: None if getattr(self, name) is None else getattr(self, name).tolist() for name in names}

    def to_numbers(self) -> list[int]:
        """The orders as one list: for each its length, then its entries.

        A length of 0 stands for the natural order; -n stands for n orders, whose common length follows.
        """
        return [n for order in (self.outputs, self.inputs, self.lines) for n in _numbers(order)]

    @classmethod
    def from_numbers(cls, numbers: Sequence[int]) -> Self:
        """The arrangement that ``to_numbers`` wrote; no numbers give the natural order."""
        return cls.read_numbers(numbers)[0]

    @classmethod
    def read_numbers(cls, numbers: Sequence[int]) -> tuple[Self, list[int]]:
        """The arrangement that ``to_numbers`` wrote, and the numbers that follow it."""
        orders: list[Any] = []
        rest = list(numbers)
        while rest and len(orders) < 3:
            count, rest = rest[0], rest[1:]
            if count < 0:
                width, rest = rest[0], rest[1:]
                orders.append([rest[k * width : (k + 1) * width] for k in range(-count)])
                rest = rest[-count * width :]
            else:
                orders.append(rest[:count] or None)
                rest = rest[count:]
        return cls.of(*orders), rest


NATURAL = Arrangement()
"""The arrangement in which inputs, outputs and bit lines are all in natural order."""


def invert(order: Tensor) -> Tensor:
    """The permutation that undoes ``order`` along its last dimension: the place of each entry."""
    places = torch.arange(order.shape[-1], device=order.device).expand_as(order)
    return torch.empty_like(order).scatter_(-1, order, places)


def _numbers(order: Tensor | None) -> list[int]:
    if order is None:
        return [0]
    head = [len(order)] if order.dim() == 1 else [-len(order), order.shape[1]]
    return head + order.flatten().tolist()


def _permutations(name: str, order: Any) -> Tensor | None:
    """One permutation, or several of equal length."""
    try:
        given = None if order is None else torch.as_tensor(order)
    except (TypeError, ValueError, RuntimeError):
        given = None  # _permutation raises the error
    if given is None or given.dim() != 2:
        return _permutation(name, order)
    rows = [_permutation(name, row) for row in given]
    return torch.stack([row for row in rows if row is not None]) if rows else _permutation(name, order)


def _permutation(name: str, order: Sequence[int] | Tensor | None) -> Tensor | None:
    if order is None:
        return None
    try:
        given = torch.as_tensor(order)
        whole = given.dim() == 1 and not (given.is_floating_point() or given.is_complex() or given.dtype == torch.bool)
    except (TypeError, ValueError, RuntimeError):
        whole = False
    if not whole or not torch.equal(given.long().sort().values, torch.arange(len(given), device=given.device)):
        raise InputError(name, f"{str(order)[:60]}", "it must be a permutation, with each of 0..count-1 once")
    return given.long().clone()  # later changes of the given tensor do not matter
