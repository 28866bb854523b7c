"""Monte Carlo of a figure of merit: its distribution over draws of the devices, with confidence intervals."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from types import FunctionType, MethodType
from typing import Any

import torch
from torch import Tensor, nn

from geniex import __version__
from geniex.config import check_positive_int, check_seed
from geniex.emulator import Emulator
from geniex.emulator.identity import identify
from geniex.errors import InputError, JobError
from geniex.jobs import Executor, Failure, ResultStore, check_workers, digest, run_jobs
from geniex.simulator import CrossbarMatrix, find_crossbar_matrices, vary
from geniex.simulator.arguments import Arguments, Examples
from geniex.simulator.batches import LabelledData
from geniex.study.logits import compute_logits_of_part, gather_images
from geniex.study.statistics import mean_interval
from geniex.variation import Variations, derive_seed

Metric = Callable[[nn.Module], float | Mapping[str, float]]
"""A function that gives a model's figure of merit, or several figures by name.

Its optional attribute ``bounds`` has the lowest and the highest possible figure; intervals stay between them."""
Progress = Callable[[int, int], None]
"""A function called with the number of runs done and of all runs."""

_NOMINAL = "nominal"
_FORM = "geniex-monte-carlo-1"
"""Meaning and version of the kept runs."""


class Accuracy:
    """The share of ``images`` (count, ...) for which a model's largest logit is that of ``labels`` (count,)."""

    bounds = (0.0, 1.0)
    """Lowest and highest possible share."""

    def __init__(self, images: Tensor | Examples, labels: Tensor, batch: int = 50) -> None:
        if not len(images) or labels.shape != (len(images),):
            given = f"{len(images)} images and labels {tuple(labels.shape)}"
            raise InputError("images", given, "there must be at least one image and one label for each image")
        check_positive_int("batch", batch)
        self.images = Examples([Arguments((images,))]) if isinstance(images, Tensor) else images
        self.labels, self.batch = labels, batch

    @classmethod
    def of(cls, loader: LabelledData, batch: int = 50, model: nn.Module | None = None) -> Accuracy:
        """The accuracy on all images of a loader; ``read_labelled_batches`` reads its batches as calls of ``model``."""
        return cls(*gather_images(loader, model), batch)

    def __call__(self, model: nn.Module) -> float:
        """The share of correctly classified images, 0..1."""
        right, done = 0, 0
        for part in self.images.split(self.batch):
            labels = self.labels[done : done + len(part)]
            right, done = (
                right + int((compute_logits_of_part(part, model).argmax(-1) == labels).sum()),
                done + len(part),
            )
        return right / len(self.labels)

    def split(self) -> list[Accuracy]:
        """The accuracies on the single batches."""
        batches = [part.copied() for part in self.images.split(self.batch)]
        labels = self.labels.split([len(batch) for batch in batches])
        return [Accuracy(Examples([x]), y.clone(), self.batch) for x, y in zip(batches, labels, strict=True)]

    def merged(self, shares: Sequence[float]) -> float:
        """This accuracy, exactly, from the shares on each batch."""
        counts = [len(part) for part in self.images.split(self.batch)]
        return sum(round(share * count) for share, count in zip(shares, counts, strict=True)) / len(self.labels)


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
    workers: int | None = None,
    executor: Executor = "local",
    work: str | Path | None = None,
    progress: Progress | None = None,
) -> MonteCarlo:
    """The ``metric`` of a converted ``model`` on ``runs`` draws of its devices, each by ``vary``.

    A run depends only on ``seed`` and its number, so that further runs do not change the first ones, and the table is
    the same to the bit for every number of workers. Where there are fewer runs left than workers, the images of an
    ``Accuracy`` are split among them as well. A model with read noise is an exception: its noise goes on from read to
    read, so that one process takes all images of a run, in their order.

    Args:
        model: a model that ``convert`` returned.
        variations: variations of the model's cells.
        metric: function of a model, deterministic for one model; with several workers it must be picklable (a function
            of a module, or ``Accuracy``). A single figure is called "value".
        runs: number of draws.
        seed: seed of all draws.
        workers: local processes of one thread each; None works in this process on torch's threads, which may change
            the last bits. On Ray, draws that are under way; None means two for each processor of the cluster. With
            several local processes a script needs the ``if __name__ == "__main__":`` guard.
        executor: "local" for processes, or "ray" for the cluster at ``RAY_ADDRESS``, else one on this machine.
        work: folder where runs are kept as soon as they are done, so that a killed call can go on. Kept runs are
            identified by model, variations, metric, seed and version.
        progress: called as runs are done.

    Raises:
        InputError: an argument is not allowed, or model and metric cannot be sent to another process.
        JobError: workers keep dying, there is no cluster, or the disk is full.
        MissingDependencyError: Ray is missing.
    """
    check_positive_int("runs", runs)
    check_workers(workers, executor)
    check_seed(seed)
    say = progress or (lambda done, whole: None)
    names = [_NOMINAL, *map(str, range(runs))]
    store = ResultStore(work, _FORM)
    key = "" if work is None else _key(model, variations, metric, seed)
    held = {name: store.load(_file(name), digest(key, name)) for name in names}
    found: dict[str, dict[str, float]] = {name: figures for name, figures in held.items() if figures is not None}
    say(len(found), len(names))
    left = [name for name in names if name not in found]
    task = _Task(model, variations, metric.split() if type(metric) is Accuracy else [metric], seed)
    for name, figures in _figures(task, metric, left, workers, executor):
        store.keep(_file(name), digest(key, name), figures)
        found[name] = figures
        say(len(found), len(names))
    drawn = tuple(found[str(run)] for run in range(runs))
    bounds = getattr(metric, "bounds", (-math.inf, math.inf))
    rows = tuple(_row(name, nominal, [run[name] for run in drawn], bounds) for name, nominal in found[_NOMINAL].items())
    return MonteCarlo(
        rows,
        drawn,
        {"geniex_version": __version__, "torch_version": torch.__version__, "seed": seed}
        | {"variations": variations.to_dict()},
    )


@dataclass(frozen=True)
class _Item:
    """Some neighbouring parts of a run."""

    run: str
    first: int
    last: int


@dataclass
class _Task:
    """Everything that a run needs apart from its name."""

    model: nn.Module
    variations: Variations
    parts: Sequence[Metric]
    """The metric on each batch of its images if it is an ``Accuracy``, otherwise the metric as a whole."""
    seed: int
    _varied: dict[str, nn.Module] = field(default_factory=dict)
    """The model of the last run."""

    def __call__(self, item: _Item) -> list[dict[str, float]]:
        """The figures of each part."""
        # A seed for each part, so that a metric that draws random numbers draws the same ones in every process.
        own = derive_seed(self.seed, "run", item.run)
        if item.run not in self._varied:
            self._varied.clear()
            variations = Variations() if item.run == _NOMINAL else self.variations
            self._varied = {item.run: vary(self.model, variations, own)}
        out: list[dict[str, float]] = []
        for part in range(item.first, item.last):
            with torch.random.fork_rng(devices=[]), torch.no_grad():
                torch.manual_seed(derive_seed(own, "part", part) if part else own)
                found = self.parts[part](self._varied[item.run])
            figures = found if isinstance(found, Mapping) else {"value": found}
            out.append({name: float(value) for name, value in figures.items()})
        return out


def _figures(
    task: _Task, metric: Metric, runs: list[str], workers: int | None, executor: Executor
) -> Iterator[tuple[str, dict[str, float]]]:
    """Yields each run with its figures when all its parts are done."""
    whole = len(task.parts)
    size = math.ceil(whole / _shares(task, len(runs), workers))
    items = (_Item(run, first, min(first + size, whole)) for run in runs for first in range(0, whole, size))
    done: dict[str, dict[int, dict[str, float]]] = {run: {} for run in runs}
    failed: list[str] = []
    gpus = 1.0 if any(tensor.device.type == "cuda" for tensor in task.model.buffers()) else 0.0
    for item, answer in run_jobs(task, items, workers=workers, executor=executor, gpus=gpus):
        if isinstance(answer, Failure):
            failed.append(f"run {item.run}: {answer.reason}")
            continue
        own = done[item.run]
        own.update(zip(range(item.first, item.last), answer, strict=True))
        if len(own) < whole:
            continue
        if type(metric) is Accuracy:
            yield item.run, {"value": metric.merged([own[part]["value"] for part in range(whole)])}
        else:
            yield item.run, own[0]
    if failed:
        raise JobError(f"monte_carlo: {len(failed)} runs failed: {failed[0]}; repeat the call to try them again")


def _shares(task: _Task, runs: int, workers: int | None) -> int:
    """Number of jobs that share a run, so that all workers are busy; 1 where reads are noisy."""
    noise = task.variations.read_noise
    matrices = find_crossbar_matrices(task.model).values()
    noisy = (noise is not None and not noise.off) or not all(m.emulator.deterministic for m in matrices)
    return 1 if noisy or not runs else min(len(task.parts), math.ceil((workers or 1) / runs))


def _row(name: str, nominal: float, values: list[float], bounds: tuple[float, float]) -> Row:
    found = torch.tensor(values, dtype=torch.float64)
    low, high = mean_interval(found, *bounds)
    std = float(found.std()) if len(values) > 1 else None
    return Row(name, nominal, float(found.mean()), low, high, std, min(values), max(values))


def _key(model: nn.Module, variations: Variations, metric: Metric, seed: int) -> str:
    """The digest that identifies a study."""
    circuits = {
        name: [identify(matrix.emulator)[0], matrix.architecture.to_dict(), _probe(matrix)]
        for name, matrix in find_crossbar_matrices(model).items()
    }
    head = [__version__, seed, variations.to_dict(), repr(model), circuits, _described(metric)]
    return digest(dict(model.state_dict()), head)


def _probe(matrix: CrossbarMatrix) -> str:
    """The digest of one read of a user's emulator, whose settings need not tell all that decides its currents."""
    own = matrix.emulator
    while own.inner is not None and _is_shipped(own):
        own = own.inner
    if _is_shipped(own) or not own.deterministic:
        return ""
    tile = matrix.conductances[:1, :1, :1]
    with torch.no_grad():
        voltages = torch.linspace(0.0, matrix.architecture.v_max, tile.shape[-2]).to(tile)
        return digest(own.read(own.program(tile), voltages).cpu())


def _is_shipped(emulator: Emulator) -> bool:
    return type(emulator).__module__.partition(".")[0] == "geniex"


def _file(run: str) -> str:
    return f"monte-carlo-{run}"


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
        allowed = "results can only be kept for a function of a module, or for an object of tensors and plain values"
        raise InputError("metric", f"{name} ({error})", allowed) from None


def _values(named: Iterable[tuple[Any, Any]]) -> list[str]:
    return [f"{key} {digest(value)}" for key, value in named]
