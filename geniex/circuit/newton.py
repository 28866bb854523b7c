"""Newton's method on the cell voltages: shared by the vectors of a tile where that is fast, exact where it is hard.

The residual r(u) = B - K f(u) - u has the Jacobian -(1 + K D), D = f'(u), which ``Elimination`` inverts.

``shared_newton`` takes one elimination for all vectors of a tile, at the mean of their slopes, in single precision
and lets Anderson mixing make up for the difference: its steps are GEMMs, and the residual stays in the problem's
precision. The elimination is renewed where a step gains too little.

``damped_newton`` gives every instance its own Jacobian and a step that is halved until ||r|| falls. 1 + K D is
regular for every D >= 0 (K is symmetric and positive semidefinite), so that ||r|| has no minimum but the solution:
it converges from anywhere, for passive, monotone cells.
"""

from __future__ import annotations

import torch
from torch import Tensor

from geniex.circuit.anderson import History, Problem, missed_current
from geniex.circuit.elimination import Elimination
from geniex.circuit.wires import Wires

_SHARED_STEPS = 30
_DAMPED_STEPS = 100
_HALVINGS = 40
_RENEW = 0.15
"""The elimination is renewed after a step that leaves more than this share of the missed current."""
_FAR = 0.3
"""Missed share above which slopes still change too much for mixing to help."""
_PATIENCE = 4
"""Steps that mixing is given nearer the solution, before the elimination is renewed."""
_GIVE_UP = 0.95
"""Share that counts as no gain; after ``_STALLS`` such steps in a row the instances are left to damped Newton."""
_STALLS = 4


def shared_newton(problem: Problem, tol: float) -> tuple[Tensor, Tensor]:
    """Cell voltages (tiles, vectors, rows, cols) [V] and the share of current (problems,) that they miss."""
    lead, shape = problem.drive.shape[:2], problem.shape
    wires = _tile_wires(problem.wires)
    factor_dtype = torch.float32 if problem.drive.dtype == torch.float64 else problem.drive.dtype
    at_rest = problem.cell.derivative(torch.zeros_like(problem.conductances), problem.conductances)
    elimination = Elimination(at_rest.mean(1), wires, factor_dtype)
    span = problem.span()
    x = _clamped(elimination.solve(problem.drive.expand(shape)).flatten(0, 1).flatten(1), span)
    history = History(x, factor_dtype)
    r_old = step = None
    worst, stalls, renewed = torch.inf, 0, 0
    for k in range(_SHARED_STEPS):
        residual, current, slope = problem.step(x.reshape(shape))
        missed = missed_current(residual, current, slope, span, tol)
        now = float(missed.max())
        stalls = stalls + 1 if now > _GIVE_UP * worst else 0
        if now <= tol or stalls == _STALLS or k == _SHARED_STEPS - 1:
            break
        if now > _FAR or (now > _RENEW * worst and k - renewed >= _PATIENCE):
            renewed = k
            elimination = Elimination(slope.reshape(*lead, *shape[2:]).mean(1), wires, factor_dtype)
            history, r_old = History(x, factor_dtype), None
        r = elimination.solve(residual).flatten(0, 1).flatten(1).to(factor_dtype)
        if r_old is None or step is None:
            change = r
        else:
            history.push(step, r - r_old)
            change = r - history.mix(r)
        worst, x_old = now, x
        x = _clamped(x + change, span)
        r_old, step = r, (x - x_old).to(factor_dtype)
    return x.reshape(shape), missed


def damped_newton(problem: Problem, u: Tensor, tol: float) -> tuple[Tensor, Tensor]:
    """As ``shared_newton``, for instances (problems, 1, ...) one by one, from ``u`` (problems, 1, rows, cols)."""
    span = problem.span()
    # Where the start is wild, its slopes are too steep for any arithmetic: rest is a better one.
    wild = ~(_norm(problem, u) <= _norm(problem, torch.zeros_like(u)))
    u = torch.where(wild[:, None, None, None], 0, u)
    left = torch.arange(u.shape[0], device=u.device)
    out, missed_out = u.clone(), torch.full((u.shape[0],), torch.inf, dtype=u.dtype, device=u.device)
    for _ in range(_DAMPED_STEPS):
        residual, current, slope = problem.step(u)
        missed = missed_current(residual, current, slope, span, tol)
        out[left], missed_out[left] = u, missed
        keep = (missed > tol).nonzero()[:, 0]
        if keep.numel() == 0:
            break
        problem, left, span = problem.pick(keep), left[keep], span[keep]
        u, residual, slope = u[keep], residual[keep], slope[keep]
        step = Elimination(slope[:, 0], _tile_wires(problem.wires), u.dtype).solve(residual)
        u = _line_search(problem, u, residual, step)
    return out, missed_out


def _line_search(problem: Problem, u: Tensor, residual: Tensor, step: Tensor) -> Tensor:
    """u + a step with the largest a = 1, 1/2, 1/4... that makes ||r|| fall, instance by instance."""
    before = residual.flatten(1).norm(dim=1)
    a = torch.ones_like(before)
    for _ in range(_HALVINGS):
        trial = u + a[:, None, None, None] * step
        after = _norm(problem, trial)
        worse = ~(after <= (1 - 1e-4 * a) * before)
        if not worse.any():
            break
        a = torch.where(worse, a / 2, a)
    return trial


def _norm(problem: Problem, u: Tensor) -> Tensor:
    """||r|| (problems,) of instances (problems, 1, rows, cols)."""
    return problem.step(u)[0].flatten(1).norm(dim=1)


def _clamped(x: Tensor, span: Tensor) -> Tensor:
    """Cell voltages within what a passive network can hold; also where they are not finite."""
    return torch.minimum(torch.maximum(x.nan_to_num(nan=0.0), -span), span)


def _tile_wires(wires: Wires) -> Wires:
    """One value a tile of resistances (tiles, vectors)."""
    return Wires(*(r.mean(1) if isinstance(r, Tensor) and r.dim() == 2 else r for r in vars(wires).values()))
