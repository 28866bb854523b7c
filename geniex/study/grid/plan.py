"""The plan of a study: its grid points and jobs, all checked before the first job runs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from geniex import __version__
from geniex.emulator import IdealEmulator
from geniex.emulator.identity import identity
from geniex.errors import GeniexError, InputError
from geniex.jobs import digest
from geniex.mitigation.batch_norm import has_batch_norms
from geniex.simulator import ConversionReport, dry_run
from geniex.study.grid.job import Job, emulator_of, full_scales, images_of, on_ideal_tiles, prepared_network
from geniex.study.grid.settings import CellSettings
from geniex.study.grid.spec import Label, Point, StudySpec, label_of


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
class Cell:
    """One grid point, a combination of values, and its runs."""

    part: str
    labels: dict[str, Label]
    """Labels on all axes of the study; an axis that the part does not vary has the label of its fixed value."""
    settings: CellSettings
    runs: tuple[PlannedRun, ...]


@dataclass(frozen=True)
class StudyPlan:
    """All grid points of a study."""

    spec: StudySpec
    cells: tuple[Cell, ...]

    @property
    def jobs(self) -> list[Job]:
        """The jobs to compute, each once, references first."""
        runs = [run for cell in self.cells for run in cell.runs]
        wanted = [run.floating for run in runs] + [run.ideal for run in runs] + [run.job for run in runs]
        return list({job.key: job for job in wanted}.values())

    def baseline(self, cell: Cell) -> Cell | None:
        """The grid point that ``cell`` is compared with, or None if that is ``cell`` itself or does not exist.

        It has the baseline's labels, and the labels of ``cell`` on all other axes; one in the same part comes first.
        """
        if not self.spec.baseline:
            return None
        wanted = cell.labels | self.spec.baseline
        alike = [other for other in self.cells if other.labels == wanted]
        own = [other for other in alike if other.part == cell.part]
        found = next(iter(own or alike), None)
        return None if found is cell else found


def planned(spec: StudySpec, *, device: str = "cpu", data_root: Path | None = None) -> StudyPlan:
    """The plan of a study; all its settings, networks, images and circuits are checked to fit together.

    Raises:
        InputError: a setting is not allowed (the message has its name and the allowed values); a network takes other
            images or has no batch norm to refit; a baseline has another number of networks; or loading or conversion
            fails at a grid point.
    """
    points = spec.points()
    settings = [_settings(point) for point in points]
    checks = _Checks(device, data_root)
    cells = []
    for point, one in zip(points, settings, strict=True):
        try:
            runs = checks.runs(one)
        except InputError as error:
            raise _placed(error, point) from None
        except GeniexError as error:
            raise InputError(_told(point), "a cell that cannot be", str(error)) from None
        labels = {name: point.labels.get(name, label_of(one.in_force(name))) for name in spec.axes}
        cells.append(Cell(point.part, labels, one, runs))
    plan = StudyPlan(spec, tuple(cells))
    _check_baseline(plan)
    return plan


class _Checks:
    """The checks of grid points; networks, images and surrogates that passed once are not loaded and checked again."""

    def __init__(self, device: str, data_root: Path | None) -> None:
        self.device, self.data_root = device, data_root
        self._networks: dict[Any, nn.Module] = {}
        self._digests: dict[Any, str] = {}
        self._reports: dict[str, ConversionReport] = {}

    def runs(self, settings: CellSettings) -> tuple[PlannedRun, ...]:
        """The runs of the grid point with these ``settings``, after checks."""
        emulator = emulator_of(settings).bind(settings.architecture)
        told = [identity(emulator)[0]]
        runs = []
        for name in settings.networks:
            self._check(settings, name)
            for draw in range(settings.draws):
                job = self._job(settings, name, draw, told)
                ideal = self._job(on_ideal_tiles(settings), name, 0, [])
                runs.append(PlannedRun(name, draw, job, ideal, self._job(settings, name, 0, [], floating=True)))
        return tuple(runs)

    def _job(self, settings: CellSettings, name: str, draw: int, told: list[Any], *, floating: bool = False) -> Job:
        shared = [__version__, torch.device(self.device).type, self._network(settings, name)[1], self._images(settings)]
        own: list[Any] = ["float"] if floating else [_that_matter(settings), draw, told, repr(full_scales(name))]
        return Job(settings, name, draw, floating, digest(shared, own), self.device, self.data_root)

    def _network(self, settings: CellSettings, name: str) -> tuple[nn.Module, str]:
        pruning = settings.prune
        known = (name, pruning, None if pruning is None else (settings.architecture.tile, settings.architecture.slices))
        if known not in self._networks:
            network = prepared_network(settings, name)
            self._networks[known] = network
            self._digests[known] = digest(dict(network.state_dict()), repr(network))
        return self._networks[known], self._digests[known]

    def _images(self, settings: CellSettings) -> str:
        s = settings
        known = (s.data, s.images, s.calibration_images, s.seed)
        if known not in self._digests:
            found = images_of(*known, "cpu", self.data_root)
            self._digests[known] = digest(found.tests, found.labels, found.calibration.images)
        return self._digests[known]

    def _check(self, settings: CellSettings, name: str) -> None:
        network = self._network(settings, name)[0]
        images = images_of(
            settings.data, settings.images, settings.calibration_images, settings.seed, "cpu", self.data_root
        )
        shape, wanted = tuple(images.tests.shape[1:]), getattr(network, "input_shape", None)
        if wanted is not None and tuple(wanted) != shape:
            raise InputError("data", f"{settings.data!r} of shape {shape}", f"{name} takes images of {tuple(wanted)}")
        if "batch_norm" in settings.mitigation and (settings.fold or not has_batch_norms(network)):
            raise InputError("mitigation", "'batch_norm'", f"{name} has no batch norm left to refit")
        key = digest(self._network(settings, name)[1], on_ideal_tiles(settings).to_dict() | {"images": 0})
        if key not in self._reports:
            self._reports[key] = dry_run(
                network,
                settings.architecture,
                IdealEmulator(),
                per_layer=full_scales(name),
                example=images.tests[:1],
                layout=settings.layout,
                fold=settings.fold,
            )


def _settings(point: Point) -> CellSettings:
    try:
        return CellSettings.of(point.settings)
    except InputError as error:
        raise _placed(error, point) from None


def _placed(error: InputError, point: Point) -> InputError:
    """The error with the grid point where it occurred."""
    where = f" (in {_told(point)})" if point.labels else ""
    return InputError(error.name, error.value, f"{error.allowed}{where}")


def _that_matter(settings: CellSettings) -> dict[str, Any]:
    """The settings that a result depends on, apart from network and draw."""
    tuned = "fine_tuning" in settings.mitigation
    told = settings.replace(networks=("",), draws=1, fine_tuning_steps=settings.fine_tuning_steps if tuned else 1)
    return {name: value for name, value in told.to_dict().items() if name not in ("networks", "draws")}


def _check_baseline(plan: StudyPlan) -> None:
    if not plan.spec.baseline:
        return
    pairs = [(cell, other) for cell in plan.cells if (other := plan.baseline(cell)) is not None]
    if not pairs:
        raise InputError("baseline", plan.spec.baseline, "no other cell has one: name values of axes that are combined")
    for cell, other in pairs:
        if len(cell.settings.networks) != len(other.settings.networks):
            given = f"{len(other.settings.networks)} networks, where others have {len(cell.settings.networks)}"
            raise InputError("baseline", given, "trainings are compared in pairs, in the order in which they are given")


def _told(point: Point) -> str:
    told = ", ".join(f"{name} {label}" for name, label in point.labels.items())
    return f"{point.part}: {told}" if told else point.part
