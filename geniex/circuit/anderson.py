"""Anderson mixing (type II) of the crossbar's fixed point, batched over (tiles, vectors)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from geniex.cells import Cell
from geniex.circuit.wires import Wires

_WINDOW = 5
"""Differences of earlier iterates that are mixed; more costs memory traffic and gains little."""
_ROUNDING = 4
"""Units in the last place that a cell voltage may be off."""
_COMPACT = 0.5
"""Once less than this share is left, the converged problems leave the batch."""


@dataclass(frozen=True)
class Problem:
    """Fixed points u = B - K f(u; G), with B (tiles, vectors, rows, cols | 1), G (tiles, 1, rows, cols)."""

    drive: Tensor
    conductances: Tensor
    cell: Cell
    wires: Wires

    @property
    def shape(self) -> torch.Size:
        """(tiles, vectors, rows, cols)."""
        return torch.Size((*self.drive.shape[:2], *self.conductances.shape[-2:]))

    def span(self) -> Tensor:
        """Largest cell voltage (problems, 1) [V] that a passive network takes from these drives."""
        high, low = self.drive.amax((-2, -1)).clamp(min=0), self.drive.amin((-2, -1)).clamp(max=0)
        return (high - low).reshape(-1, 1)

    def step(self, u: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Residual B - K f(u) - u, cell currents and their slopes at u, each (tiles, vectors, rows, cols)."""
        current, slope = self.cell.current_and_derivative(u, self.conductances)
        return self.drive - self.wires.drop(current) - u, current, slope

    def pick(self, keep: Tensor) -> Problem:
        """The problems at the flat positions ``keep`` as (picked, 1, ...) tiles of one vector each."""
        lead = self.drive.shape[:2]

        def flat(x: Tensor) -> Tensor:
            return x.expand(*lead, *x.shape[2:]).reshape(-1, 1, *x.shape[2:])[keep]

        def scalar(r: Tensor) -> Tensor:
            return flat(r) if r.dim() == 2 else r

        wires = Wires(*(scalar(r) if isinstance(r, Tensor) else r for r in vars(self.wires).values()))
        return Problem(flat(self.drive), flat(self.conductances), self.cell.map_tensors(scalar), wires)


class History:
    """The last differences of iterates and residuals, in ring buffers (problems, window, cells)."""

    def __init__(self, like: Tensor, dtype: torch.dtype | None = None) -> None:
        shape = (like.shape[0], _WINDOW, like.shape[1])
        self.dr = torch.zeros(shape, dtype=dtype or like.dtype, device=like.device)
        self.step = torch.zeros_like(self.dr)  # differences of x + r
        self.gram = torch.zeros(*shape[:2], _WINDOW, dtype=self.dr.dtype, device=like.device)
        self.pushed = 0

    def push(self, dx: Tensor, dr: Tensor) -> None:
        slot = self.pushed % _WINDOW
        self.pushed += 1
        self.dr[:, slot] = dr
        torch.add(dx, dr, out=self.step[:, slot])
        row = torch.bmm(self.dr, dr[:, :, None])[..., 0]
        self.gram[:, slot, :], self.gram[:, :, slot] = row, row

    def mix(self, r: Tensor) -> Tensor:
        """What to subtract from x + r so that the linearised residual is least."""
        right = torch.bmm(self.dr, r[:, :, None])
        diagonal = self.gram.diagonal(dim1=-2, dim2=-1)
        # Empty slots and stagnant directions get a unit pivot, so the system is always regular.
        largest = diagonal.amax(-1, keepdim=True)
        eps = torch.finfo(r.dtype).eps
        lift = torch.where(diagonal > 0, eps * diagonal, torch.where(largest > 0, largest, 1))
        weights = torch.linalg.solve_ex(self.gram + torch.diag_embed(lift), right)[0]
        return torch.bmm(weights.transpose(1, 2), self.step)[:, 0]

    def pick(self, keep: Tensor) -> None:
        self.step, self.dr, self.gram = self.step[keep], self.dr[keep], self.gram[keep]


def anderson(problem: Problem, tol: float, iterations: int, *, check: bool = True) -> tuple[Tensor, Tensor]:
    """Cell voltages (tiles, vectors, rows, cols) [V] and the share of current (problems,) that they miss.

    Stops when Kirchhoff's law holds to ``tol`` everywhere, or after ``iterations``; without ``check`` it always
    takes so many and knows no share (0).
    """
    shape, span = problem.shape, problem.span()
    x = problem.drive.expand(shape).flatten(0, 1).flatten(1)
    history = History(x)
    out, share = x.clone(), torch.zeros_like(span[:, 0])
    left = torch.arange(len(x), device=x.device)
    x_old = r_old = None
    for k in range(iterations):
        residual, current, slope = problem.step(x.reshape(problem.shape))
        r = residual.flatten(0, 1).flatten(1)
        if check:
            missed = missed_current(residual, current, slope, span, tol)
            out[left], share[left] = x, missed
            keep = (missed > tol).nonzero()[:, 0]
            if len(keep) == 0 or k == iterations - 1:
                return out.reshape(shape), share
            if len(keep) < _COMPACT * len(left):
                problem, x, r, span, left = problem.pick(keep), x[keep], r[keep], span[keep], left[keep]
                history.pick(keep)
                if x_old is not None and r_old is not None:
                    x_old, r_old = x_old[keep], r_old[keep]
        if x_old is None or r_old is None:
            x_new = x + r
        else:
            history.push(x - x_old, r - r_old)
            x_new = x + r - history.mix(r)
        x_old, r_old = x, r
        x = torch.minimum(torch.maximum(x_new, -span), span)
    return x.reshape(shape), share


def missed_current(residual: Tensor, current: Tensor, slope: Tensor, span: Tensor, tol: float) -> Tensor:
    """Largest share of a column current, (problems,), by which cells and wires disagree."""
    wrong = (slope * residual).abs().sum(-2).flatten(0, 1)  # (problems, cols)
    column = current.sum(-2).abs().flatten(0, 1)
    scale = torch.maximum(column, 1e-3 * column.amax(-1, keepdim=True))
    # Where the cells' currents cancel, no column holds the rounding errors of their voltages to ``tol``.
    rounding = _ROUNDING * torch.finfo(wrong.dtype).eps * span * slope.sum(-2).flatten(0, 1)
    scale = scale + rounding.amax(-1, keepdim=True) / tol
    # No current at all counts as solved only where nothing is missed either.
    share = torch.where(wrong == 0, torch.zeros_like(wrong), wrong / scale)
    return share.amax(-1).nan_to_num(nan=torch.inf)
