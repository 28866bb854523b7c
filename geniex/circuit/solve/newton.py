"""Newton's method on the cell voltages, with a Jacobian that the vectors of a tile share, or with one for each vector.

The residual r(u) = B - K f(u) - u has the Jacobian -(1 + K D), D = f'(u), which ``Elimination`` inverts.

``solve_shared_newton`` takes one elimination for all vectors of a tile, at the mean of their slopes, in single
precision, and Anderson mixing makes up for the difference. Its steps are GEMMs, and the residual stays in the
precision of the problem. The elimination is renewed where a step gains too little.

``solve_damped_newton`` gives every instance its own Jacobian and a step that is halved until ||r|| falls. 1 + K D is
regular for every D >= 0 (K is symmetric and positive semidefinite), so ||r|| has no minimum but the solution.
The method therefore converges from anywhere, for passive, monotone cells.
"""

from __future__ import annotations

import torch
from torch import Tensor

from geniex.circuit.solve.anderson import CHECK_EVERY, History, Problem
from geniex.circuit.solve.elimination import Elimination
from geniex.circuit.solve.fields import from_field, to_field

_SHARED_STEPS = 30
_DAMPED_STEPS = 100
_HALVINGS = 40
_RENEW = 0.15
"""Share of the missed current; a step that leaves more than this causes the elimination to be renewed."""
_FAR = 0.3
"""Missed share above which the slopes still change too much for mixing to help."""
_PATIENCE = 4
"""Steps that mixing is given below ``_FAR`` before the elimination is renewed."""
_NEAR = 10
"""Multiple of the tolerance below which the elimination is kept, however little a step gains."""
_SETTLED = 3e-3
"""Missed share below which the slopes are kept, because cell voltages, and so slopes, change no more than that."""
_GIVE_UP = 0.95
"""Share of the missed current above which a step counts as no gain; after ``_STALLS`` such steps in a row the
instances are left to damped Newton."""
_STALLS = 4


def solve_shared_newton(problem: Problem, tol: float) -> tuple[Tensor, Tensor]:
    """Cell voltages (cols, tiles, rows, vectors) [V] and the share of current (tiles, vectors) that they miss."""
    wires, span = problem.wires, problem.span()
    g = from_field(problem.conductances)
    at_rest = to_field(problem.cell.derivative(torch.zeros_like(g), g)).float()
    elimination = Elimination(at_rest.mean(-1, keepdim=True), wires)
    x = _clamped(elimination.solve(problem.drive.expand(problem.shape).float()).to(span.dtype), span)
    history = History(x, torch.float32)
    r_old = step = None
    every = CHECK_EVERY.get(x.device.type, 1)
    worst, stalls, renewed = torch.inf, 0, 0
    for k in range(_SHARED_STEPS):
        if worst > _SETTLED:
            residual, columns, slope = problem.step(x)
            slope = slope.float()
        else:
            residual, columns = problem.residual(x)
        residual = residual.float()
        last = k == _SHARED_STEPS - 1
        if last or k % every == 0:
            missed = problem.missed(residual, columns, slope, tol)
            now = float(missed.max())
            stalls = stalls + 1 if now > _GIVE_UP * worst else 0
            if now <= tol or stalls == _STALLS or last:
                break
            slow = now > max(_RENEW * worst, _NEAR * tol) and k - renewed >= _PATIENCE
            if now > _FAR or slow:
                renewed = k
                elimination = Elimination(slope.mean(-1, keepdim=True), wires)
                history, r_old = History(x, torch.float32), None
            worst = now
        r = elimination.solve(residual)
        if r_old is None or step is None:
            change = r
        else:
            history.push(step, r - r_old)
            change = r - history.mix(r)
        x_old = x
        x = _clamped(x + change, span)
        r_old, step = r, (x - x_old).float()
    return x, missed


def step_shared_newton(problem: Problem) -> Tensor:
    """Cell voltages after one step of ``solve_shared_newton``, which looks at no values and takes its memory."""
    span = problem.span()
    g = from_field(problem.conductances)
    at_rest = to_field(problem.cell.derivative(torch.zeros_like(g), g)).float()
    elimination = Elimination(at_rest.mean(-1, keepdim=True), problem.wires)
    x = _clamped(elimination.solve(problem.drive.expand(problem.shape).float()).to(span.dtype), span)
    history = History(x, torch.float32)
    residual, _, slope = problem.step(x)
    residual, slope = residual.float(), slope.float()
    elimination = Elimination(slope.mean(-1, keepdim=True), problem.wires)  # beside the one that it takes the place of
    r = elimination.solve(residual)
    history.push(r, r)
    return _clamped(x + (r - history.mix(r)), span)


def solve_damped_newton(problem: Problem, u: Tensor, tol: float) -> tuple[Tensor, Tensor]:
    """The results of ``solve_shared_newton`` for tiles of one vector, each with its own Jacobian, from the start ``u``
    (cols, tiles, rows, 1)."""
    span = problem.span()
    # Where the start is far off, its slopes are too steep for any arithmetic, and 0 V is a better start.
    wild = ~(_norm(problem, u) <= _norm(problem, torch.zeros_like(u)))
    u = torch.where(wild[:, None], 0, u)
    left = torch.arange(u.shape[1], device=u.device)
    out, missed_out = u.clone(), torch.full_like(span[:, 0], torch.inf)
    for _ in range(_DAMPED_STEPS):
        residual, columns, slope = problem.step(u)
        missed = problem.missed(residual, columns, slope, tol)
        out[:, left], missed_out[left] = u, missed
        keep = (missed[:, 0] > tol).nonzero()[:, 0]
        if keep.numel() == 0:
            break
        problem, left = problem.pick(keep), left[keep]
        u, residual, slope = u[:, keep], residual[:, keep], slope[:, keep]
        step = Elimination(slope, problem.wires).solve(residual)
        u = _line_search(problem, u, residual, step)
    return out, missed_out


def _line_search(problem: Problem, u: Tensor, residual: Tensor, step: Tensor) -> Tensor:
    """u + a step, for each instance with the largest a = 1, 1/2, 1/4... that makes ||r|| fall."""
    before = _length(residual)
    a = torch.ones_like(before)
    for _ in range(_HALVINGS):
        trial = u + a[:, None] * step
        worse = ~(_norm(problem, trial) <= (1 - 1e-4 * a) * before)
        if not worse.any():
            break
        a = torch.where(worse, a / 2, a)
    return trial


def _norm(problem: Problem, u: Tensor) -> Tensor:
    """The norm ||r|| (tiles, 1) of tiles of one vector each."""
    return _length(problem.residual(u)[0])


def _length(field: Tensor) -> Tensor:
    return field.square().sum((0, 2)).sqrt()


def _clamped(x: Tensor, span: Tensor) -> Tensor:
    """Cell voltages clamped to the range of a passive network; values that are not finite are replaced too."""
    return torch.clamp(x.nan_to_num_(nan=0.0), -span, span, out=x)
