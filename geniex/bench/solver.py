"""``geniex bench solver``: time, error and memory of the native solver beside SuperLU, badcrossbar and ngspice."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from itertools import product
from typing import NamedTuple

import torch
from torch import Tensor

from geniex.bench.accuracy import Campaign, against_ngspice, against_superlu, current_error, superlu_currents
from geniex.bench.cases import CELLS, Case, Problem, random_problems
from geniex.bench.memory import MemoryMeter
from geniex.bench.nodal import NodalArray
from geniex.bench.report import BackwardRow, GrowthRow, ResponseRow, Row, Settings, SolverReport
from geniex.bench.rivals import Answer, BadCrossbar, Native, Ngspice, Rival, SuperLU
from geniex.bench.timing import Timing, cores, growth, interleaved, machine, torch_threads
from geniex.cells import SinhCell
from geniex.errors import ConvergenceError, GeniexError

Note = Callable[[str], None]
"""A function called with a description of the current work."""

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
"""Rows of a transfer matrix that are compared with SuperLU's, approximately."""
_LARGEST_SUPERLU_RESPONSE = 128
_LARGEST_SUPERLU_MEMORY = 128


def bench_solver(settings: Settings, note: Note = lambda _: None) -> SolverReport:
    """Time and check the native solver beside every rival that this machine has."""
    # Work that is not timed uses no more cores either: on a busy machine, threads that wait for each other are slow.
    with torch_threads(settings.threads[0]):
        return _bench(settings, note)


def _bench(settings: Settings, note: Note) -> SolverReport:
    rivals, notes = _rivals(settings)
    taken = machine()  # the machine's load before the benchmark adds to it
    rows: list[Row] = []
    with MemoryMeter() as meter:
        for case in _cases(settings):
            note(str(case))
            rows += _measure(case, rivals, settings, meter if settings.memory else None)
    note("linear response")
    responses = [_response(size, threads, settings) for size in settings.sizes for threads in settings.threads]
    backward = []
    for case in _backward_cases(settings):
        note(f"gradient of {case}")
        backward.append(_backward(case, settings))
    grown = _growth(rows, settings)
    accuracy = list(_accuracy(settings, rivals, note))
    return SolverReport(
        settings=settings,
        machine=taken,
        notes=tuple(notes),
        rows=tuple(rows),
        responses=tuple(responses),
        backward=tuple(backward),
        growth=tuple(grown),
        accuracy=tuple(accuracy),
    )


def _rivals(settings: Settings) -> tuple[list[Rival], list[str]]:
    """The rivals on this machine, and notes about the missing ones."""
    every: list[Rival] = [Native(), Native(torch.float32), SuperLU(), BadCrossbar()]
    notes = []
    if settings.ngspice:
        every.append(Ngspice(settings.ngspice_size))
    else:
        notes.append("ngspice was not asked")
    notes += [f"{rival.name} left out: {rival.missing}" for rival in every if rival.missing is not None]
    return [rival for rival in every if rival.missing is None], notes


def _cases(settings: Settings) -> Iterator[Case]:
    for size, cell, circuit in product(settings.sizes, CELLS, _CIRCUITS):
        yield Case(size, cell, circuit)
    if BadCrossbar().missing is None:
        yield from (Case(size, "linear", "segments") for size in settings.sizes)


class _Run(NamedTuple):
    """One contender's run of a case."""

    rival: Rival
    vectors: int
    """Input vectors per tile in the case."""
    solved: int
    """Number of these vectors that the contender was given."""
    timing: Timing[Answer]

    @property
    def seconds(self) -> float | None:
        """The median time per vector."""
        return None if self.timing.median is None else self.timing.median / self.solved


def _measure(case: Case, rivals: Sequence[Rival], settings: Settings, meter: MemoryMeter | None) -> Iterator[Row]:
    """The rows of one case for each number of threads; all rivals run in turns, with one vector and with many."""
    problem = case.problem(_MANY, settings.seed)
    reference, expected = _reference(problem)
    for threads in settings.threads:
        first = threads == settings.threads[0]
        runs = _timed(problem, [rival for rival in rivals if first or rival.threaded], threads, settings)
        native = {run.vectors: run.seconds for run in runs if run.rival == Native()}
        for run in runs:
            base, answer = native[run.vectors], run.timing.result
            yield Row(
                **asdict(case),
                vectors=run.vectors,
                threads=threads,
                contender=run.rival.name,
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


def _timed(problem: Problem, rivals: Sequence[Rival], threads: int, settings: Settings) -> list[_Run]:
    given = [(rival, n, rival.vectors(problem.first(n))) for rival in rivals for n in (1, _MANY)]
    given = [(rival, n, solved) for rival, n, solved in given if solved]
    # A rival that is given one vector of many would solve the same problem twice; it is timed once.
    entries = {(rival, solved): rival.prepare(problem.first(solved)) for rival, _, solved in given}
    with torch_threads(threads):
        timings = interleaved(entries, settings.repeats, settings.patience)
    return [_Run(rival, n, solved, timings[rival, solved]) for rival, n, solved in given]


def _reference(problem: Problem) -> tuple[str, Tensor | None]:
    """The name of the reference and its tight solution for the first vectors, which is None if there is none."""
    few = problem.first(_WITNESSED if problem.crossbar.rows <= _WITNESS_SIZE else 1)
    try:
        if SuperLU().missing is None:
            return "SuperLU", superlu_currents(few)
        return "native, tight", Native(tol=1e-12).prepare(few)().currents
    except GeniexError:
        return "none", None


def _common_error(currents: Tensor, expected: Tensor | None) -> float | None:
    if expected is None:
        return None
    count = min(len(currents), len(expected))
    return current_error(currents[:count], expected[:count])


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
    """The iterations that the rival reports; for the native solver with sinh cells, evaluations of each cell's law."""
    if run.timing.result is None:
        return None
    cell = problem.crossbar.cell
    if not isinstance(run.rival, Native) or not isinstance(cell, SinhCell):
        return run.timing.result.iterations
    evaluated: list[int] = []
    counting = problem.crossbar.replace(cell=_CountingSinh(v0=cell.v0, evaluated=evaluated))
    few = problem._replace(crossbar=counting).first(min(run.vectors, _COUNTED))
    run.rival.prepare(few)()
    return sum(evaluated) / (len(few.voltages) * few.conductances.numel()) or None


def _peak(meter: MemoryMeter | None, run: _Run, case: Case, seed: int) -> int | None:
    if meter is None or isinstance(run.rival, Ngspice):
        return None
    if not isinstance(run.rival, Native) and case.size > _LARGEST_SUPERLU_MEMORY:
        return None
    return meter.peak(run.rival, case, run.vectors, seed)


def _response(size: int, threads: int, settings: Settings) -> ResponseRow:
    case = Case(size, "linear", "easy")
    count = max(1, min(64, _RESPONSE_BYTES // (8 * size**3)))
    tiles = case.tiles(count, torch.Generator().manual_seed(settings.seed))
    actions: dict[str, Callable[[], Tensor]] = {"native": partial(case.crossbar.effective_conductance, tiles)}
    array = NodalArray(case.crossbar) if SuperLU().missing is None else None
    tile, eye = tiles[0].numpy(), torch.eye(size, dtype=torch.float64).numpy()
    if array is not None and size <= _LARGEST_SUPERLU_RESPONSE and threads == settings.threads[0]:
        actions["SuperLU"] = lambda: torch.from_numpy(array.solve_linear(eye, tile))
    with torch_threads(threads):
        timings = interleaved(actions, settings.repeats, settings.patience)
    error, found = None, timings["native"]
    if array is not None and found.result is not None:
        some = slice(None, None, max(1, size // _UNIT_DRIVES))
        error = current_error(found.result[0, some], torch.from_numpy(array.solve_linear(eye[some], tile)))
    superlu = timings["SuperLU"].median if "SuperLU" in timings else None
    seconds = None if found.median is None else found.median / count
    return ResponseRow(size, count, threads, seconds, superlu, error)


def _backward_cases(settings: Settings) -> Iterator[Case]:
    size = max((n for n in settings.sizes if n <= 64), default=min(settings.sizes))
    yield from (Case(size, cell, circuit) for cell in CELLS for circuit in _CIRCUITS)


def _backward(case: Case, settings: Settings) -> BackwardRow:
    problem = case.problem(_MANY, settings.seed)
    losses: list[Tensor] = []
    v, g = problem.voltages.requires_grad_(), problem.conductances.requires_grad_()

    def forward() -> None:
        losses[:] = [case.crossbar.solve(v, g).sum()]

    def backward() -> None:
        if not losses:
            raise ConvergenceError("there is no forward pass")
        torch.autograd.grad(losses.pop(), (v, g))

    actions: dict[str, Callable[[], None]] = {"forward": forward, "backward": backward}
    threads = settings.threads[0]
    with torch_threads(threads):
        times = interleaved(actions, settings.repeats, 2 * settings.patience)
    one, two = times["forward"], times["backward"]
    failure = one.failure or two.failure
    return BackwardRow(**asdict(case), vectors=_MANY, threads=threads, forward_seconds=one.median,
                       backward_seconds=two.median, failure=failure)  # fmt: skip


def _growth(rows: Sequence[Row], settings: Settings) -> list[GrowthRow]:
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
            out.append(GrowthRow(cell, circuit, vectors, threads, sizes, growth(sizes, list(points.values()))))
    return out


def _accuracy(settings: Settings, rivals: Sequence[Rival], note: Note) -> Iterator[Campaign]:
    here = {rival.name for rival in rivals}
    largest = settings.superlu_size
    if settings.superlu_arrays and "SuperLU" in here:
        note(f"{settings.superlu_arrays} random arrays up to {largest}x{largest} against SuperLU")
        yield against_superlu(list(random_problems(settings.superlu_arrays, 1, largest, settings.seed)), largest)
    if "ngspice" not in here:
        return
    for count, low, high in ((settings.ngspice_arrays, 1, 32), (settings.ngspice_large, 64, 64)):
        if count:
            note(f"{count} random arrays up to {high}x{high} against ngspice")
            problems = list(random_problems(count, low, high, settings.seed + high))
            yield against_ngspice(problems, high, cores())
