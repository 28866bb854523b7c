"""A crossbar's column currents as polynomials of its inputs, derived from physics alone, for the physics surrogates.

The drives are w = V / v_max in [0, 1], and all voltages are in units of v_max. Programming a tile solves:

1. The linear array, exactly: I = A^T w for cells at their small-signal conductance g.
2. The cells: f(u) = g (u + excess(u)), where the excess is an odd polynomial fitted at Chebyshev nodes.
3. Every word line alone with its non-linear cells, for its drive w_i and for bit lines that have all risen above
   ground by t c_ij. Here c_ij is the rise at cell i, j in the linear array with all drivers at 1. The solutions give
   each cell's excess current q_ij, its current beyond that of a linear cell at the same w and t, as a polynomial in
   w and t.

A column current I_j raises its bit line by about s_j c_ij with s_j = I_j / sum_i A_ij. The excess current q_ij enters
bit line j, which the cells and their word lines load like a ladder, so that only the share T_ij reaches the sense
side. On its way it raises the bit line further, which drives current through the word lines into all other columns.
These sneak currents count where a column carries little current of its own. Let Delta_j be the part of s_j that is
due to excess and sneak currents, and h_ij the rise of the voltage of cell i, j if all other bit lines rise by c. Then

    I_j = sum_i A_ij w_i + sum_i T_ij (q_ij + g_ij h_ij Delta_others),

where Delta_others is the mean of Delta over the other columns k, each weighed by the current g_ik c_ik that its rise
drives into word line i. As the s_j differ from column to column, the q_ij are expanded around the tile's mean rise t:

- in the moments of the tile's mean rise, which tell where along the bit lines currents enter. Polynomials b_k of the
  row position, orthogonal under the weights A_ij of a column, have the moments
  m_k = sum_i b_k (A_ij w_i + T_ij q_ij) / sum_i A_ij b_k^2, so that m_0 is the rise itself;
- in the differences between the column's own moments and the tile's means, to second order for the rise itself;
- in the difference between the mean rise of the other columns, as word line i weighs them, and t.

The excess currents start at third order in (w, t) and are odd. Their k-th derivative by a rise thus starts at order
3 - k, and is odd if k is even. A coefficient is one matrix for a power of w and a power of t, and a read takes one
matrix product for each.

With ``moments`` = 0, all columns are assumed to rise like the one that is read: t is its own s_j. T_ij is then the
share A_ij / (g_ij rho_ij) of the linear array, where rho_ij is the voltage of the linear cell with bit lines at
ground. A read takes a sixth of the products and keeps sneak currents to first order only. The rise c_ij is then
computed from A alone, as if each driver's current entered a column where the two lines cross; this changes no figure
and saves a solution of the array.

The expansion is exact for linear cells. Without bit-line resistance only the polynomial fits err. Otherwise the error
is of second order in the product of the cells' non-linearity and the differences between the bit lines' rises.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from geniex.circuit import Wires
from geniex.circuit.solve.elimination import solve_linear_array
from geniex.circuit.solve.fields import turn
from geniex.circuit.solve.ladder import solve_word_lines
from geniex.circuit.transfer_matrix import effective_conductance
from geniex.surrogate.physics.circuit import Circuit
from geniex.surrogate.physics.word_lines import (
    ORDERS,
    Excess,
    States,
    WordLines,
    beyond_linear,
    chebyshev_nodes,
    column,
    own_response,
)

_RISES = [0.0, 0.6, 1.2]
"""Rises t that word lines are solved at. They exceed 1, because non-linear cells carry more than linear ones."""
_SHARE = 1.3
"""Largest T_ij; it may exceed 1, as A_ij includes a little current that reaches column j by way of other columns."""
_ALONE = 1e-9
"""Least weight of the other columns on a word line, as a share of the line's, where one column has nearly all of it."""


@dataclass(frozen=True)
class Term:
    """A polynomial in w for every cell, summed over the rows: basis(w) @ matrix + constant."""

    powers: tuple[int, ...]
    """Powers of w, in the order of the matrix' blocks."""
    matrix: Tensor
    """Coefficients (tiles, powers * rows, cols)."""
    constant: Tensor | None = None
    """The part that does not depend on w (tiles, cols)."""


Polynomial = tuple[Term, ...]
"""A polynomial in w and a rise t: entry n stands beside t^n."""


@dataclass(frozen=True)
class Apart:
    """The corrections for columns that rise differently from the tile's mean.

    Moment 0 is the rise itself. "Rows' view" of a quantity of the columns is its mean over the columns as word line i
    weighs them, less its mean over the tile.
    """

    linear: Term
    """The linear currents."""
    unit: Tensor
    """1 / sum_i A_ij (tiles, cols), which makes s_j of a current."""
    means: tuple[Tensor, ...]
    """Weights (tiles, cols, 1) of the columns in the tile's mean of each moment; entry 0 weighs their currents."""
    moments: tuple[Term, ...]
    """Moments of the linear currents, from moment 1 on."""
    moments_beyond: tuple[Polynomial, ...]
    """Moments of the currents beyond the linear ones where all columns rise alike, from moment 1 on."""
    by_mean: tuple[Polynomial, ...]
    """Derivatives of a column's current by the tile's mean moments, from moment 1 on."""
    by_own: tuple[Polynomial, ...]
    """Derivatives by the differences between the column's moments and the tile's means, from moment 0 on."""
    by_own_twice: Polynomial
    """Half the second derivative by the difference of the rise, moment 0."""
    by_row: Polynomial
    """Derivatives by the rows' view of the rises; the read multiplies the powers of w by that view."""
    seen: Tensor
    """The rows' view of the rises s_j, per column current (tiles, cols, rows)."""
    sneak: Tensor
    """Sneak current of a column per rows' view of Delta (tiles, rows, cols)."""
    sneak_mean: Tensor
    """Sneak current of a column per mean Delta (tiles, cols).

    That mean is taken without sneak currents, whose own share of it is a factor in here.
    """
    sneak_own: Tensor
    """Correction (tiles, cols) per current of the column beyond the linear one, subtracted from the sneak currents.

    The means over the columns include the column's own Delta, which drives no sneak current into itself.
    """


@dataclass(frozen=True)
class Expansion:
    """The polynomials of programmed tiles."""

    alike: Polynomial
    """Currents beyond the linear ones where all columns rise alike."""
    apart: Apart | None
    """Corrections for columns that rise differently.

    Where it is None, ``alike`` includes the linear currents, and its entry n stands beside the n-th power of the
    column's own current, in siemens^(1 - n).
    """

    @property
    def response(self) -> Tensor:
        """The linear array's A (tiles, rows, cols), siemens."""
        if self.apart is not None:
            return self.apart.linear.matrix
        first = self.alike[0]
        return first.matrix[..., : first.matrix.shape[-2] // len(first.powers), :]


def expand(conductances: Tensor, circuit: Circuit, powers: Sequence[int], moments: int) -> Expansion:
    """The expansion of tiles (tiles, rows, cols) [S], with ``powers[n]`` powers of w beside t^n.

    It is computed in float64; without ``moments`` in the conductances' precision but at least float32, which changes
    no figure. It is differentiable in the conductances and in the circuit's tensors, and looks at no value.
    """
    at_least = torch.float64 if moments else torch.float32
    g, wires, lines, excess = _parts(conductances, circuit, torch.promote_types(conductances.dtype, at_least))
    if not moments:
        return _alike(g, wires, lines, excess, powers)
    weights = _Weights(effective_conductance(g, wires), moments)
    rises = weights.orthogonal(wires.col_drop(g * solve_linear_array(g, wires, weights.patterns)))
    rho, *pushed = solve_word_lines(g[None], lines, torch.cat([torch.ones_like(g)[None], rises]))
    linear = torch.stack(pushed)
    solved = WordLines.solve(g, excess, lines, States(*_nodes(powers, g), rises[0], rho, linear[0]))
    response_own = own_response(g, lines)
    bit_lines = Wires(wires.r_sink, 0.0, wires.r_col, 0.0)
    # By reciprocity T_ij is the voltage at the cell for 1 V at the sense side. ``reach`` is g T, ``push`` g T h.
    reach = g * turn(solve_word_lines(turn(g * response_own), bit_lines, torch.ones_like(turn(g))))
    alike = _fitted(reach * solved.beyond, powers, 0)
    push = reach * (rises[0] * response_own - linear[0])
    return Expansion(alike, _apart(solved, weights, rises, linear, reach, push, powers))


def _parts(conductances: Tensor, circuit: Circuit, dtype: torch.dtype) -> tuple[Tensor, Wires, Wires, Excess]:
    """Small-signal conductances, the wires, the word lines' wires alone, and the cells' excess, in ``dtype``."""
    conductances = conductances.double()
    g = circuit.cell.small_signal(conductances)
    *_, v_max = circuit.scalars(g)
    excess = Excess(conductances, circuit.cell, v_max, dtype)
    g = g.to(dtype)
    wires = Wires(*(r[:, 0, 0] for r in circuit.scalars(g)[:-1]))
    return g, wires, Wires(wires.r_source, 0.0, wires.r_row, 0.0), excess


def _alike(g: Tensor, wires: Wires, lines: Wires, excess: Excess, powers: Sequence[int]) -> Expansion:
    """The expansion without moments, where all columns rise like the one that is read."""
    response = effective_conductance(g, wires)
    # The current from a driver enters a column mostly through the cell where the two lines cross.
    rise = wires.col_drop(response)
    driven, lifted = solve_word_lines(g[None], lines, torch.stack([torch.ones_like(g), rise]))
    beyond = beyond_linear(g, excess, lines, States(*_nodes(powers, g), rise, driven, lifted))
    reach = torch.minimum(response / driven, _SHARE * g).clamp(min=0)
    unit = _inverse(response.sum(-2, keepdim=True))
    return Expansion(_by_current(_fitted(reach * beyond, powers, 0), response, unit), None)


def _nodes(powers: Sequence[int], like: Tensor) -> tuple[Tensor, Tensor]:
    """Drives and rises, each (states, 1, 1, 1), that polynomials are fitted at: one drive more than powers of w."""
    w, t = column(chebyshev_nodes(powers[0] + 1), like), column(_RISES, like)
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
    """The corrections for columns apart from the mean, with ``reach`` = g T and ``push`` = g T h of every cell."""
    own, own_twice = solved.by_own_rise()
    together = solved.by_rises(rises, linear)
    # Word line i weighs the columns by the currents that their rises drive into it, without the column that is read.
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
    coarse = [count - 1 for count in powers if count > 1]  # for corrections that matter less
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
    """Polynomials b_k of the row position, b_0 = 1, orthogonal over each column under the weights A_ij."""

    def __init__(self, response: Tensor, count: int) -> None:
        rows = response.shape[-2]
        position = torch.linspace(0, 1, rows, dtype=response.dtype, device=response.device)[:, None]
        self.patterns = torch.stack([(position**k).expand_as(response) for k in range(count)])
        self._response = response
        self.basis: list[Tensor] = []
        self.norms: list[Tensor] = []
        """sum_i A_ij b_k^2 (tiles, 1, cols), by which moment k is divided."""
        self._mixed: list[list[Tensor]] = []  # how much of b_0 .. b_k-1 is subtracted from pattern k
        for pattern in self.patterns:
            projections = [(response * b * pattern).sum(-2, keepdim=True) for b in self.basis]
            shares = [p * _inverse(norm) for p, norm in zip(projections, self.norms, strict=True)]
            b = pattern - sum(share * b for share, b in zip(shares, self.basis, strict=True))
            self.basis.append(b)
            self.norms.append((response * b * b).sum(-2, keepdim=True))
            self._mixed.append(shares)

    def matrix(self, k: int) -> Tensor:
        """A_ij b_k (tiles, rows, cols)."""
        return self._response * self.basis[k]

    def orthogonal(self, fields: Tensor) -> Tensor:
        """The fields that drives of b_k cause, from those that the patterns cause (patterns, tiles, rows, cols)."""
        out: list[Tensor] = []
        for field, shares in zip(fields, self._mixed, strict=True):
            out.append(field - sum(share * lower for share, lower in zip(shares, out, strict=True)))
        return torch.stack(out)


def _fitted(values: Tensor, powers: Sequence[int], order: int, by_row: bool = False) -> Polynomial:
    """The least-squares polynomial in (t, w) through values (states, tiles, rows, cols).

    The values are an ``order``-th derivative by a rise. Without ``by_row`` the power 0 of w is summed over the rows.
    """
    counts = powers[order:]
    lowest = [max(p, p % 2) for p in (ORDERS[0] - order - n for n in range(len(counts)))]
    ladder = [tuple(range(low, low + 2 * count, 2)) for low, count in zip(lowest, counts, strict=True)]
    # In memory, fields lie column by column.
    by_column = values.movedim(-1, 0)
    coefficients = (_fit(ladder, values) @ by_column.flatten(2)).unflatten(2, by_column.shape[2:]).permute(2, 1, 3, 0)
    parts = coefficients.contiguous().split([len(row) for row in ladder], 1)
    return tuple(_term(row, part, by_row) for row, part in zip(ladder, parts, strict=True))


def _fit(ladder: list[tuple[int, ...]], like: Tensor) -> Tensor:
    """The matrix from values at the states to the coefficients of w^p t^n, with p in ``ladder[n]``."""
    w, t = column(chebyshev_nodes(len(like) // len(_RISES)), like), column(_RISES, like)
    if len(ladder) > len(_RISES):
        basis = [(t[:, None] ** n * w**p).flatten() for n, row in enumerate(ladder) for p in row]
        return torch.linalg.pinv(torch.stack(basis, 1))
    # Values are interpolated in t first, so that powers of t which are left out do not bend the ones that are kept.
    by_rise = torch.linalg.inv(torch.stack([t**n for n in range(len(_RISES))], 1))
    fits = [torch.linalg.pinv(torch.stack([w**p for p in row], 1)) for row in ladder]
    return torch.cat([torch.kron(by_rise[n : n + 1], fit) for n, fit in enumerate(fits)])


def _term(powers: tuple[int, ...], blocks: Tensor, by_row: bool) -> Term:
    """The term of ``powers`` with coefficients ``blocks`` (tiles, powers, rows, cols)."""
    if by_row or powers[:1] != (0,):
        return Term(powers, blocks.flatten(1, 2))
    return Term(powers[1:], blocks[:, 1:].flatten(1, 2), blocks[:, 0].sum(-2))


def _by_current(alike: Polynomial, response: Tensor, unit: Tensor) -> Polynomial:
    """``alike`` in powers of the column's own current instead of its rise, with the linear currents added."""
    first, *others = (
        Term(term.powers, term.matrix * unit**n, None if term.constant is None else term.constant * unit[:, 0] ** n)
        for n, term in enumerate(alike)
    )
    return (Term((1, *first.powers), torch.cat([response, first.matrix], -2), first.constant), *others)


def _inverse(x: Tensor) -> Tensor:
    """1 / x for a sum x over conductances, and 0 where x is 0 because all cells are open."""
    return torch.where(x > 0, 1 / _above_zero(x), 0)


def _above_zero(x: Tensor) -> Tensor:
    """A sum ``x`` over conductances, kept above 0 where all cells are open, to divide by."""
    return x.clamp(min=torch.finfo(x.dtype).tiny)
