"""``geniex bench solver``: time, error and memory of the native solver, and of rival solvers in a checkout."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import product
from typing import NamedTuple

import torch
from torch import Tensor

from geniex.bench.circuits import CELLS, Case, Problem
from geniex.bench.extension import ABSENT, Extension, Note
from geniex.bench.memory import MemoryMeter
from geniex.bench.solver_models import Answer, Native, Solver
from geniex.bench.solver_report import BackwardRow, GrowthRow, ResponseRow, Row, SolverReport, SolverSettings
from geniex.bench.timing import Timing, describe_machine, fit_growth, time_in_turns, use_torch_threads
from geniex.cells import SinhCell
from geniex.circuit.metrics import relative_error
from geniex.errors import ConvergenceError, GeniexError

_CIRCUITS = ("easy", "hard", "hard 2 V")
_MANY = 100
"""Vectors per tile in the second run of each case; the first run has one vector."""
_WITNESSED = 3
"""Vectors of a case whose currents are compared with the reference, for tiles up to ``_WITNESS_SIZE``; else one."""
_WITNESS_SIZE = 64
_COUNTED = 10
"""Vectors of a case on which iterations are counted."""
_RESPONSE_BYTES = 32 << 20
"""Bytes that limit the tiles in a timed batch of ``effective_conductance``, at 8 size^3 bytes per tile."""
_UNIT_DRIVES = 8
"""Rows of a transfer matrix that are compared with an independent solver's, approximately."""
_LARGEST_RIVAL_RESPONSE = 128
"""Largest tile whose whole transfer matrix an independent solver computes."""


def bench_solver(
    settings: SolverSettings, note: Note = lambda _: None, extension: Extension | None = None
) -> SolverReport:
    """The native solver timed and checked, beside every rival of the ``extension`` that this machine has."""
    # Work that is not timed uses no more cores either: on a busy machine, threads that wait for each other are slow.
    with use_torch_threads(settings.threads[0]):
        return _bench(settings, note, extension or Extension(), () if extension else (ABSENT,))


def _bench(settings: SolverSettings, note: Note, extension: Extension, notes: tuple[str, ...]) -> SolverReport:
    every: list[Solver] = [Native(), Native(torch.float32), *extension.solvers(settings)]
    solvers = [solver for solver in every if solver.missing is None]
    taken = describe_machine()  # the machine's load before the benchmark adds to it
    rows: list[Row] = []
    with MemoryMeter() as meter:
        for case in _cases(settings, extension):
            note(str(case))
            rows += _measure(case, solvers, settings, extension, meter if settings.memory else None)
    note("linear response")
    responses = [
        _response(size, threads, settings, extension) for size in settings.sizes for threads in settings.threads
    ]
    backward = []
    for case in _backward_cases(settings):
        note(f"gradient of {case}")
        backward.append(_backward(case, settings))
    if not settings.ngspice:
        notes = (*notes, "ngspice was not run")
    notes = (*notes, *(f"{solver.name} left out: {solver.missing}" for solver in every if solver.missing is not None))
    report = SolverReport(
        settings=settings,
        machine=taken,
        notes=notes,
        rows=tuple(rows),
        responses=tuple(responses),
        backward=tuple(backward),
        growth=tuple(_growth(rows, settings)),
        accuracy=tuple(extension.campaigns(settings, note)),
    )
    return replace(report, bars=extension.solver_bars(report))


def _cases(settings: SolverSettings, extension: Extension) -> Iterator[Case]:
    for size, cell, circuit in product(settings.sizes, CELLS, _CIRCUITS):
        yield Case(size, cell, circuit)
    yield from extension.cases(settings)


class _Run(NamedTuple):
    """One contender's run of a case."""

    solver: Solver
    vectors: int
    """Input vectors per tile in the case."""
    solved: int
    """Number of these vectors that the contender was given."""
    timing: Timing[Answer]

    @property
    def seconds(self) -> float | None:
        """The median time per vector."""
        return None if self.timing.median is None else self.timing.median / self.solved


def _measure(
    case: Case, solvers: Sequence[Solver], settings: SolverSettings, extension: Extension, meter: MemoryMeter | None
) -> Iterator[Row]:
    """The rows of one case for each number of threads; all solvers run in turns, with one vector and with many."""
    problem = case.problem(_MANY, settings.seed)
    reference, expected = _reference(problem, extension)
    for threads in settings.threads:
        first = threads == settings.threads[0]
        runs = _timed(problem, [solver for solver in solvers if first or solver.threaded], threads, settings)
        native = {run.vectors: run.seconds for run in runs if run.solver == Native()}
        for run in runs:
            base, answer = native[run.vectors], run.timing.result
            yield Row(
                **asdict(case),
                vectors=run.vectors,
                threads=threads,
                contender=run.solver.name,
                solved=run.solved,
                seconds_per_vector=run.seconds,
                runs=len(run.timing.seconds),
                ratio=run.seconds / base if run.seconds and base else None,
                error=None if answer is None else _common_error(answer.currents, expected),
                reference=None if expected is None else reference,
                iterations=_iterations(run, problem) if first else None,
                peak_bytes=_peak(meter, run, case, settings.seed) if first else None,
                failure=run.timing.failure,
            )


def _timed(problem: Problem, solvers: Sequence[Solver], threads: int, settings: SolverSettings) -> list[_Run]:
    given = [(solver, n, solver.vectors(problem.first(n))) for solver in solvers for n in (1, _MANY)]
    given = [(solver, n, solved) for solver, n, solved in given if solved]
    # A solver that is given one vector of many would solve the same problem twice; it is timed once.
    entries = {(solver, solved): solver.prepare(problem.first(solved)) for solver, _, solved in given}
    with use_torch_threads(threads):
        timings = time_in_turns(entries, settings.repeats, settings.patience)
    return [_Run(solver, n, solved, timings[solver, solved]) for solver, n, solved in given]


def _reference(problem: Problem, extension: Extension) -> tuple[str, Tensor | None]:
    """The name of the reference and its tight solution for the first vectors, which is None if there is none."""
    few = problem.first(_WITNESSED if problem.crossbar.rows <= _WITNESS_SIZE else 1)
    try:
        return extension.reference(few) or ("native, tight", Native(tol=1e-12).prepare(few)().currents)
    except GeniexError:
        return "none", None


def _common_error(currents: Tensor, expected: Tensor | None) -> float | None:
    if expected is None:
        return None
    count = min(len(currents), len(expected))
    return _largest_error(currents[:count], expected[:count])


def _largest_error(currents: Tensor, expected: Tensor) -> float:
    return relative_error(expected, currents).max().item()


@dataclass(frozen=True)
class _CountingSinh(SinhCell):
    """A sinh cell that records the number of cells in each evaluation of its law."""

    evaluated: list[int] | None = None

    def current_and_derivative(self, u: Tensor, g: Tensor) -> tuple[Tensor, Tensor]:
        """The sinh cell's current and derivative, counted."""
        if self.evaluated is not None:
            self.evaluated.append(torch.broadcast_shapes(u.shape, g.shape).numel())
        return super().current_and_derivative(u, g)


def _iterations(run: _Run, problem: Problem) -> float | None:
    """The iterations that the solver reports; for the native solver with sinh cells, evaluations of each cell's law."""
    if run.timing.result is None:
        return None
    cell = problem.crossbar.cell
    if not isinstance(run.solver, Native) or not isinstance(cell, SinhCell):
        return run.timing.result.iterations
    evaluated: list[int] = []
    counting = problem.crossbar.replace(cell=_CountingSinh(v0=cell.v0, evaluated=evaluated))
    few = problem._replace(crossbar=counting).first(min(run.vectors, _COUNTED))
    run.solver.prepare(few)()
    return sum(evaluated) / (len(few.voltages) * few.conductances.numel()) or None


def _peak(meter: MemoryMeter | None, run: _Run, case: Case, seed: int) -> int | None:
    if meter is None or case.size > run.solver.measured_up_to:
        return None
    return meter.growth(_solution, run.solver, case, run.vectors, seed)


def _solution(solver: Solver, case: Case, vectors: int, seed: int) -> Callable[[], object]:
    # A tiny solution comes first, so that libraries that load on first use do not count as workspace.
    solver.prepare(Case(2, case.cell, case.circuit).problem(1, seed))()
    problem = case.problem(vectors, seed)
    return solver.prepare(problem.first(solver.vectors(problem)))


def _response(size: int, threads: int, settings: SolverSettings, extension: Extension) -> ResponseRow:
    case = Case(size, "linear", "easy")
    count = max(1, min(64, _RESPONSE_BYTES // (8 * size**3)))
    tiles = case.tiles(count, torch.Generator().manual_seed(settings.seed))
    actions: dict[str, Callable[[], Tensor]] = {"native": partial(case.crossbar.effective_conductance, tiles)}
    rival, eye = extension.linear_solver(case.crossbar), torch.eye(size, dtype=torch.float64)
    if rival is not None and size <= _LARGEST_RIVAL_RESPONSE and threads == settings.threads[0]:
        actions["rival"] = partial(rival, eye, tiles[0])
    with use_torch_threads(threads):
        timings = time_in_turns(actions, settings.repeats, settings.patience)
    error, found = None, timings["native"]
    if rival is not None and found.result is not None:
        some = slice(None, None, max(1, size // _UNIT_DRIVES))
        error = _largest_error(found.result[0, some], rival(eye[some], tiles[0]))
    superlu = timings["rival"].median if "rival" in timings else None
    seconds = None if found.median is None else found.median / count
    return ResponseRow(size, count, threads, seconds, superlu, error)


def _backward_cases(settings: SolverSettings) -> Iterator[Case]:
    size = max((n for n in settings.sizes if n <= 64), default=min(settings.sizes))
    yield from (Case(size, cell, circuit) for cell in CELLS for circuit in _CIRCUITS)


def _backward(case: Case, settings: SolverSettings) -> BackwardRow:
    problem = case.problem(_MANY, settings.seed)
    losses: list[Tensor] = []
    v, g = problem.voltages.requires_grad_(), problem.conductances.requires_grad_()

    def forward() -> None:
        losses[:] = [case.crossbar.solve(v, g).sum()]

    def backward() -> None:
        if not losses:
            raise ConvergenceError("the forward pass has failed")
        torch.autograd.grad(losses.pop(), (v, g))

    actions: dict[str, Callable[[], None]] = {"forward": forward, "backward": backward}
    threads = settings.threads[0]
    with use_torch_threads(threads):
        times = time_in_turns(actions, settings.repeats, 2 * settings.patience)
    one, two = times["forward"], times["backward"]
    failure = one.failure or two.failure
    return BackwardRow(**asdict(case), vectors=_MANY, threads=threads, forward_seconds=one.median,
                       backward_seconds=two.median, failure=failure)  # fmt: skip


def _growth(rows: Sequence[Row], settings: SolverSettings) -> list[GrowthRow]:
    """The fits over sizes of at least 32x32, for cases with two or more solved sizes."""
    out = []
    for cell, circuit, vectors, threads in product(CELLS, _CIRCUITS, (1, _MANY), settings.threads):
        key = (cell, circuit, vectors, threads, Native().name)
        points = {
            row.size: row.seconds_per_vector
            for row in rows
            if (row.cell, row.circuit, row.vectors, row.threads, row.contender) == key
            and row.size >= 32
            and row.seconds_per_vector is not None
        }
        if len(points) > 1:
            sizes = tuple(points)
            out.append(GrowthRow(cell, circuit, vectors, threads, sizes, fit_growth(sizes, list(points.values()))))
    return out
