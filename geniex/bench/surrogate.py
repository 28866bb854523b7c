"""``geniex bench surrogate``: the cost of a read by each model, and the model's error against the exact circuit."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from itertools import product
from typing import Any

import torch
from torch import Tensor

from geniex.bench.extension import ABSENT, Extension, Note
from geniex.bench.memory import MemoryMeter
from geniex.bench.surrogate_models import Contender, Task, draw_task, make_contenders
from geniex.bench.surrogate_report import (
    CIRCUIT,
    FACTORED,
    IDEAL,
    SurrogateReport,
    SurrogateRow,
    SurrogateSettings,
    count_amortised_reads,
)
from geniex.bench.timing import Timing, describe_machine, time_in_turns, use_torch_threads
from geniex.circuit import shared_matmul
from geniex.study.statistics import CurrentErrors, measure_current_errors


def bench_surrogate(
    settings: SurrogateSettings, note: Note = lambda _: None, extension: Extension | None = None
) -> SurrogateReport:
    """Time every model on one thread, in turns, and compare its currents with the exact circuit's."""
    taken = describe_machine()  # the machine's load before the benchmark adds to it
    rows: list[SurrogateRow] = []
    notes: dict[str, None] = {} if extension else {ABSENT: None}
    with use_torch_threads(1), torch.no_grad(), MemoryMeter() as meter:
        for size, bits in product(settings.sizes, settings.stream_bits):
            note(f"{size}x{size}, {bits}-bit streams")
            task = draw_task(size, bits, settings)
            models, missing = make_contenders(task, settings)
            notes |= dict.fromkeys(missing)
            rows += _measured(task, models, settings, meter if settings.memory else None)
    report = SurrogateReport(settings, taken, tuple(notes), tuple(rows))
    return replace(report, bars=(extension or Extension()).surrogate_bars(report))


@dataclass(frozen=True)
class _Bench:
    """One contender on a task, in the contender's precision."""

    contender: Contender
    conductances: Tensor
    voltages: Tensor
    """Voltages (vectors, 1, rows) that the contender is given; a slow one gets fewer tiles and vectors."""
    chunk: int

    @classmethod
    def of(cls, contender: Contender, task: Task, settings: SurrogateSettings) -> _Bench:
        conductances = task.conductances[: contender.most_tiles].to(contender.dtype)
        vectors = len(task.voltages)
        if contender.most_reads is not None:
            vectors = max(1, min(vectors, contender.most_reads // len(conductances)))
        dtype = torch.float32 if contender.calibrates else contender.dtype
        return cls(contender, conductances, task.voltages[:vectors].to(dtype), settings.chunk)

    @property
    def reads(self) -> int:
        """The number of tile-vectors per round."""
        return len(self.conductances) * len(self.voltages)

    def program(self) -> Any:
        """The programmed array of all tiles."""
        return self.contender.model.program(self.conductances)

    def warm_up(self) -> None:
        """Program one tile and read one vector, so that first calls of library routines are not timed."""
        self.contender.model.read(self.contender.model.program(self.conductances[:1]), self.voltages[:1])

    def read(self, array: Any) -> None:
        """Read all vectors, chunk by chunk; the currents are dropped, as a network drops them once they are summed."""
        for part in self.voltages.split(self.chunk):
            self.contender.model.read(array, part)

    def currents(self, array: Any, voltages: Tensor) -> Tensor:
        """The currents for other ``voltages``, float64."""
        return self.contender.model.read(array, voltages.to(self.voltages.dtype)).double()


def _measured(
    task: Task, models: list[Contender], settings: SurrogateSettings, meter: MemoryMeter | None
) -> list[SurrogateRow]:
    benches = {model.name: _Bench.of(model, task, settings) for model in models}
    timings = _timed(benches, settings)
    reads = {name: _a_read(timings["read", name], bench) for name, bench in benches.items()}
    witnesses = task.voltages[: settings.witnesses]
    ideal = shared_matmul(witnesses, task.conductances)
    exact = task.crossbar.solve(witnesses, task.conductances)
    rows = []
    for name, bench in benches.items():
        programming, reading = timings["program", name], timings["read", name]
        errors: CurrentErrors | None = None
        if name == CIRCUIT:
            errors = measure_current_errors(ideal, exact, exact)  # zero: the circuit is the reference
        elif bench.contender.trained and reading.failure is None:
            errors = measure_current_errors(ideal, exact, bench.currents(programming.result, witnesses))
        program = None if programming.median is None else programming.median / len(bench.conductances)
        rows.append(
            SurrogateRow(
                size=task.size,
                stream_bits=task.stream_bits,
                model=name,
                dtype=str(bench.voltages.dtype).removeprefix("torch."),
                reads=bench.reads,
                seconds_per_read=reads[name],
                runs=len(reading.seconds),
                over_ideal=_over(reads[name], reads[IDEAL]),
                over_mlp=_over(reads[name], reads[FACTORED]),
                program_seconds=program,
                amortised_reads=None
                if name == CIRCUIT
                else count_amortised_reads(program, reads[name], reads[CIRCUIT]),
                nf_rmse_pp=None if errors is None else errors.nf_rmse_pp,
                relative_p999=None if errors is None else errors.relative_p999,
                peak_bytes=None
                if meter is None
                else meter.growth(_prepared, name, task.size, task.stream_bits, settings),
                note=bench.contender.note,
                failure=programming.failure or reading.failure,
            )
        )
    return rows


def _timed(benches: dict[str, _Bench], settings: SurrogateSettings) -> dict[tuple[str, str], Timing[Any]]:
    """The timings of ("program", name) and ("read", name), all in turns."""
    arrays: dict[str, Any] = {}
    actions: dict[tuple[str, str], Callable[[], Any]] = {}

    def program(name: str) -> Any:
        arrays[name] = benches[name].program()
        return arrays[name]

    def read(name: str) -> None:
        benches[name].read(arrays[name])

    for name, bench in benches.items():
        bench.warm_up()
        actions["program", name] = partial(program, name)
        actions["read", name] = partial(read, name)
    return time_in_turns(actions, settings.repeats, settings.patience)


def _prepared(name: str, size: int, stream_bits: int, settings: SurrogateSettings) -> Callable[[], object]:
    """A function that programs and reads with the model ``name``, after a warm-up; it runs in its own process."""
    task = draw_task(size, stream_bits, settings)
    bench = next(_Bench.of(c, task, settings) for c in make_contenders(task, settings)[0] if c.name == name)
    with torch.no_grad():
        bench.warm_up()

    def whole() -> None:
        with torch.no_grad():
            bench.read(bench.program())

    return whole


def _a_read(timing: Timing[Any], bench: _Bench) -> float | None:
    return None if timing.median is None else timing.median / bench.reads


def _over(seconds: float | None, base: float | None) -> float | None:
    return None if seconds is None or base is None else seconds / base
