"""``geniex sweep``: data sets of exactly solved crossbars, as a YAML file describes them."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any, Literal

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    ProgressColumn,
    Task,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from geniex.cli._files import check_file, write_json
from geniex.cli._progress import ProgressContext
from geniex.errors import InputError, MissingDependencyError
from geniex.jobs import Executor
from geniex.sweep import (
    SweepConfig,
    SweepObserver,
    SweepSet,
    load_sweep,
    run_sweep,
    run_sweep_set,
    verify_sweep,
    verify_sweep_set,
)
from geniex.sweep.config import Engine


def sweep(
    config: Path,
    out: Path | None = None,
    workers: int | None = None,
    engine: Literal["native", "ngspice", "ray"] | None = None,
    executor: Executor | None = None,
    verify: str | None = None,
    json: Path | None = None,
) -> None:
    """Solve crossbars with sampled voltages and conductances into HDF5 data sets; the same command resumes.

    Args:
        config: YAML file of a sweep, or of a set of sweeps (shapes and cells); shipped files are in spice_data/.
        out: HDF5 file to write, or the directory of a set; default: the configuration's name, in the current
            directory.
        workers: number of processes, one per processor if not given; on a Ray cluster the number of concurrent shards,
            two per processor if not given.
        engine: circuit solver that replaces the configuration's; ray is short for --executor ray.
        executor: run the solver in local processes (the default), or on a Ray cluster: the one at RAY_ADDRESS,
            otherwise one on this machine.
        verify: solve this many random vectors of the result again with ngspice, print the worst deviation and store it
            in the file: a number, or ngspice:NUMBER.
        json: file for the machine-readable summary.
    """
    console = Console(stderr=True)
    count = None if verify is None else _verified_vectors(verify)
    check_file("json", json)
    plan = load_sweep(config)
    if engine == "ray":
        if executor == "local":
            raise InputError("engine", "ray", "ray is an executor, but --executor says local; leave one of the two out")
        executor = "ray"
    elif engine is not None:
        plan = _with_engine(plan, engine)
    target = out or Path(config.stem if isinstance(plan, SweepSet) else f"{config.stem}.h5")
    began = time.perf_counter()
    with _Bar(console) as bar:
        if isinstance(plan, SweepSet):
            run_sweep_set(plan, target, workers, bar, executor or "local")
        else:
            run_sweep(plan, target, workers, bar, executor or "local")
    summary = _summary(plan, target, bar.resumed, time.perf_counter() - began)
    print(
        f"{plan.tiles} tiles x {summary['vectors']} vectors in {summary['seconds']:.1f} s"
        f" ({summary['tile_vectors_per_second']:.0f} vectors/s, {bar.resumed} tiles resumed): {target}"
    )
    if count is not None:
        summary["verification"] = _verification(plan, target, count)
    write_json(json, summary)


def _verified_vectors(verify: str) -> int:
    solver, colon, count = verify.rpartition(":")
    if (colon and solver != "ngspice") or not count.isdecimal() or int(count) < 1:
        raise InputError("verify", repr(verify), "it must be a number of vectors, at least 1, or ngspice:NUMBER")
    return int(count)


def _with_engine(plan: SweepConfig | SweepSet, engine: Engine) -> SweepConfig | SweepSet:
    if isinstance(plan, SweepSet):
        return plan.replace(common=plan.common.replace(engine=engine))
    return plan.replace(engine=engine)


def _summary(plan: SweepConfig | SweepSet, out: Path, resumed: int, seconds: float) -> dict[str, Any]:
    vectors = _vectors(plan)
    return {
        "file": str(out),
        "tiles": plan.tiles,
        "vectors": vectors,
        "resumed_tiles": resumed,
        "seconds": seconds,
        "tile_vectors_per_second": (plan.tiles - resumed) * vectors / seconds,
        "config": plan.to_dict(),
    }


def _vectors(plan: SweepConfig | SweepSet) -> int:
    return plan.common.vectors if isinstance(plan, SweepSet) else plan.vectors


def _verification(plan: SweepConfig | SweepSet, path: Path, count: int) -> dict[str, Any]:
    try:
        worst = (verify_sweep_set if isinstance(plan, SweepSet) else verify_sweep)(path, count)
    except MissingDependencyError as error:
        print(f"not verified against ngspice: {error}")
        return {"vectors": 0, "skipped": str(error)}
    count = min(count, _vectors(plan) * plan.tiles)
    print(f"{count} vectors solved again by ngspice: the worst relative deviation of a column current is {worst:.1e}")
    return {"vectors": count, "worst_deviation": worst}


class _Throughput(ProgressColumn):
    """Column of the bar with the tiles per second, once they are known."""

    def render(self, task: Task) -> Text:
        """The column's text."""
        return Text("" if task.speed is None else f"{task.speed:.0f} tiles/s")


class _Bar(SweepObserver, ProgressContext):
    """A progress bar on standard error; only the notes are printed if it is not a terminal."""

    def __init__(self, console: Console) -> None:
        columns = (TextColumn("tiles"), BarColumn(), MofNCompleteColumn(), _Throughput(), TimeRemainingColumn())
        super().__init__(console, *columns)
        self.resumed = 0
        self._console = console
        self._task: TaskID | None = None

    def started(self, tiles: int, resumed: int) -> None:
        """Show the bar; the resumed tiles count as done."""
        self.resumed = resumed
        self._task = self._progress.add_task("tiles", total=tiles, completed=resumed)

    def solved(self, tiles: int) -> None:
        """Advance the bar by ``tiles``."""
        if self._task is not None:
            self._progress.advance(self._task, tiles)

    def note(self, text: str) -> None:
        """Print ``text`` above the bar."""
        self._console.print(text, soft_wrap=True, highlight=False, markup=False)
