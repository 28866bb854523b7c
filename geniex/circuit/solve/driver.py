"""Kirchhoff's equations of a non-linear crossbar, solved exactly in batches, with implicit gradients.

The wires are linear, so a set of cell voltages u solves the circuit when u = B - K f(u; G), where B holds
the drive and K is the wires' operator (``geniex.circuit.wires``). There are three methods. Anderson mixing of this
fixed point takes a few passes over the cells, and serves tiles with few vectors. Newton's method with one
linearisation for all vectors of a tile serves tiles with many. Damped Newton converges from anywhere, and serves
the instances that those two leave unsolved (``geniex.circuit.solve.newton``). The node voltages of a passive network
lie between the drives and ground, so the iterates of the fast methods are clamped to that range, and a sinh cannot
run away.

An array counts as solved by the current that Kirchhoff's law misses. With residual r = B - K f(u) - u, the cells
of column j disagree with their wires by at most sum_i |f'(u_ij) r_ij|, which must be at most
tol * max(|I_j|, 1e-3 max_j |I_j|), or the error that rounding leaves.

Gradients do not unroll the iteration. At the solution, u(p) = B(p) - K(p) f(u; p) for all parameters p
(drives, conductances, wire and cell scalars), so with D = df/du

    (1 + K D) du = dh,    dh = the change of h = B - K f(u) at fixed u.

``h`` is evaluated once more with autograd, which knows dh; ``geniex.circuit.solve.implicit`` multiplies by
(1 + K D)^-1. Its transpose acts on a cotangent w as (1 + D K)^-1 w = w - D z, z = K w - K D z: the fixed point of an
array of *linear* cells of conductance D driven by K w. The backward pass is therefore one more call of this solver.
Its memory does not depend on the number of iterations, and it serves every output (currents, voltages, power).
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from geniex.cells import Cell, LinearCell
from geniex.circuit.broadcast import Groups
from geniex.circuit.checks import has_values
from geniex.circuit.solve.anderson import Problem, pick, solve_by_mixing
from geniex.circuit.solve.fields import from_field, to_field, turn, turn_wires
from geniex.circuit.solve.implicit import attach_gradient
from geniex.circuit.solve.newton import solve_damped_newton, solve_shared_newton, step_shared_newton
from geniex.circuit.wires import Wires
from geniex.errors import ConvergenceError, ConvergenceWarning, InputError
from geniex.workspace import workspace_bytes

OnFailure = Literal["raise", "warn"]
_WORKSPACE_BYTES = {"cpu": 32 << 20, "cuda": 2 << 30}
"""Bytes of iterates in flight: as many as a CPU's caches hold well, or as keep a GPU busy."""
_TRIM_BYTES = 30 << 20
"""Size of the block that is freed once, just below the 32 MiB from which the C library keeps no freed block."""
_NEWTON_BYTES = 512 << 20
"""Bytes of eliminations in flight where instances are solved one by one."""
_SHARING = 8
"""Vectors per tile from which one elimination for all pays, if they are also at least a fourth of its shorter side."""
_VECTORS = 128
"""Vectors per chunk, whatever their size, where an elimination is shared; smaller chunks would repeat it."""
_FEW = 3
"""Vectors per tile from which a shared elimination is also tried on tiles that mixing alone did not solve."""
_ITERATIONS = 24
"""Anderson steps before an instance counts as hard."""
DEFAULT_TOL = {torch.float64: 1e-9, torch.float32: 1e-4}
_TIGHTEST = {torch.float64: 1e-13, torch.float32: 1e-5}
_UNSEEN_ITERATIONS = 3
"""Anderson steps of tensors without values, which tell shapes and memory alone: from the third on both are the same."""
_COPIES = 16
"""Tensors of the size of the iterate that Anderson mixing keeps per problem."""


class Solution(NamedTuple):
    """The solution of the circuit, from which all else (node voltages, powers) follows."""

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
    on_failure: OnFailure = "raise",
) -> Solution:
    """Column currents and cell voltages for V (..., rows) [V] and G (..., rows, cols) [S].

    Args:
        voltages: driver voltages; their leading dimensions broadcast with those of the conductances.
        conductances: cell conductances G, as the cell model defines them.
        cell: the cells' I-V model.
        wires: resistances; tensors among them broadcast against the leading dimensions.
        tol: relative current tolerance; None means 1e-9 in float64 and 1e-4 in float32.
        iterations: number of Anderson steps to run without any check (no host synchronisation); ``tol`` is then unused.
        on_failure: "raise" a ``ConvergenceError``, or "warn" with a ``ConvergenceWarning`` and return the last iterate.

    Tensors without values (fake ones, those of the meta device) give solutions without values.

    Raises:
        ConvergenceError: an array did not reach ``tol``; the message names its index and how far it got.
    """
    tol = _checked_tol(tol, voltages.dtype)
    method = _Method(tol, iterations, on_failure, conductances.shape[:-2])
    drive = voltages[..., None]
    with torch.no_grad():
        u = solve_fixed_point(drive, conductances, cell, wires, method)
    if torch.is_grad_enabled() and _any_requires_grad(voltages, conductances, cell, wires):
        h = drive - wires.drop(cell.current(u, conductances))
        slopes = cell.derivative(u, conductances).detach()
        fixed = wires.detached()
        u = attach_gradient(h, u, slopes, fixed, lambda d, b: solve_fixed_point(b, d, LinearCell(), fixed, method))
    return Solution(cell.current(u, conductances).sum(-2), u)


class _Method(NamedTuple):
    """The settings of the solver, for the forward and the backward pass."""

    tol: float
    iterations: int | None
    on_failure: OnFailure
    tiles: torch.Size
    """Leading dimensions of the conductances; along all others, vectors share a tile."""


def solve_fixed_point(drive: Tensor, conductances: Tensor, cell: Cell, wires: Wires, method: _Method) -> Tensor:
    """Cell voltages u = B - K f(u; G) [V] for a drive B that broadcasts to (..., rows, cols) [V]."""
    lead = torch.broadcast_shapes(drive.shape[:-2], conductances.shape[:-2])
    turned = conductances.shape[-2] > conductances.shape[-1]
    if turned:  # an elimination costs rows^3 cols
        drive, conductances, wires = turn(drive), turn(conductances), turn_wires(wires)
    rows, cols = conductances.shape[-2:]
    groups = Groups(lead, method.tiles)
    if conductances.shape[:-2] == method.tiles:
        g = conductances.reshape(-1, 1, rows, cols)
    else:
        g = groups.gather(conductances.expand(*lead, rows, cols))
    b = groups.gather(drive.expand(*lead, *drive.shape[-2:]))
    wires = Wires(*(groups.gather_scalar(r) for r in vars(wires).values()))
    cell = cell.map_tensors(lambda r: torch.as_tensor(groups.gather_scalar(r)))

    if b.device.type == "cpu":
        _keep_freed_memory()
    # The output is laid out like the fields, which spares a transposed copy.
    out = from_field(torch.empty(cols, b.shape[0], rows, b.shape[1], dtype=b.dtype, device=b.device))
    missed = torch.zeros(b.shape[:2], dtype=b.dtype, device=b.device)
    for block in _blocks(b, rows, cols):
        problem = _block(b, g, cell, wires, turned, block)
        if method.iterations is not None:
            u, _ = solve_by_mixing(problem, method.tol, method.iterations, check=False)
        elif has_values(b):
            u, missed[block] = _solved(problem, method.tol)
        else:  # of this block as of all others, none of which is larger
            out[block] = from_field(_unseen(problem, method.tol))
            break
        out[block] = from_field(u)
    if method.iterations is None and has_values(b):
        _report_unsolved(missed, groups, method)
    out = groups.scatter(out)
    return turn(out) if turned else out


def _keep_freed_memory() -> None:
    """Let the C library's allocator reuse temporaries. It returns freed memory to the system beyond twice the largest
    block that it has seen freed (mallopt(3), M_TRIM_THRESHOLD), and each fresh page of a field then costs a fault."""
    torch.empty(_TRIM_BYTES, dtype=torch.uint8)


def _blocks(drive: Tensor, rows: int, cols: int) -> Iterator[tuple[slice, slice]]:
    """Yields slices (tiles, vectors) that split the drive into parts that fit the workspace."""
    tiles, vectors = drive.shape[:2]
    size = drive.element_size() * rows * cols * _COPIES
    budget = max(1, workspace_bytes(_WORKSPACE_BYTES.get(drive.device.type, 256 << 20)) // size)
    if _is_shared(vectors, rows, cols):
        budget = max(budget, min(vectors, _VECTORS))
    vector_step = max(1, min(vectors, budget))
    tile_step = max(1, budget // vector_step)
    for t in range(0, tiles, tile_step):
        for v in range(0, vectors, vector_step):
            yield slice(t, t + tile_step), slice(v, v + vector_step)


def _block(
    drive: Tensor, conductances: Tensor, cell: Cell, wires: Wires, turned: bool, at: tuple[slice, slice]
) -> Problem:
    """The part ``at`` (tiles, vectors) of the problem, with its fields in the order that the methods take."""
    pick: Callable[[Tensor], Tensor] = lambda r: r[at] if r.dim() == 2 else r  # noqa: E731
    g = conductances[at] if conductances.shape[1] > 1 else conductances[at[0]]
    return Problem(
        to_field(drive[at]).contiguous(),
        to_field(g).contiguous(),
        cell.map_tensors(pick),
        Wires(*(pick(r) if isinstance(r, Tensor) else r for r in vars(wires).values())),
        turned,
    )


def _solved(problem: Problem, tol: float) -> tuple[Tensor, Tensor]:
    """The cell voltages and missed shares by the fast methods, then by damped Newton for the instances that they left,
    in chunks that fit the memory."""
    cols, _, rows, vectors = problem.shape
    if _is_shared(vectors, rows, cols):
        u, missed = solve_shared_newton(problem, tol)
    else:
        u, missed = solve_by_mixing(problem, tol, _ITERATIONS)
        tiles = (missed > tol).any(1).nonzero()[:, 0]
        if vectors >= _FEW and len(tiles):
            u[:, tiles], missed[tiles] = solve_shared_newton(problem.tiles(tiles), tol)
    hard = (missed.flatten() > tol).nonzero()[:, 0]
    if len(hard) == 0:
        return u, missed
    size = 4 * u.element_size() * rows * cols * rows
    for part in hard.split(max(1, _NEWTON_BYTES // size)):
        solved, share = solve_damped_newton(problem.pick(part), pick(u, part, vectors), tol)
        u[:, part // vectors, :, part % vectors] = solved[..., 0].transpose(0, 1)
        missed.view(-1)[part] = share[:, 0]
    return u, missed


def _unseen(problem: Problem, tol: float) -> Tensor:
    """Cell voltages of tensors without values, made in about the memory that solving with values takes."""
    cols, _, rows, vectors = problem.shape
    if not _is_shared(vectors, rows, cols):
        return solve_by_mixing(problem, tol, _UNSEEN_ITERATIONS, check=False)[0]
    return step_shared_newton(problem)


def _is_shared(vectors: int, rows: int, cols: int) -> bool:
    return vectors >= max(_SHARING, min(rows, cols) // 4)


def _report_unsolved(missed: Tensor, groups: Groups, method: _Method) -> None:
    count = int((missed > method.tol).sum())
    if count == 0:
        return
    tile, vector = divmod(int(missed.argmax()), missed.shape[1])
    message = (
        f"{count} of {missed.numel()} arrays did not converge; the worst is at leading index"
        f" {groups.index(tile, vector)}, where Kirchhoff's law is missed by {float(missed.max()):.2g} of the column"
        f" current, while tol={method.tol:g} is allowed; loosen tol, use float64, lower the voltages or the wire"
        " resistances, or use method='ngspice'"
    )
    if method.on_failure == "raise":
        raise ConvergenceError(message)
    warnings.warn(message, ConvergenceWarning, stacklevel=4)


def _checked_tol(tol: float | None, dtype: torch.dtype) -> float:
    if tol is None:
        return DEFAULT_TOL[dtype]
    if not _TIGHTEST[dtype] <= tol < 1:
        raise InputError("tol", tol, f"for {dtype} it must be at least {_TIGHTEST[dtype]:g} and below 1")
    return tol


def _any_requires_grad(voltages: Tensor, conductances: Tensor, cell: Cell, wires: Wires) -> bool:
    values: list[Any] = [voltages, conductances, *vars(wires).values(), *cell.tensors()]
    return any(isinstance(v, Tensor) and v.requires_grad for v in values)
