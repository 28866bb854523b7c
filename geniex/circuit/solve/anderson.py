"""Anderson mixing (type II) of the crossbar's fixed point, batched over (tiles, vectors)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from geniex.cells import Cell
from geniex.circuit.solve.fields import drop_, from_field, to_field
from geniex.circuit.wires import Wires

_WINDOW = 5
"""Differences of earlier iterates that are mixed; more would cost memory traffic and gain little."""
_ROUNDING = 4
"""Units in the last place by which a cell voltage may be off."""
CHECK_EVERY = {"cuda": 3}
"""Steps between two checks of the convergence, on devices where a check waits for the device."""
_TRIAL = 6
"""Steps after which a problem that still misses more than ``_HOPELESS`` is left to better methods."""
_HOPELESS = 0.05
"""Missed share of a column current, see ``Problem.missed``."""
_COMPACT = 0.5
"""Share of unsolved problems in a batch below which the converged problems leave it."""


@dataclass(frozen=True)
class Problem:
    """Fixed points u = B - K f(u; G); fields are (cols, tiles, rows, vectors) as in ``geniex.circuit.solve.fields``."""

    drive: Tensor
    """Drive B [V], (cols | 1, tiles, rows | 1, vectors)."""
    conductances: Tensor
    """Conductances G [S], (cols, tiles, rows, vectors | 1)."""
    cell: Cell
    wires: Wires
    turned: bool = False
    """Whether the columns that are read lie along the rows of the fields."""

    @property
    def shape(self) -> torch.Size:
        """The shape (cols, tiles, rows, vectors) of a field."""
        cols, tiles, rows, _ = self.conductances.shape
        return torch.Size((cols, tiles, rows, self.drive.shape[-1]))

    def span(self) -> Tensor:
        """Largest cell voltage (tiles, 1, vectors) [V] that these drives can cause in a passive network."""
        high, low = self.drive.amax((0, 2)).clamp(min=0), self.drive.amin((0, 2)).clamp(max=0)
        return (high - low)[:, None, :]

    def step(self, u: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Residual B - K f(u) - u, column currents as in ``columns``, and the cells' slopes at u."""
        current, slope = self.cell.current_and_derivative(from_field(u), from_field(self.conductances))
        return *self._residual(u, to_field(current)), to_field(slope)

    def residual(self, u: Tensor) -> tuple[Tensor, Tensor]:
        """The residual and the column currents of ``step``, without the slopes."""
        return self._residual(u, to_field(self.cell.current(from_field(u), from_field(self.conductances))))

    def _residual(self, u: Tensor, current: Tensor) -> tuple[Tensor, Tensor]:
        columns = self.columns(current)
        lost = drop_(current, self.wires).add_(u)
        return torch.sub(self.drive, lost, out=lost), columns

    def columns(self, field: Tensor) -> Tensor:
        """Sums over the cells of each column that is read, (columns, tiles, vectors)."""
        return field.sum(0).transpose(0, 1) if self.turned else field.sum(2)

    def missed(self, residual: Tensor, columns: Tensor, slope: Tensor, tol: float) -> Tensor:
        """The largest share of a column current, (tiles, vectors), by which cells and wires disagree."""
        # Single precision is enough for values that are compared with a tolerance, and halves the memory traffic.
        eps = torch.finfo(columns.dtype).eps
        residual, columns, slope = residual.float(), columns.float(), slope.float()
        wrong = (slope * residual).abs_()
        scale = torch.maximum(columns.abs(), 1e-3 * columns.abs().amax(0))
        # Where the currents of the cells cancel, the rounding errors of their voltages may exceed ``tol``.
        rounding = _ROUNDING * eps * self.span()[:, 0] * self.columns(slope)
        scale = scale + rounding.amax(0) / tol
        # A column without any current counts as right only where no cell is wrong.
        wrong = self.columns(wrong)
        return torch.where(wrong == 0, 0, wrong / scale).amax(0).nan_to_num_(nan=torch.inf)

    def pick(self, keep: Tensor) -> Problem:
        """The problems at the flat positions ``keep`` of (tiles, vectors) as tiles of one vector each."""
        vectors = self.drive.shape[-1]
        return self._changed(
            lambda field: pick(field, keep, vectors),
            lambda r: r.expand(-1, vectors).reshape(-1, 1)[keep] if r.dim() == 2 else r,
        )

    def tiles(self, keep: Tensor) -> Problem:
        """The problems of the tiles ``keep``."""
        return self._changed(lambda field: field[:, keep], lambda r: r[keep] if r.dim() == 2 else r)

    def _changed(self, field: Callable[[Tensor], Tensor], scalar: Callable[[Tensor], Tensor]) -> Problem:
        wires = Wires(*(scalar(r) if isinstance(r, Tensor) else r for r in vars(self.wires).values()))
        return Problem(field(self.drive), field(self.conductances), self.cell.map_tensors(scalar), wires, self.turned)


def pick(field: Tensor, keep: Tensor, vectors: int) -> Tensor:
    """The entries of ``field`` (cols, tiles, rows, vectors | 1) at the flat positions ``keep`` of (tiles, vectors), as
    (cols, kept, rows, 1)."""
    tile, vector = keep // vectors, keep % vectors if field.shape[-1] > 1 else torch.zeros_like(keep)
    return field[:, tile, :, vector].transpose(0, 1).contiguous()[..., None]


class History:
    """The last differences of iterates and residuals, in ring buffers (window, cols, tiles, rows, vectors)."""

    def __init__(self, like: Tensor, dtype: torch.dtype) -> None:
        self.dr = torch.empty(_WINDOW, *like.shape, dtype=dtype, device=like.device)
        self.step = torch.empty_like(self.dr)  # differences of x + r
        self.gram = self.dr.new_zeros(like.shape[1], like.shape[3], _WINDOW, _WINDOW)
        self.pushed = 0

    def push(self, dx: Tensor, dr: Tensor) -> None:
        slot = self.pushed % _WINDOW
        self.pushed += 1
        self.dr[slot] = dr
        torch.add(dx, dr, out=self.step[slot])
        row = self._products(self.dr[slot])
        n = row.shape[-1]
        self.gram[..., slot, :n], self.gram[..., :n, slot] = row, row

    def mix(self, r: Tensor) -> Tensor:
        """The correction to subtract from x + r so that the linearised residual is least."""
        right = self._products(r)
        n = right.shape[-1]
        gram = self.gram[..., :n, :n]
        diagonal = gram.diagonal(dim1=-2, dim2=-1)
        # Stagnant directions get a pivot, so the system is always regular.
        largest = diagonal.amax(-1, keepdim=True)
        eps = torch.finfo(r.dtype).eps
        lift = torch.where(diagonal > 0, eps * diagonal, torch.where(largest > 0, largest, 1))
        weights = torch.linalg.solve_ex(gram + torch.diag_embed(lift), right)[0]
        out = weights[:, None, :, 0] * self.step[0]
        for k in range(1, n):
            out.addcmul_(weights[:, None, :, k], self.step[k])
        return out

    def pick(self, keep: Tensor) -> None:
        vectors = self.dr.shape[-1]
        self.gram = self.gram.flatten(0, 1)[keep][:, None]
        self.dr, self.step = (torch.stack([pick(x, keep, vectors) for x in buffer]) for buffer in (self.dr, self.step))

    def _products(self, x: Tensor) -> Tensor:
        """Inner products of ``x`` with each difference of residuals so far, (tiles, vectors, differences)."""
        n = min(self.pushed, _WINDOW)
        return torch.stack([(self.dr[k] * x).sum((0, 2)) for k in range(n)], -1)


def solve_by_mixing(problem: Problem, tol: float, iterations: int, *, check: bool = True) -> tuple[Tensor, Tensor]:
    """Cell voltages (cols, tiles, rows, vectors) [V] and the share of current (tiles, vectors) that they miss.

    The iteration stops when Kirchhoff's law holds to ``tol`` everywhere, or after ``iterations`` steps. Without
    ``check`` it always takes ``iterations`` steps, and the share is unknown and returned as 0.
    """
    span = problem.span()
    x = problem.drive.expand(problem.shape).contiguous()
    history = History(x, x.dtype)
    solved = _Solved(x, span)
    every = CHECK_EVERY.get(x.device.type, 1)
    x_old = r_old = None
    for k in range(iterations):
        r, columns, slope = problem.step(x)
        last = k == iterations - 1
        if check and (last or k % every == 0):
            missed = problem.missed(r, columns, slope, tol)
            left = missed > tol
            if k >= _TRIAL:
                left &= missed < _HOPELESS
            keep = left.flatten().nonzero()[:, 0]
            if len(keep) == 0 or last:
                return solved.merge(x, missed)
            if len(keep) < _COMPACT * missed.numel():
                solved.merge(x, missed)
                solved.pick(keep)
                count = x.shape[-1]
                problem = problem.pick(keep)
                span = problem.span()
                history.pick(keep)
                x, r = pick(x, keep, count), pick(r, keep, count)
                if x_old is not None and r_old is not None:
                    x_old, r_old = pick(x_old, keep, count), pick(r_old, keep, count)
        if x_old is None or r_old is None:
            x_new = x + r
        else:
            history.push(x - x_old, r - r_old)
            x_new = (x + r).sub_(history.mix(r))
        x_old, r_old = x, r
        x = torch.clamp(x_new, -span, span)
    return x, torch.zeros_like(span[:, 0])


class _Solved:
    """The results of all problems of a batch, including those that have left it."""

    def __init__(self, like: Tensor, span: Tensor) -> None:
        self.x, self.missed = like, torch.zeros_like(span[:, 0])
        self.left: Tensor | None = None  # None: no problem has left yet

    def merge(self, x: Tensor, missed: Tensor) -> tuple[Tensor, Tensor]:
        """Put the results of the problems left in the batch into their places; returns those of all problems."""
        if self.left is None:
            self.x, self.missed = x, missed
        else:
            vectors = self.missed.shape[1]
            self.x[:, self.left // vectors, :, self.left % vectors] = x[..., 0].transpose(0, 1)
            self.missed.view(-1)[self.left] = missed.flatten()
        return self.x, self.missed

    def pick(self, keep: Tensor) -> None:
        self.left = keep if self.left is None else self.left[keep]
