"""The plan of a study: its grid points and jobs, all checked before the first job runs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import nn

from geniex import __version__
from geniex.emulator import IdealEmulator
from geniex.emulator.identity import identify
from geniex.errors import GeniexError, InputError
from geniex.jobs import digest
from geniex.mitigation.batch_norm import has_batch_norms
from geniex.simulator import ConversionReport, dry_run
from geniex.study.grid.groups import FineTuning
from geniex.study.grid.job import (
    ImageChoice,
    Job,
    choose_images,
    load_emulator,
    load_image_set,
    load_images_of,
    make_emulator_of,
    prepare_network,
    read_full_scales,
    replace_by_ideal_tiles,
)
from geniex.study.grid.settings import PointSettings
from geniex.study.grid.spec import Label, Point, StudySpec, make_label


@dataclass(frozen=True)
class PlannedRun:
    """One row of the table: a network and a draw at one grid point's settings, with the jobs of its references."""

    network: str
    draw: int
    job: Job
    ideal: Job
    """The job of the reference on ideal tiles."""
    floating: Job
    """The job of the reference in floating point."""


@dataclass(frozen=True)
class PlannedPoint:
    """One grid point, a combination of values, and its runs."""

    part: str
    labels: dict[str, Label]
    """Labels on all axes of the study; an axis that the part does not vary has the label of its fixed value."""
    settings: PointSettings
    runs: tuple[PlannedRun, ...]


@dataclass(frozen=True)
class StudyPlan:
    """All grid points of a study."""

    spec: StudySpec
    points: tuple[PlannedPoint, ...]

    @property
    def jobs(self) -> list[Job]:
        """The jobs to compute, each once, references first."""
        runs = [run for point in self.points for run in point.runs]
        wanted = [run.floating for run in runs] + [run.ideal for run in runs] + [run.job for run in runs]
        return list({job.key: job for job in wanted}.values())

    def baseline(self, point: PlannedPoint) -> PlannedPoint | None:
        """The grid point that ``point`` is compared with, or None if that is ``point`` itself or does not exist.

        It has the baseline's labels, and the labels of ``point`` on all other axes; one in the same part comes first.
        """
        if not self.spec.baseline:
            return None
        wanted = point.labels | self.spec.baseline
        alike = [other for other in self.points if other.labels == wanted]
        own = [other for other in alike if other.part == point.part]
        found = next(iter(own or alike), None)
        return None if found is point else found

    @property
    def varies_mitigation(self) -> bool:
        """Whether the study has points of different mitigations."""
        return len({point.settings.mitigation for point in self.points}) > 1

    def unmitigated(self, point: PlannedPoint, run: PlannedRun) -> PlannedRun | None:
        """The run of the same network and draw without mitigation, all else equal; None if the study has none.

        One in the same part comes first. The run may be on more images, or on fewer, of the same order.
        """
        alike = self._unmitigated.get(_alike(point, run.network), [])
        found = [(part, other) for part, other in alike if other.draw == run.draw] or alike
        own = [other for part, other in found if part == point.part]
        return next(iter([*own, *(other for _, other in found)]), None)

    @cached_property
    def _unmitigated(self) -> dict[str, list[tuple[str, PlannedRun]]]:
        """The runs without mitigation, with their parts, by all else that is equal."""
        out: dict[str, list[tuple[str, PlannedRun]]] = {}
        for point in self.points:
            for run in point.runs if not point.settings.mitigation else ():
                out.setdefault(_alike(point, run.network), []).append((point.part, run))
        return out

    def pairs(self, axis: str) -> Iterator[tuple[PlannedPoint, PlannedPoint]]:
        """Every two points of one part that differ only on ``axis``, the later one first."""
        for k, point in enumerate(self.points):
            for other in self.points[:k]:
                labels = point.labels | {axis: other.labels[axis]}
                if other.part == point.part and other is not point and labels == other.labels:
                    yield point, other


def plan_study(
    spec: StudySpec, *, device: str = "cpu", data_root: Path | None = None, name_points: bool = True
) -> StudyPlan:
    """The plan of a study; all its settings, networks, images and circuits are checked to fit together.

    Errors name the grid point where they occur, unless ``name_points`` is False, as where users gave no grid.

    Raises:
        InputError: a setting is not allowed (the message has its name and the allowed values); a network takes other
            images or has no batch norm to refit; a baseline has another number of networks; or loading or conversion
            fails at a grid point.
    """
    asked = spec.points()
    settings, checks, points = list[PointSettings](), _Checks(device, data_root), list[PlannedPoint]()
    for point in asked:
        with _placing(point, name_points):
            settings.append(PointSettings.of(point.settings))
    for point, one in zip(asked, settings, strict=True):
        with _placing(point, name_points):
            runs = checks.runs(one)
        labels = {name: point.labels.get(name, make_label(one.in_force(name))) for name in spec.axes}
        points.append(PlannedPoint(point.part, labels, one, runs))
    plan = StudyPlan(spec, tuple(points))
    _check_comparisons(plan)
    return plan


class _Checks:
    """The checks of grid points; networks, images and surrogates that passed once are not loaded and checked again."""

    def __init__(self, device: str, data_root: Path | None) -> None:
        self.device, self.data_root = device, data_root
        self._networks: dict[Any, nn.Module] = {}
        self._digests: dict[Any, str] = {}
        self._reports: dict[str, ConversionReport] = {}

    def runs(self, settings: PointSettings) -> tuple[PlannedRun, ...]:
        """The runs of the grid point with these ``settings``, after checks."""
        emulator = make_emulator_of(settings).bind(settings.architecture)
        told = [identify(emulator)[0]]
        told += self._checked(settings)
        runs = []
        for name in settings.networks:
            self._check(settings, name)
            # The exact circuit is slow: it checks one network.
            asked = settings if name == settings.networks[0] else settings.replace(circuit_positions=0)
            for draw in range(settings.draws):
                job = self._job(asked, name, draw, told)
                ideal = self._job(replace_by_ideal_tiles(settings), name, 0, [])
                runs.append(PlannedRun(name, draw, job, ideal, self._job(settings, name, 0, [], floating=True)))
        return tuple(runs)

    def _job(self, settings: PointSettings, name: str, draw: int, told: list[Any], *, floating: bool = False) -> Job:
        shared = [__version__, torch.device(self.device).type, self._network(settings, name)[1], self._images(settings)]
        own: list[Any] = ["float"] if floating else [_that_matter(settings), draw, told, repr(read_full_scales(name))]
        return Job(settings, name, draw, floating, digest(shared, own), self.device, self.data_root)

    def _network(self, settings: PointSettings, name: str) -> tuple[nn.Module, str]:
        pruning = settings.prune
        known = (name, pruning, None if pruning is None else (settings.architecture.tile, settings.architecture.slices))
        if known not in self._networks:
            network = prepare_network(settings, name)
            self._networks[known] = network
            self._digests[known] = digest(dict(network.state_dict()), repr(network))
        return self._networks[known], self._digests[known]

    def _images(self, settings: PointSettings) -> str:
        known: ImageChoice = choose_images(settings)
        if known not in self._digests:
            found = load_images_of(known, "cpu", self.data_root)
            self._digests[known] = digest(found.tests, found.labels, found.calibration.images)
        return self._digests[known]

    def _checked(self, settings: PointSettings) -> list[Any]:
        """The values, besides its settings, that decide the point's check, once its emulator and images are checked."""
        if settings.check is None:
            return []
        emulator = load_emulator(settings.check.emulator, settings.crossbar).bind(settings.architecture)
        count = len(load_images_of(choose_images(settings), "cpu", self.data_root).labels)
        if settings.check.images > count:
            raise InputError(
                "check.images",
                settings.check.images,
                f"it must be at most {count}, the number of classified test images",
            )
        return [identify(emulator)[0]]

    def _check(self, settings: PointSettings, name: str) -> None:
        network = self._network(settings, name)[0]
        images = load_images_of(choose_images(settings), "cpu", self.data_root)
        shape, wanted = tuple(images.tests.shape[1:]), getattr(network, "input_shape", None)
        if wanted is not None and tuple(wanted) != shape:
            raise InputError(
                "data", f"{settings.data!r} of shape {shape}", f"{name} takes images of shape {tuple(wanted)}"
            )
        if "batch_norm" in settings.mitigation and (settings.fold or not has_batch_norms(network)):
            raise InputError(
                "mitigation",
                "'batch_norm'",
                f"{name} has no batch norm to refit: leave out batch_norm or set fold to false",
            )
        if "fine_tuning" in settings.mitigation:
            settings.fine_tuning.check_images(len(load_image_set(settings.data, True, self.data_root)))
        key = digest(self._network(settings, name)[1], replace_by_ideal_tiles(settings).to_dict() | {"images": 0})
        if key not in self._reports:
            self._reports[key] = dry_run(
                network,
                settings.architecture,
                IdealEmulator(),
                per_layer=read_full_scales(name),
                example=images.tests[:1],
                layout=settings.layout,
                fold=settings.fold,
            )


@contextmanager
def _placing(point: Point, name_points: bool) -> Iterator[None]:
    """A context whose errors name the grid point where they occur."""
    try:
        yield
    except InputError as error:
        where = f" (in {_told(point)})" if point.labels and name_points else ""
        raise InputError(error.name, error.value, f"{error.allowed}{where}") from None
    except GeniexError as error:
        if not name_points:
            raise
        raise InputError(_told(point), "a point that is not possible", str(error)) from None


def _that_matter(settings: PointSettings) -> dict[str, Any]:
    """The settings that a result depends on, apart from network and draw."""
    told = settings.replace(networks=("",), draws=1)
    if "fine_tuning" not in settings.mitigation:
        told = told.replace(fine_tuning=FineTuning())
    if settings.remapping == "none":
        told = told.replace(remapping_images=None)
    return {name: value for name, value in told.to_dict().items() if name not in ("networks", "draws")}


def _check_comparisons(plan: StudyPlan) -> None:
    """Raise ``InputError`` if a point has no baseline at all, or is compared with one that it cannot be paired with."""
    if plan.spec.baseline:
        pairs = [(point, other) for point in plan.points if (other := plan.baseline(point)) is not None]
        if not pairs:
            allowed = "no other point has a baseline point: name values of axes that are combined"
            raise InputError("baseline", plan.spec.baseline, allowed)
        _check_pairs("baseline", pairs)
    for axis in plan.spec.differences:
        _check_pairs("differences", list(plan.pairs(axis)))


def _check_pairs(name: str, pairs: list[tuple[PlannedPoint, PlannedPoint]]) -> None:
    for point, other in pairs:
        if len(point.settings.networks) != len(other.settings.networks):
            given = f"{len(other.settings.networks)} and {len(point.settings.networks)} networks"
            raise InputError(name, given, "networks are compared in pairs, in the order given: list equally many")
        if _image_order(point.settings) != _image_order(other.settings):
            allowed = "give them the same data and seed, and let images be null for all of them or for none"
            raise InputError(name, "points on different images", f"points are compared on the same images: {allowed}")


def _image_order(settings: PointSettings) -> tuple[str, int | None]:
    """The settings that decide the order of the test images; fewer images are the first ones of more images."""
    return settings.data, None if settings.images is None else settings.seed


def _alike(point: PlannedPoint, network: str) -> str:
    """Digest of all that a run's images and crossbars depend on, apart from mitigation, number of images and draw."""
    return digest(point.settings.unmitigated.to_dict(), network)


def _told(point: Point) -> str:
    told = ", ".join(f"{name} {label}" for name, label in point.labels.items())
    return f"{point.part}: {told}" if told else point.part
