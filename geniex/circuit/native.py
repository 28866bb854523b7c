"""Kirchhoff's equations of a non-linear crossbar, solved exactly in batches, with implicit gradients.

The wires are linear, so a set of cell voltages u solves the circuit when u = B - K f(u; G), where B holds
the drive and K is the wires' operator (``geniex.circuit.wires``). Anderson mixing of this fixed point takes
5 to 12 evaluations on arrays like GENIEx's. Node voltages of a passive network lie between the drives and
ground, so iterates are clamped to that range and a sinh does not run away.

What counts as solved is the current that Kirchhoff's law misses: with residual r = B - K f(u) - u the cells
of column j disagree with their wires by at most sum_i |f'(u_ij) r_ij|, which must be at most
tol * max(|I_j|, 1e-3 max_j |I_j|), or what rounding leaves.

Gradients do not unroll the iteration. At the solution, u(p) = B(p) - K(p) f(u; p) for all parameters p
(drives, conductances, wire and cell scalars), so with D = df/du

    (1 + K D) du = dh,    dh = the change of h = B - K f(u) at fixed u.

``h`` is evaluated once more with autograd, which knows dh; ``_ImplicitStep`` multiplies by (1 + K D)^-1. Its
transpose acts on a cotangent w as (1 + D K)^-1 w = w - D z, z = K w - K D z: the fixed point of an array of
*linear* cells of conductance D driven by K w. The backward pass is therefore one more call of this solver,
its memory does not depend on the number of iterations, and it serves every output (currents, voltages,
power).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from geniex.cells import Cell, LinearCell
from geniex.circuit.anderson import Problem, anderson
from geniex.circuit.broadcast import Groups
from geniex.circuit.wires import Scalar, Wires
from geniex.errors import ConvergenceError, InputError

_WORKSPACE_BYTES = {"cpu": 24 << 20, "cuda": 2 << 30}
"""Bytes of iterates in flight; on the CPU what the caches hold well, on a GPU what keeps it busy."""
MAX_ITERATIONS = 200
DEFAULT_TOL = {torch.float64: 1e-9, torch.float32: 1e-4}
_TIGHTEST = {torch.float64: 1e-13, torch.float32: 1e-5}
_COPIES = 16
"""Tensors of the size of the iterate that Anderson mixing keeps per problem."""


class Solution(NamedTuple):
    """What the circuit does: everything else (node voltages, powers) follows from it."""

    currents: Tensor
    """Column currents (..., cols) [A]."""
    cell_voltages: Tensor
    """Word-line minus bit-line voltage at each cell (..., rows, cols) [V]."""


def solve_cells(
    voltages: Tensor,
    conductances: Tensor,
    cell: Cell,
    wires: Wires,
    *,
    tol: float | None = None,
    iterations: int | None = None,
) -> Solution:
    """Column currents and cell voltages for V (..., rows) [V] and G (..., rows, cols) [S].

    Args:
        voltages: driver voltages; leading dimensions broadcast with the conductances'.
        conductances: small-signal cell conductances.
        cell: the cells' I-V model.
        wires: resistances; tensors among them broadcast against the leading dimensions.
        tol: relative current tolerance; None means 1e-9 in float64 and 1e-4 in float32.
        iterations: run exactly so many without any check (no host synchronisation); ``tol`` is then unused.

    Raises:
        ConvergenceError: an array did not reach ``tol`` within 200 iterations.
    """
    tol = _checked_tol(tol, voltages.dtype)
    drive = voltages[..., None].expand(*voltages.shape, conductances.shape[-1])
    with torch.no_grad():
        u = fixed_point(drive, conductances, cell, wires, tol=tol, iterations=iterations)
    if torch.is_grad_enabled() and _any_requires_grad(voltages, conductances, cell, wires):
        h = drive - wires.drop(cell.current(u, conductances))
        u = _ImplicitStep.apply(h, u, cell.derivative(u, conductances).detach(), wires, tol, iterations)
    return Solution(cell.current(u, conductances).sum(-2), u)


def fixed_point(
    drive: Tensor,
    conductances: Tensor,
    cell: Cell,
    wires: Wires,
    *,
    tol: float,
    iterations: int | None = None,
) -> Tensor:
    """Cell voltages u = B - K f(u; G) [V] for a drive B that broadcasts to (..., rows, cols) [V]."""
    lead = torch.broadcast_shapes(drive.shape[:-2], conductances.shape[:-2])
    rows, cols = conductances.shape[-2:]
    groups = Groups(lead, conductances.shape[:-2])
    g = conductances.reshape(-1, 1, rows, cols)
    b = groups.gather(drive.expand(*lead, *drive.shape[-2:]))
    scalars = [groups.gather_scalar(r) for r in vars(wires).values()]

    size = drive.element_size() * rows * cols * _COPIES
    budget = max(1, _WORKSPACE_BYTES.get(drive.device.type, 256 << 20) // size)
    vectors = max(1, min(b.shape[1], budget))
    tiles = max(1, budget // vectors)
    out = torch.empty(*b.shape[:2], rows, cols, dtype=b.dtype, device=b.device)
    for t in range(0, b.shape[0], tiles):
        for v in range(0, b.shape[1], vectors):
            part = Wires(*(_block(r, t, tiles, v, vectors) for r in scalars))
            problem = Problem(b[t : t + tiles, v : v + vectors], g[t : t + tiles], cell, part)
            result = anderson(problem, tol, iterations or MAX_ITERATIONS, check=iterations is None)
            if result.failed is not None:
                _raise_unconverged(result.failed, t, v, groups, tol)
            out[t : t + tiles, v : v + vectors] = result.u
    return groups.scatter(out)


class _ImplicitStep(torch.autograd.Function):
    """Identity on the solution; its backward multiplies by (1 + D K)^-1, see the module's derivation."""

    @staticmethod
    def forward(
        ctx: Any, h: Tensor, u: Tensor, slope: Tensor, wires: Wires, tol: float, iterations: int | None
    ) -> Tensor:
        ctx.save_for_backward(slope)
        ctx.wires, ctx.tol, ctx.iterations = _detached(wires), tol, iterations
        return u.clone()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, w: Tensor) -> tuple[Tensor, None, None, None, None, None]:
        (slope,) = ctx.saved_tensors
        z = fixed_point(ctx.wires.drop(w), slope, LinearCell(), ctx.wires, tol=ctx.tol, iterations=ctx.iterations)
        return w - slope * z, None, None, None, None, None


def _raise_unconverged(failed: tuple[int, int, float, int], tile: int, vector: int, groups: Groups, tol: float) -> None:
    t, v, residual, count = failed
    where = groups.index(tile + t, vector + v)
    raise ConvergenceError(
        f"at least {count} arrays did not converge, the worst at leading index {where}: Kirchhoff's law is"
        f" missed by {residual:.2g} of the column current (tol={tol:g}) after {MAX_ITERATIONS} iterations;"
        " lower the voltages, the conductances or the wire resistances, loosen tol, or use method='ngspice'"
    )


def _checked_tol(tol: float | None, dtype: torch.dtype) -> float:
    if tol is None:
        return DEFAULT_TOL[dtype]
    if not _TIGHTEST[dtype] <= tol < 1:
        raise InputError("tol", tol, f"in {dtype} it must be at least {_TIGHTEST[dtype]:g} and below 1")
    return tol


def _any_requires_grad(voltages: Tensor, conductances: Tensor, cell: Cell, wires: Wires) -> bool:
    values: list[Any] = [voltages, conductances, *vars(wires).values(), *vars(cell).values()]
    return any(isinstance(v, Tensor) and v.requires_grad for v in values)


def _detached(wires: Wires) -> Wires:
    pick: Callable[[Scalar], Scalar] = lambda r: r.detach() if isinstance(r, Tensor) else r  # noqa: E731
    return Wires(*(pick(r) for r in vars(wires).values()))


def _block(value: Scalar, t: int, tiles: int, v: int, vectors: int) -> Scalar:
    if isinstance(value, Tensor) and value.dim() == 2:
        return value[t : t + tiles, v : v + vectors]
    return value
