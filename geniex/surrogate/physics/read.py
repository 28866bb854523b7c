"""Column currents read from an expansion: matrix products, and a few Newton steps of the columns' equations."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import fields, is_dataclass, replace
from typing import Any

import torch
from torch import Tensor

from geniex.circuit import shared_matmul
from geniex.surrogate.physics.expansion import Apart, Expansion, Polynomial, Term

_STEPS = 2
"""Newton steps where columns rise differently; a third changes no figure."""


def read_currents(expansion: Expansion, w: Tensor) -> Tensor:
    """Column currents (..., cols), in units of v_max, for drives w (..., rows) in 0..1."""
    basis = _Powers(w)
    alike = basis.sums(expansion.alike)
    if expansion.apart is not None:
        return _apart(expansion.apart, basis, alike)
    first, *shares = alike
    # I = first + share(I) I, where the share is taken at I = first.
    return first / (1 - _at(shares, first)) if shares else first


def _apart(e: Apart, basis: _Powers, alike: list[Tensor]) -> Tensor:
    """Column currents (..., cols) from the terms ``alike``, by power of the mean rise, with the corrections ``e``.

    The unknown is each column's current beyond the linear one. A step evaluates the columns' equation at the last
    currents, and divides what is missing by one less its derivative by the column's own current.
    """
    linear, beyond = basis.sum(e.linear), alike[0]
    mean = shared_matmul(linear + beyond, e.means[0])
    for k, term in enumerate(e.moments):
        moment = basis.sum(term) + _at(basis.sums(e.moments_beyond[k]), mean)
        of_tile = shared_matmul(moment, e.means[k + 1])
        apart = moment - of_tile
        both = zip(alike, basis.sums(e.by_mean[k]), basis.sums(e.by_own[k + 1]), strict=False)
        alike[: len(e.by_mean[k])] = [torch.addcmul(torch.addcmul(x, of_tile, y), apart, z) for x, y, z in both]
    by_own, by_own_twice = basis.sums(e.by_own[0]), basis.sums(e.by_own_twice)
    for _ in range(_STEPS):
        current = linear + beyond
        mean = shared_matmul(current, e.means[0])
        apart = current * e.unit - mean
        by_rows = _Powers(basis.drives, shared_matmul(current, e.seen)).sums(e.by_row)
        once, twice = _at(by_own, mean), _at(by_own_twice, mean)
        cells = _at(alike, mean) + _at(by_rows, mean)
        cells = torch.addcmul(cells, apart, torch.addcmul(once, apart, twice))
        sneak = shared_matmul(shared_matmul(beyond, e.seen), e.sneak)
        sneak = torch.addcmul(sneak, shared_matmul(cells, e.means[0]), e.sneak_mean)
        sneak = torch.addcmul(sneak, beyond, e.sneak_own, value=-1)
        slope = torch.addcmul(once, apart, twice, value=2) * e.unit
        beyond = torch.addcdiv(beyond, cells + sneak - beyond, 1 - slope)
    return linear + beyond


def _at(coefficients: Sequence[Tensor], x: Tensor) -> Tensor:
    """The polynomial with these ``coefficients``, lowest power first, at ``x``."""
    out = coefficients[-1]
    for coefficient in reversed(coefficients[:-1]):
        out = torch.addcmul(coefficient, out, x)
    return out


class _Powers:
    """Powers of the drives, each computed once, and multiplied by ``by`` where that is given."""

    def __init__(self, drives: Tensor, by: Tensor | None = None) -> None:
        self.drives, self._by = drives, by
        self._known = {1: drives}
        self._stacked: dict[tuple[int, ...], Tensor] = {}

    def sums(self, polynomial: Polynomial) -> list[Tensor]:
        """The polynomial's terms summed over the rows, each (..., cols)."""
        return [self.sum(term) for term in polynomial]

    def sum(self, term: Term) -> Tensor:
        """The term summed over the rows, (..., cols)."""
        if not term.powers:
            assert term.constant is not None
            return term.constant
        total = shared_matmul(self._stack(term.powers), term.matrix)
        return total if term.constant is None else total + term.constant

    def _stack(self, powers: tuple[int, ...]) -> Tensor:
        if powers not in self._stacked:
            blocks = [self._power(power) for power in powers]
            if self._by is not None:
                blocks = [self._by * block for block in blocks]
            self._stacked[powers] = blocks[0] if len(blocks) == 1 else torch.cat(blocks, -1)
        return self._stacked[powers]

    def _power(self, power: int) -> Tensor:
        if power == 0:
            return torch.ones_like(self.drives)
        if power not in self._known:
            half = power // 2
            self._known[power] = self._power(half) * self._power(power - half)
        return self._known[power]


def collapse(expansion: Expansion) -> Expansion:
    """The expansion for inputs of 0 and 1 only: their powers from the first on are equal, so one matrix serves all."""

    def one(terms: list[Term]) -> Term:
        (term,) = terms
        blocks = term.matrix.unflatten(-2, (len(term.powers), -1)) if term.powers else term.matrix
        if 0 in term.powers and len(term.powers) > 1:
            matrix = torch.cat([blocks[..., 0, :, :], blocks[..., 1:, :, :].sum(-3)], -2)
            return Term((0, 1), matrix)
        return Term((1,), blocks.sum(-3), term.constant) if term.powers and 0 not in term.powers else term

    out: Expansion = merge([expansion], Term, one)
    return out


def merge(parts: list[Any], leaf: type, join: Callable[[list[Any]], Any]) -> Any:
    """One record of several of the same structure: ``join`` makes each ``leaf`` object from the parts' own."""
    first = parts[0]
    if isinstance(first, leaf):
        return join(parts)
    if isinstance(first, tuple):
        return tuple(merge(list(entries), leaf, join) for entries in zip(*parts, strict=True))
    if is_dataclass(first) and not isinstance(first, type):
        names = [field.name for field in fields(first)]
        return replace(first, **{name: merge([getattr(p, name) for p in parts], leaf, join) for name in names})
    return first
