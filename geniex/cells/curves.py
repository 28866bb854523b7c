"""The shapes of measured curves, as numbers, as tensors, and as an expression for ngspice."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor

from geniex.cells.base import spice_number
from geniex.cells.pchip import Cubic, bases


class Shapes(NamedTuple):
    """The shapes of all states: the knots, the conductance of each state, and its cubic pieces divided by it."""

    knots: tuple[float, ...]
    conductances: tuple[float, ...]
    pieces: tuple[tuple[Cubic, ...], ...]


class Table(NamedTuple):
    """The shapes as tensors: knots (K,), bases (K + 1,), states (S,), coefficients (4, S (K + 1))."""

    knots: Tensor
    bases: Tensor
    states: Tensor
    coefficients: Tensor

    def place(self, u: Tensor) -> tuple[Tensor, Tensor]:
        """The distance of each voltage from the base of its piece, and the index of that piece."""
        k = torch.searchsorted(self.knots, u.detach().contiguous(), right=True)
        return u - self.bases[k], k

    def shape(self, x: Tensor, s: Tensor, k: Tensor) -> Tensor:
        a, b, c, d = self._pieces(s, k)
        return a + x * (b + x * (c + x * d))

    def slope(self, x: Tensor, s: Tensor, k: Tensor) -> Tensor:
        _, b, c, d = self._pieces(s, k)
        return b + x * (2 * c + x * (3 * d))

    def _pieces(self, s: Tensor, k: Tensor) -> Iterator[Tensor]:
        at = s * len(self.bases) + k
        return (row[at] for row in self.coefficients)


def build_table(shapes: Shapes, like: Tensor) -> Table:
    """The shapes in the dtype and on the device of ``like``; they are copied to a GPU once and then kept there."""
    build = _build if isinstance(like, FakeTensor) else _kept
    return build(shapes, like.dtype, like.device)


def _build(shapes: Shapes, dtype: torch.dtype, device: torch.device) -> Table:
    flat = [piece for pieces in shapes.pieces for piece in pieces]
    as_tensor = functools.partial(torch.tensor, dtype=dtype, device=device)
    knots, states = as_tensor(shapes.knots), as_tensor(shapes.conductances)
    return Table(knots, as_tensor(bases(shapes.knots)), states, as_tensor(flat).T.contiguous())


_kept = functools.lru_cache(maxsize=32)(_build)


def spice_expression(
    u: str, knots: Sequence[float], bases: Sequence[float], pieces: Sequence[tuple[float, ...]]
) -> str:
    """The piecewise cubic of ``u`` as nested conditions; piece k lies below knot k, and the last above all knots."""
    if not knots:
        x = f"({u}-{spice_number(bases[0])})"
        a, b, c, d = (spice_number(coefficient) for coefficient in pieces[0])
        return f"({a}+{x}*({b}+{x}*({c}+{x}*({d}))))"
    m = len(knots) // 2
    below = spice_expression(u, knots[:m], bases[: m + 1], pieces[: m + 1])
    above = spice_expression(u, knots[m + 1 :], bases[m + 1 :], pieces[m + 1 :])
    return f"({u}<{spice_number(knots[m])} ? {below} : {above})"
