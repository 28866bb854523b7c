"""Other places for a matrix's inputs, outputs and bit lines than their natural order."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor

from geniex.errors import InputError


@dataclass(frozen=True, eq=False)
class Arrangement:
    """Which input, output and bit line is at each place; None is the natural order.

    What a matrix computes stays the same: inputs are put onto their word lines, and outputs back into their order. All
    row tiles of a matrix share the order of outputs, all column tiles that of inputs, and all tiles that of bit lines.

    >>> Arrangement.of(outputs=[2, 0, 1]).outputs
    tensor([2, 0, 1])
    """

    outputs: Tensor | None = None
    """int64 (outputs,): the output at each place. Places fill a column tile from the drivers on, then the next one."""
    inputs: Tensor | None = None
    """int64 (inputs,): the input on each word line. The last word line of a tile is nearest the sense side."""
    lines: Tensor | None = None
    """int64 (cols,): the bit line of a tile's natural order at each place, the first one nearest the drivers."""

    @classmethod
    def of(
        cls,
        outputs: Sequence[int] | Tensor | None = None,
        inputs: Sequence[int] | Tensor | None = None,
        lines: Sequence[int] | Tensor | None = None,
    ) -> Self:
        """An arrangement of permutations; raises ``InputError`` for what is none."""
        return cls(*(_permutation(*named) for named in (("outputs", outputs), ("inputs", inputs), ("lines", lines))))

    @property
    def natural(self) -> bool:
        """Whether everything lies in its natural order."""
        return self.outputs is None and self.inputs is None and self.lines is None

    def check(self, *, outputs: int, inputs: int, cols: int) -> None:
        """Raise ``InputError`` unless it is one of a matrix of this size on tiles of ``cols`` bit lines."""
        for name, size in (("outputs", outputs), ("inputs", inputs), ("lines", cols)):
            order = getattr(self, name)
            if order is not None and len(order) != size:
                raise InputError(name, f"an order of {len(order)}", f"the matrix has {size}")

    def moved(self, function: Callable[[Tensor], Tensor]) -> Arrangement:
        """With ``function`` applied to each order."""
        orders = (self.outputs, self.inputs, self.lines)
        return Arrangement(*(None if order is None else function(order) for order in orders))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Arrangement) and self.to_dict() == other.to_dict()

    def __hash__(self) -> int:
        return hash(repr(self.to_dict()))

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        names = ("outputs", "inputs", "lines")
        return {name: None if getattr(self, name) is None else getattr(self, name).tolist() for name in names}

    def to_numbers(self) -> list[int]:
        """For each order how many follow, then those: 0 is the natural one."""
        return [n for order in self.to_dict().values() for n in ([0] if order is None else [len(order), *order])]

    @classmethod
    def from_numbers(cls, numbers: Sequence[int]) -> Self:
        """What ``to_numbers`` told; nothing is the natural order."""
        orders, rest = [], list(numbers)
        while rest:
            count = rest[0]
            orders.append(rest[1 : count + 1] or None)
            rest = rest[count + 1 :]
        return cls.of(*orders)


def inverse(order: Tensor) -> Tensor:
    """The permutation that undoes ``order``: the place of each thing."""
    return torch.empty_like(order).scatter_(0, order, torch.arange(len(order), device=order.device))


def _permutation(name: str, order: Sequence[int] | Tensor | None) -> Tensor | None:
    if order is None:
        return None
    try:
        given = torch.as_tensor(order)
        whole = given.dim() == 1 and not (given.is_floating_point() or given.is_complex() or given.dtype == torch.bool)
    except (TypeError, ValueError, RuntimeError):
        whole = False
    if not whole or not torch.equal(given.long().sort().values, torch.arange(len(given), device=given.device)):
        raise InputError(name, f"{str(order)[:60]}", "it must be a permutation: each of 0..count-1 once")
    return given.long().clone()  # whatever becomes of the tensor that was given
