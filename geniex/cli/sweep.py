"""``geniex sweep``: from a YAML file to a data set of exactly solved crossbars."""

from __future__ import annotations

import time
from contextlib import AbstractContextManager
from pathlib import Path
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from geniex.cli._files import check_file, write_json
from geniex.config import check_positive_int
from geniex.errors import MissingDependencyError
from geniex.sweep import SweepConfig, SweepObserver, load_sweep_config, run_sweep, verify_sweep
from geniex.sweep.config import Engine


def sweep(
    config: Path,
    out: Path | None = None,
    workers: int | None = None,
    engine: Engine | None = None,
    verify: int | None = None,
    json: Path | None = None,
) -> None:
    """Solve sampled (V, G) into an HDF5 data set; run it again after a kill and it goes on.

    Args:
        config: YAML file of the sweep; those that ship are in spice_data/.
        out: the HDF5 file to make; default: the configuration's name with .h5, in the current directory.
        workers: processes; default: one a processor.
        engine: solve with this engine instead of the configuration's.
        verify: solve so many random vectors of the result again with ngspice and tell the worst deviation.
        json: file for the machine-readable summary.
    """
    console = Console(stderr=True)
    if verify is not None:
        check_positive_int("verify", verify)
    check_file("json", json)
    plan = load_sweep_config(config)
    if engine is not None:
        plan = plan.replace(engine=engine)
    target = Path(f"{config.stem}.h5") if out is None else out
    began = time.perf_counter()
    with _Bar(console) as bar:
        run_sweep(plan, target, workers, bar)
    summary = _summary(plan, target, bar.resumed, time.perf_counter() - began)
    print(
        f"{plan.tiles} tiles x {plan.vectors} vectors in {summary['seconds']:.1f} s"
        f" ({summary['tile_vectors_per_second']:.0f} tile-vectors/s, {bar.resumed} tiles resumed): {target}"
    )
    if verify is not None:
        summary["verification"] = _verification(target, verify)
    write_json(json, summary)


def _summary(config: SweepConfig, out: Path, resumed: int, seconds: float) -> dict[str, Any]:
    solved = (config.tiles - resumed) * config.vectors
    return {
        "file": str(out),
        "tiles": config.tiles,
        "vectors": config.vectors,
        "resumed_tiles": resumed,
        "seconds": seconds,
        "tile_vectors_per_second": solved / seconds,
        "config": config.to_dict(),
    }


def _verification(path: Path, count: int) -> dict[str, Any]:
    try:
        worst = verify_sweep(path, count)
    except MissingDependencyError as error:
        print(f"not verified against ngspice: {error}")
        return {"vectors": 0, "skipped": str(error)}
    print(f"{count} vectors solved again by ngspice: worst deviation {worst:.1e} of a column current")
    return {"vectors": count, "worst_deviation": worst}


class _Throughput(ProgressColumn):
    """Tiles per second, once known."""

    def render(self, task: Task) -> Text:
        """The text in the bar."""
        return Text("" if task.speed is None else f"{task.speed:.0f} tiles/s")


class _Bar(SweepObserver, AbstractContextManager["_Bar"]):
    """A progress bar on the terminal; only the notes where there is none."""

    def __init__(self, console: Console) -> None:
        self.resumed = 0
        self._console = console
        self._progress = Progress(
            TextColumn("tiles"),
            BarColumn(),
            MofNCompleteColumn(),
            _Throughput(),
            TimeRemainingColumn(),
            console=console,
            disable=not console.is_terminal,
        )
        self._task: TaskID | None = None

    def __enter__(self) -> _Bar:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def started(self, tiles: int, resumed: int) -> None:
        """Show the bar, with the resumed tiles done."""
        self.resumed = resumed
        self._task = self._progress.add_task("tiles", total=tiles, completed=resumed)

    def solved(self, tiles: int) -> None:
        """Advance it."""
        if self._task is not None:
            self._progress.advance(self._task, tiles)

    def note(self, text: str) -> None:
        """Print it above the bar."""
        self._console.print(text, soft_wrap=True, highlight=False, markup=False)
