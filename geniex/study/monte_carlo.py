"""A figure of merit over many draws of the devices, with confidence intervals."""

from __future__ import annotations

import contextlib
import math
import multiprocessing
import pickle
import signal
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from types import FunctionType, MethodType
from typing import Any

import torch
from torch import Tensor, nn

from geniex import __version__
from geniex.config import check_positive_int, check_seed
from geniex.emulator.identity import identity
from geniex.errors import GeniexError, InputError
from geniex.files import is_sealed, parsed_json, write_sealed_json
from geniex.simulator import crossbar_matrices, vary
from geniex.simulator.arguments import Arguments, Examples
from geniex.simulator.batches import LabelledData
from geniex.study.logits import digest, gathered, logits_of_part
from geniex.study.statistics import mean_interval
from geniex.variation import Variations, derived_seed

Metric = Callable[[nn.Module], float | Mapping[str, float]]
"""What a model is worth: one figure, or several by name.

Its attribute ``bounds``, where it has one, tells what no figure can be below and above: intervals stay between them."""
Progress = Callable[[int, int], None]
"""Called with the runs done and the runs to do."""

_NOMINAL = "nominal"


class Accuracy:
    """The share of ``images`` (count, ...) to which a model gives its largest logit at ``labels`` (count,)."""

    bounds = (0.0, 1.0)
    """Of a share."""

    def __init__(self, images: Tensor | Examples, labels: Tensor, batch: int = 50) -> None:
        if not len(images) or labels.shape != (len(images),):
            given = f"{len(images)} images and labels {tuple(labels.shape)}"
            raise InputError("images", given, "at least one image, and one label for each")
        check_positive_int("batch", batch)
        self.images = Examples([Arguments((images,))]) if isinstance(images, Tensor) else images
        self.labels, self.batch = labels, batch

    @classmethod
    def of(cls, loader: LabelledData, batch: int = 50, model: nn.Module | None = None) -> Accuracy:
        """On all images of a loader, whose batches ``labelled_batches`` reads as calls of ``model``."""
        return cls(*gathered(loader, model), batch)

    def __call__(self, model: nn.Module) -> float:
        """The share, 0..1."""
        right, done = 0, 0
        for part in self.images.split(self.batch):
            labels = self.labels[done : done + len(part)]
            right, done = right + int((logits_of_part(part, model).argmax(-1) == labels).sum()), done + len(part)
        return right / len(self.labels)


@dataclass(frozen=True)
class Row:
    """One figure over all runs."""

    name: str
    nominal: float
    """Of the model without variations."""
    mean: float
    low: float
    high: float
    """Ends of the mean's 95 % interval, by Student's t, within the metric's bounds."""
    std: float | None
    """Over the runs; None where there is one only, and then the interval is all that the metric's bounds allow."""
    least: float
    most: float


@dataclass(frozen=True)
class MonteCarlo:
    """What ``monte_carlo`` found."""

    rows: tuple[Row, ...]
    runs: tuple[dict[str, float], ...]
    """Each run's figures."""
    configuration: dict[str, Any]

    def row(self, name: str = "value") -> Row:
        """One figure by its name."""
        for row in self.rows:
            if row.name == name:
                return row
        raise InputError("name", repr(name), f"figures are {[row.name for row in self.rows]}")

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return asdict(self)


def monte_carlo(
    model: nn.Module,
    variations: Variations,
    metric: Metric,
    *,
    runs: int = 10,
    seed: int = 0,
    workers: int = 1,
    work: Path | None = None,
    progress: Progress | None = None,
) -> MonteCarlo:
    """The ``metric`` of a converted ``model`` on ``runs`` draws of its devices, each by ``vary``.

    A run depends on ``seed`` and its number alone: more runs leave the first ones as they are, and the table is the
    same for any number of workers, because all of them use as many torch threads as the caller has
    (``torch.set_num_threads(1)`` where there are many).

    Args:
        model: what ``convert`` returned.
        variations: what happens to its cells.
        metric: of a model; picklable where there are workers (a function of a module, or ``Accuracy``), and the same
            for the same model. One figure is called "value".
        runs: draws.
        seed: of all of them.
        workers: processes; 1 works in this one. A script needs its ``if __name__ == "__main__":`` guard for more.
        work: folder where runs are kept as they come, so that a killed call goes on. Runs
            are known again by model, variations, metric, seed and version.
        progress: called as runs are done.
    """
    check_positive_int("runs", runs)
    check_positive_int("workers", workers)
    check_seed(seed)
    say = progress or (lambda done, whole: None)
    store = _Store(None if work is None else work / f"monte-carlo-{_key(model, variations, metric, seed)}.json")
    left = [run for run in [_NOMINAL, *map(str, range(runs))] if run not in store.found]
    task = _Task(model, variations, metric, seed)
    say(runs + 1 - len(left), runs + 1)
    for run, figures in _results(task, left, workers):
        store.keep(run, figures)
        left.remove(run)
        say(runs + 1 - len(left), runs + 1)
    drawn = tuple(store.found[str(run)] for run in range(runs))
    bounds = getattr(metric, "bounds", (-math.inf, math.inf))
    rows = tuple(
        _row(name, nominal, [run[name] for run in drawn], bounds) for name, nominal in store.found[_NOMINAL].items()
    )
    return MonteCarlo(
        rows,
        drawn,
        {"geniex_version": __version__, "torch_version": torch.__version__, "seed": seed}
        | {"variations": variations.to_dict()},
    )


@dataclass(frozen=True)
class _Task:
    """All that a run needs beside its number."""

    model: nn.Module
    variations: Variations
    metric: Metric
    seed: int

    def __call__(self, run: str) -> dict[str, float]:
        """The figures of one run."""
        # From one seed, so that a metric that draws numbers itself draws the same in every process.
        own = derived_seed(self.seed, "run", run)
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            torch.manual_seed(own)
            found = self.metric(vary(self.model, Variations() if run == _NOMINAL else self.variations, own))
        figures = found if isinstance(found, Mapping) else {"value": found}
        return {name: float(value) for name, value in figures.items()}


class _Store:
    """Figures by run, in memory and in a file where there is one."""

    def __init__(self, path: Path | None) -> None:
        self.path, self.found = path, dict[str, dict[str, float]]()
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            with contextlib.suppress(OSError, ValueError):  # not there, or no JSON
                held = parsed_json(path.read_bytes())
                # One that was changed or damaged is as good as none.
                self.found = held["runs"] if is_sealed(held) else {}

    def keep(self, run: str, figures: dict[str, float]) -> None:
        """Put down a run."""
        self.found[run] = figures
        if self.path is not None:
            write_sealed_json(self.path, {"runs": self.found}, indent=1)


def _results(task: _Task, runs: list[str], workers: int) -> Iterator[tuple[str, dict[str, float]]]:
    runs = list(runs)
    if workers == 1 or len(runs) <= 1:
        yield from ((run, task(run)) for run in runs)
        return
    # Spawn, because torch's threads do not survive a fork.
    context = multiprocessing.get_context("spawn")
    start = (_pickled(task), torch.get_num_threads())
    with ProcessPoolExecutor(min(workers, len(runs)), context, initializer=_start_worker, initargs=start) as pool:
        pending = {pool.submit(_work, run): run for run in runs}
        try:
            for future in as_completed(pending):
                yield pending[future], future.result()
        except BrokenProcessPool:
            raise GeniexError(
                "monte_carlo: a worker process died: is memory short (give fewer workers)? A script needs its"
                " `if __name__ == '__main__':` guard"
            ) from None
        finally:
            pool.shutdown(cancel_futures=True)


_task: _Task | None = None
"""A worker process' own; unpickled once."""


def _start_worker(pickled: bytes, threads: int) -> None:
    global _task
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    torch.set_num_threads(threads)
    _task = pickle.loads(pickled)


def _work(run: str) -> dict[str, float]:
    assert _task is not None
    return _task(run)


def _row(name: str, nominal: float, values: list[float], bounds: tuple[float, float]) -> Row:
    found = torch.tensor(values, dtype=torch.float64)
    low, high = mean_interval(found, *bounds)
    std = float(found.std()) if len(values) > 1 else None
    return Row(name, nominal, float(found.mean()), low, high, std, min(values), max(values))


def _key(model: nn.Module, variations: Variations, metric: Metric, seed: int) -> str:
    """What tells one study from another."""
    circuits = {
        name: [identity(matrix.emulator)[0], matrix.architecture.to_dict()]
        for name, matrix in crossbar_matrices(model).items()
    }
    head = [__version__, seed, variations.to_dict(), repr(model), circuits, _described(metric)]
    return digest(dict(model.state_dict()), head)[:16]


def _described(metric: Metric) -> list[Any]:
    """A metric's name, and the digests of the values it holds."""
    if isinstance(metric, partial):
        return [*_described(metric.func), *_values(enumerate(metric.args)), *_values(sorted(metric.keywords.items()))]
    if isinstance(metric, MethodType):
        return [metric.__func__.__qualname__, *_described(metric.__self__)]  # type: ignore[arg-type]
    kind = metric if isinstance(metric, FunctionType) else type(metric)
    name = f"{kind.__module__}.{kind.__qualname__}"
    try:
        if "<" in name:
            raise TypeError("a name of its own is missing")
        return [name, *_values(sorted(vars(metric).items()))]
    except TypeError as error:
        allowed = "to be known again it must be a function of a module, or an object of tensors and plain values"
        raise InputError("metric", f"{name} ({error})", allowed) from None


def _values(named: Iterable[tuple[Any, Any]]) -> list[str]:
    return [f"{key} {digest(value)}" for key, value in named]


def _pickled(task: _Task) -> bytes:
    try:
        return pickle.dumps(task)
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        allowed = "for workers give a function of a module, or Accuracy(...)"
        raise InputError("metric", f"not picklable ({error})", allowed) from None
