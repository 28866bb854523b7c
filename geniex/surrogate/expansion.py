"""A crossbar's currents as polynomials of its inputs, from physics alone: what the physics surrogates read.

For drives w = V / v_max in [0, 1], voltages in units of v_max. A bit line's rise above ground is written in units of
its rise c_ij in the linear array with all drivers at 1; a column's current I_j raises it by s_j = I_j / sum_i A_ij.

Solved when a tile is programmed:

1. The linear array: A, with I = A^T w for cells at their small-signal conductance g, exactly.
2. The cells: f(u) = g (u + excess(u)), excess an odd polynomial fitted at Chebyshev nodes.
3. Every word line with all its cells, non-linear, for its own drive w_i and bit lines that have all risen by t c_ij.
   That gives the cells' currents beyond the linear ones, as polynomials in w and t.

Current q beyond the linear one of cell i, j reaches the sense side along its own bit line, loaded by the word lines'
resistances: the share T_ij of a ladder. On its way it raises its bit line, which feeds back into the word lines and
from there into all other columns: sneak currents, that count where a column carries little of its own. With
Delta_j = s_j less its linear part, the other columns' rises by Delta c push h_ij Delta into cell i, j, so

    I_j = sum_i A_ij w_i + sum_i T_ij (q_ij + g_ij h_ij Delta_(others)).

The q are expanded around the tile's mean rise t:

- by the mean rise's moments, where along the bit lines the currents enter: polynomials b_k of the row position,
  orthogonal under the weights A_ij of a column, have the moments m_k = sum_i b_k (A_ij w_i + T_ij q_ij);
- by how the column's own rise and moments differ from the tile's means, to second order in the rise itself;
- by how the other columns' mean rise, as word line i weighs them, differs from t.

The k-th derivative of q by a rise is of third order less k in (w, t), and odd if k is even. Every coefficient is a
matrix for a power of w and a power of t: reading is as many products.

With ``moments`` = 0 all columns are taken to rise as the one that is read: t is its s_j, and T_ij the share
A_ij / (g_ij rho_ij) of the linear array, rho_ij the linear voltage at the cell for bit lines at ground. That is a
sixth of the products, and keeps sneak currents to first order only. The rise c_ij is then what the A_ij make, as if
each driver's current entered a column where they cross, which moves no figure and takes no solution of the array.

Exact for linear cells, and for bit lines without resistance. In between, its error is of second order in the product
of non-linearity and how differently the bit lines rise.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from geniex.circuit import Wires
from geniex.circuit.fields import turn
from geniex.circuit.linear import effective_conductance
from geniex.circuit.lines import array_voltages, line_voltages
from geniex.surrogate.circuit import Circuit
from geniex.surrogate.word_lines import (
    ORDERS,
    Excess,
    States,
    WordLines,
    beyond_linear,
    chebyshev,
    column,
    own_response,
)

_RISES = [0.0, 0.6, 1.2]
"""Rises t at which they are; non-linear cells carry more than linear ones."""
_SHARE = 1.3
"""Largest share of a cell's current that reaches the sense side; coupling adds a little to what is its own."""
_ALONE = 1e-9
"""Share of a word line's cells, by weight, below which a column has no others beside it."""


@dataclass(frozen=True)
class Term:
    """A polynomial in w for every cell, summed over the rows: basis(w) @ matrix + constant."""

    powers: tuple[int, ...]
    """Of w, in the order of the matrix' blocks."""
    matrix: Tensor
    """(tiles, powers * rows, cols)."""
    constant: Tensor | None = None
    """What does not depend on w (tiles, cols)."""


Polynomial = tuple[Term, ...]
"""By power of a rise."""


@dataclass(frozen=True)
class Apart:
    """How columns differ from the tile's mean; moments are numbered from that of the rise itself, 0."""

    linear: Term
    """The linear currents."""
    unit: Tensor
    """1 / sum_i A_ij (tiles, cols): s_j of a current of 1."""
    means: tuple[Tensor, ...]
    """Weights of the columns in the tile's mean of each moment (tiles, cols, 1); for 0 those of their currents."""
    moments: tuple[Term, ...]
    """Those of the linear currents, from 1 on."""
    moments_beyond: tuple[Polynomial, ...]
    """What the currents beyond add to them, all columns risen alike."""
    by_mean: tuple[Polynomial, ...]
    """Derivatives by the tile's moments, from 1 on."""
    by_own: tuple[Polynomial, ...]
    """By the difference of the column's moments, from 0 on."""
    by_own_twice: Polynomial
    """Half the second derivative by that of the rise."""
    by_row: Polynomial
    """By the difference of what word line i sees: the drives' basis is times that."""
    seen: Tensor
    """Of the columns' currents, what word line i sees of them less their mean (tiles, cols, rows)."""
    sneak: Tensor
    """By Delta as word line i sees it less its mean (tiles, rows, cols)."""
    sneak_mean: Tensor
    """By the mean Delta that there would be without sneak currents (tiles, cols)."""
    sneak_own: Tensor
    """What the column's own Delta has no part in, of its current beyond the linear one (tiles, cols)."""


@dataclass(frozen=True)
class Expansion:
    """What programmed tiles read."""

    alike: Polynomial
    """Currents with all columns risen alike, beyond the linear ones."""
    apart: Apart | None
    """None: ``alike`` holds the linear ones too, and is in powers of a column's own current, siemens^(1 - n)."""

    @property
    def response(self) -> Tensor:
        """A (tiles, rows, cols), siemens."""
        if self.apart is not None:
            return self.apart.linear.matrix
        first = self.alike[0]
        return first.matrix[..., : first.matrix.shape[-2] // len(first.powers), :]


def expand(conductances: Tensor, circuit: Circuit, powers: Sequence[int], moments: int) -> Expansion:
    """The expansion of tiles (tiles, rows, cols) [S], with ``powers[n]`` powers of w beside t^n.

    In float64; without ``moments`` in the conductances' precision, at least float32, which moves no figure.
    Differentiable in the conductances and in the circuit's tensors. No value is looked at.
    """
    at_least = torch.float64 if moments else torch.float32
    g, wires, lines, excess = _parts(conductances, circuit, torch.promote_types(conductances.dtype, at_least))
    if not moments:
        return _alike(g, wires, lines, excess, powers)
    weights = _Weights(effective_conductance(g, wires), moments)
    rises = weights.orthogonal(wires.col_drop(g * array_voltages(g, wires, weights.patterns)))
    rho, *pushed = line_voltages(g[None], lines, torch.cat([torch.ones_like(g)[None], rises]))
    linear = torch.stack(pushed)
    solved = WordLines.solved(g, excess, lines, States(*_nodes(powers, g), rises[0], rho, linear[0]))
    response_own = own_response(g, lines)
    bit_lines = Wires(wires.r_sink, 0.0, wires.r_col, 0.0)
    reach = g * turn(line_voltages(turn(g * response_own), bit_lines, torch.ones_like(turn(g))))
    alike = _fitted(reach * solved.beyond, powers, 0)
    push = reach * (rises[0] * response_own - linear[0])
    return Expansion(alike, _apart(solved, weights, rises, linear, reach, push, powers))


def _parts(conductances: Tensor, circuit: Circuit, dtype: torch.dtype) -> tuple[Tensor, Wires, Wires, Excess]:
    """Small-signal conductances, the wires, those with bit lines at ground, and the cells' excess, in ``dtype``."""
    conductances = conductances.double()
    g = circuit.cell.small_signal(conductances)
    *_, v_max = circuit.scalars(g)
    excess = Excess(conductances, circuit.cell, v_max, dtype)
    g = g.to(dtype)
    wires = Wires(*(r[:, 0, 0] for r in circuit.scalars(g)[:-1]))
    return g, wires, Wires(wires.r_source, 0.0, wires.r_row, 0.0), excess


def _alike(g: Tensor, wires: Wires, lines: Wires, excess: Excess, powers: Sequence[int]) -> Expansion:
    """Without moments."""
    response = effective_conductance(g, wires)
    # What a driver gives a column enters it mostly through the cell where they cross.
    rise = wires.col_drop(response)
    driven, lifted = line_voltages(g[None], lines, torch.stack([torch.ones_like(g), rise]))
    beyond = beyond_linear(g, excess, lines, States(*_nodes(powers, g), rise, driven, lifted))
    reach = torch.minimum(response / driven, _SHARE * g).clamp(min=0)
    unit = _inverse(response.sum(-2, keepdim=True))
    return Expansion(_by_current(_fitted(reach * beyond, powers, 0), response, unit), None)


def _nodes(powers: Sequence[int], like: Tensor) -> tuple[Tensor, Tensor]:
    """Drives, one more than powers of w, and rises (states, 1, 1, 1) of what polynomials are fitted to."""
    w, t = column(chebyshev(powers[0] + 1), like), column(_RISES, like)
    return w.repeat(len(t)).reshape(-1, 1, 1, 1), t.repeat_interleave(len(w)).reshape(-1, 1, 1, 1)


def _apart(
    solved: WordLines,
    weights: _Weights,
    rises: Tensor,
    linear: Tensor,
    reach: Tensor,
    push: Tensor,
    powers: Sequence[int],
) -> Apart:
    own, own_twice = solved.by_own_rise()
    together = solved.by_rises(rises, linear)
    # Word line i sees the columns by the currents that their rises push into it, the one that is read left out.
    pushed = solved.g * rises[0]
    line, tile = pushed.sum(-1, keepdim=True), pushed.sum(-2, keepdim=True)
    others = _above_zero(torch.maximum(line - pushed, _ALONE * line))
    by_others = reach * (together[0] - own * rises[0]) / others
    unit = _inverse(weights.norms[0])
    shares = tile * _inverse(tile.sum(-1, keepdim=True))
    means = [shares * norm * unit for norm in weights.norms[1:]]
    seen = (pushed * _inverse(line) - shares).mT * unit.mT
    sneak_own = (push * pushed / others).sum(-2)
    sneak_mean = push.sum(-2)
    gain = 1 / (1 - (shares * unit)[:, 0].mul(sneak_mean).sum(-1, keepdim=True))
    by_own = [own * rises[k] * reach for k in range(len(rises))]
    by_own[0] = by_own[0] - by_others * pushed
    inverse = [_inverse(norm) for norm in weights.norms]
    coarse = [count - 1 for count in powers if count > 1]  # for what counts less
    return Apart(
        linear=Term((1,), weights.matrix(0)),
        unit=unit[:, 0],
        means=((shares * unit).mT, *((m * _inverse(m.sum(-1, keepdim=True))).mT for m in means)),
        moments=tuple(Term((1,), weights.matrix(k) * inverse[k]) for k in range(1, len(rises))),
        moments_beyond=tuple(
            _fitted(reach * weights.basis[k] * inverse[k] * solved.beyond, coarse, 0) for k in range(1, len(rises))
        ),
        by_mean=tuple(_fitted(reach * x, powers, 1) for x in together[1:]),
        by_own=tuple(_fitted(x, powers, 1) for x in by_own),
        by_own_twice=_fitted(reach * own_twice * rises[0] ** 2 / 2, powers, 2),
        by_row=_fitted(by_others * line, coarse, 1, by_row=True),
        seen=seen,
        sneak=push * line / others,
        sneak_mean=gain * (sneak_mean + sneak_own),
        sneak_own=sneak_own * unit[:, 0],
    )


class _Weights:
    """Polynomials b_k of the row position, b_0 = 1, orthogonal over each column under the weights A."""

    def __init__(self, response: Tensor, count: int) -> None:
        rows = response.shape[-2]
        position = torch.linspace(0, 1, rows, dtype=response.dtype, device=response.device)[:, None]
        self.patterns = torch.stack([(position**k).expand_as(response) for k in range(count)])
        self._response = response
        self.basis: list[Tensor] = []
        self.norms: list[Tensor] = []
        """sum_i A b_k^2 (tiles, 1, cols): moment k of a drive by b_k."""
        self._mixed: list[list[Tensor]] = []  # of pattern k, how much of b_0 .. b_k-1 is taken away
        for pattern in self.patterns:
            projections = [(response * b * pattern).sum(-2, keepdim=True) for b in self.basis]
            shares = [p * _inverse(norm) for p, norm in zip(projections, self.norms, strict=True)]
            b = pattern - sum(share * b for share, b in zip(shares, self.basis, strict=True))
            self.basis.append(b)
            self.norms.append((response * b * b).sum(-2, keepdim=True))
            self._mixed.append(shares)

    def matrix(self, k: int) -> Tensor:
        """A b_k."""
        return self._response * self.basis[k]

    def orthogonal(self, fields: Tensor) -> Tensor:
        """What the b_k do in a column, from what the patterns do (patterns, tiles, rows, cols)."""
        out: list[Tensor] = []
        for field, shares in zip(fields, self._mixed, strict=True):
            out.append(field - sum(share * lower for share, lower in zip(shares, out, strict=True)))
        return torch.stack(out)


def _fitted(values: Tensor, powers: Sequence[int], order: int, by_row: bool = False) -> Polynomial:
    """The least-squares polynomial in (t, w) through values (states, tiles, rows, cols).

    They are the ``order``-th derivative by a rise. Without ``by_row`` a power 0 of w is summed over the rows.
    """
    counts = powers[order:]
    lowest = [max(p, p % 2) for p in (ORDERS[0] - order - n for n in range(len(counts)))]
    ladder = [tuple(range(low, low + 2 * count, 2)) for low, count in zip(lowest, counts, strict=True)]
    # Fields lie column by column in memory.
    by_column = values.movedim(-1, 0)
    coefficients = (_fit(ladder, values) @ by_column.flatten(2)).unflatten(2, by_column.shape[2:]).permute(2, 1, 3, 0)
    parts = coefficients.contiguous().split([len(row) for row in ladder], 1)
    return tuple(_term(row, part, by_row) for row, part in zip(ladder, parts, strict=True))


def _fit(ladder: list[tuple[int, ...]], like: Tensor) -> Tensor:
    """Coefficients from values at the states: of w^p t^n, p in ``ladder[n]``."""
    w, t = column(chebyshev(len(like) // len(_RISES)), like), column(_RISES, like)
    if len(ladder) > len(_RISES):
        basis = [(t[:, None] ** n * w**p).flatten() for n, row in enumerate(ladder) for p in row]
        return torch.linalg.pinv(torch.stack(basis, 1))
    # Interpolated in t first, so that higher powers which are left out do not bend those that are not.
    by_rise = torch.linalg.inv(torch.stack([t**n for n in range(len(_RISES))], 1))
    fits = [torch.linalg.pinv(torch.stack([w**p for p in row], 1)) for row in ladder]
    return torch.cat([torch.kron(by_rise[n : n + 1], fit) for n, fit in enumerate(fits)])


def _term(powers: tuple[int, ...], blocks: Tensor, by_row: bool) -> Term:
    """From blocks (tiles, powers, rows, cols)."""
    if by_row or powers[:1] != (0,):
        return Term(powers, blocks.flatten(1, 2))
    return Term(powers[1:], blocks[:, 1:].flatten(1, 2), blocks[:, 0].sum(-2))


def _by_current(alike: Polynomial, response: Tensor, unit: Tensor) -> Polynomial:
    """In powers of a column's own current and not its rise, with the linear currents."""
    first, *others = (
        Term(term.powers, term.matrix * unit**n, None if term.constant is None else term.constant * unit[:, 0] ** n)
        for n, term in enumerate(alike)
    )
    return (Term((1, *first.powers), torch.cat([response, first.matrix], -2), first.constant), *others)


def _inverse(x: Tensor) -> Tensor:
    """1 / x, and 0 where x, a sum over conductances, is 0 because all cells are open."""
    return torch.where(x > 0, 1 / _above_zero(x), 0)


def _above_zero(x: Tensor) -> Tensor:
    """``x``, a sum over conductances, as a divisor also where all cells are open."""
    return x.clamp(min=torch.finfo(x.dtype).tiny)
