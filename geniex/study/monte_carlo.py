"""Monte Carlo of a figure of merit: its distribution over draws of the devices, with confidence intervals."""

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
from geniex.files import is_sealed, parse_json, write_sealed_json
from geniex.simulator import crossbar_matrices, vary
from geniex.simulator.arguments import Arguments, Examples
from geniex.simulator.batches import LabelledData
from geniex.study.logits import digest, gathered, logits_of_part
from geniex.study.statistics import mean_interval
from geniex.variation import Variations, derive_seed

Metric = Callable[[nn.Module], float | Mapping[str, float]]
"""A function that gives a model's figure of merit, or several figures by name.

Its optional attribute ``bounds`` has the lowest and the highest possible figure; intervals stay between them."""
Progress = Callable[[int, int], None]
"""A function called with the number of runs done and of all runs."""

_NOMINAL = "nominal"


class Accuracy:
    """The share of ``images`` (count, ...) for which a model's largest logit is that of ``labels`` (count,)."""

    bounds = (0.0, 1.0)
    """Lowest and highest possible share."""

    def __init__(self, images: Tensor | Examples, labels: Tensor, batch: int = 50) -> None:
        if not len(images) or labels.shape != (len(images),):
            given = f"{len(images)} images and labels {tuple(labels.shape)}"
            raise InputError("images", given, "at least one image, and one label for each")
        check_positive_int("batch", batch)
        self.images = Examples([Arguments((images,))]) if isinstance(images, Tensor) else images
        self.labels, self.batch = labels, batch

    @classmethod
    def of(cls, loader: LabelledData, batch: int = 50, model: nn.Module | None = None) -> Accuracy:
        """The accuracy on all images of a loader, whose batches ``labelled_batches`` reads as calls of ``model``."""
        return cls(*gathered(loader, model), batch)

    def __call__(self, model: nn.Module) -> float:
        """The share of correctly classified images, 0..1."""
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
    """Figure of the model without variations."""
    mean: float
    low: float
    high: float
    """Ends of the mean's 95 % interval, by Student's t, within the metric's bounds."""
    std: float | None
    """Standard deviation over the runs; None for a single run, whose interval is the whole range of the bounds."""
    least: float
    most: float


@dataclass(frozen=True)
class MonteCarlo:
    """The result of ``monte_carlo``."""

    rows: tuple[Row, ...]
    runs: tuple[dict[str, float], ...]
    """Figures of each run, by name."""
    configuration: dict[str, Any]

    def row(self, name: str = "value") -> Row:
        """The row of one figure, by its name."""
        for row in self.rows:
            if row.name == name:
                return row
        raise InputError("name", repr(name), f"figures are {[row.name for row in self.rows]}")

    def to_dict(self) -> dict[str, Any]:
        """The result as JSON-ready plain values."""
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

    A run depends only on ``seed`` and its number, so that further runs do not change the first ones. The table is the
    same for any number of workers because each worker uses as many torch threads as the caller; with many workers, call
    ``torch.set_num_threads(1)`` first.

    Args:
        model: a model that ``convert`` returned.
        variations: variations of the model's cells.
        metric: function of a model, deterministic for one model; with several workers it must be picklable (a function
            of a module, or ``Accuracy``). A single figure is called "value".
        runs: number of draws.
        seed: seed of all draws.
        workers: processes; 1 works in this process. With several a script needs the ``if __name__ == "__main__":``
            guard.
        work: folder where runs are kept as soon as they are done, so that a killed call can go on. Kept runs are
            identified by model, variations, metric, seed and version.
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
    """Everything that a run needs apart from its number."""

    model: nn.Module
    variations: Variations
    metric: Metric
    seed: int

    def __call__(self, run: str) -> dict[str, float]:
        """The figures of one run."""
        # A seed for each run, so that a metric that draws random numbers draws the same ones in every process.
        own = derive_seed(self.seed, "run", run)
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            torch.manual_seed(own)
            found = self.metric(vary(self.model, Variations() if run == _NOMINAL else self.variations, own))
        figures = found if isinstance(found, Mapping) else {"value": found}
        return {name: float(value) for name, value in figures.items()}


class _Store:
    """The figures of each run, in memory and, if a path is given, in a file."""

    def __init__(self, path: Path | None) -> None:
        self.path, self.found = path, dict[str, dict[str, float]]()
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            with contextlib.suppress(OSError, ValueError):  # the file is missing or no JSON
                held = parse_json(path.read_bytes())
                # A changed or damaged file counts as missing.
                self.found = held["runs"] if is_sealed(held) else {}

    def keep(self, run: str, figures: dict[str, float]) -> None:
        """Keep the figures of a run."""
        self.found[run] = figures
        if self.path is not None:
            write_sealed_json(self.path, {"runs": self.found}, indent=1)


def _results(task: _Task, runs: list[str], workers: int) -> Iterator[tuple[str, dict[str, float]]]:
    runs = list(runs)
    if workers == 1 or len(runs) <= 1:
        yield from ((run, task(run)) for run in runs)
        return
    # Processes are spawned because torch's threads do not survive a fork.
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
"""The task of a worker process, unpickled once."""


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
    """The digest that identifies a study."""
    circuits = {
        name: [identity(matrix.emulator)[0], matrix.architecture.to_dict()]
        for name, matrix in crossbar_matrices(model).items()
    }
    head = [__version__, seed, variations.to_dict(), repr(model), circuits, _described(metric)]
    return digest(dict(model.state_dict()), head)[:16]


def _described(metric: Metric) -> list[Any]:
    """A metric's name and the digests of the values that it holds."""
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
