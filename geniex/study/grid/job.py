"""One job of a study: a network runs on crossbars at one grid point's settings and classifies the test images."""

from __future__ import annotations

import time
import warnings
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from geniex.emulator import CircuitEmulator, Emulator, IdealEmulator, LinearEmulator, SurrogateEmulator
from geniex.errors import ConversionWarning, GeniexError
from geniex.mapping import ConductanceWindow
from geniex.mitigation import REMAPPINGS, Batch, correct_outputs, fine_tune, prune, refit_batch_norm, remap
from geniex.networks import ImageSet, load_images, load_network, network_info
from geniex.networks.images import MovedBatches
from geniex.networks.train import AugmentedBatches, FitConfig
from geniex.simulator import ConversionReport, LayerRule, arranged, arrangements, convert, vary
from geniex.study.grid.counts import converter_use, counted
from geniex.study.grid.settings import CellSettings
from geniex.study.statistics import finite, logit_error
from geniex.surrogate import load_surrogate
from geniex.threads import one_thread
from geniex.variation import derive_seed

_BATCH = 250
"""Images in one forward pass."""
_STEP = 50
"""Images in one step of fine-tuning."""


@dataclass(frozen=True)
class Job:
    """One network at one grid point's settings: on crossbars with one draw of their devices, or in floating point."""

    settings: CellSettings
    network: str
    draw: int
    floating: bool
    """Whether the network runs in floating point, without crossbars."""
    key: str
    """Digest of everything that the result depends on."""
    device: str
    data_root: Path | None

    @property
    def name(self) -> str:
        """The job's name in progress messages and file names."""
        return f"{'float-' if self.floating else ''}{Path(self.network).name}"


@dataclass(frozen=True)
class Images:
    """The images of a job."""

    tests: Tensor
    """Test images (count, C, H, W)."""
    labels: Tensor
    calibration: Batch


def run_job(job: Job) -> dict[str, Any] | str:
    """The result of a job, JSON-ready, or the reason why it has none."""
    try:
        with one_thread():
            return _result(job)
    except GeniexError as error:
        return str(error)
    except Exception as error:  # an error of torch or of a network ends this job alone; the others go on
        return f"{type(error).__name__}: {error}".strip()


def emulator_of(settings: CellSettings) -> Emulator:
    """The emulator that ``settings`` name, for their crossbar."""
    if settings.emulator == "ideal":
        return IdealEmulator()
    if settings.emulator == "linear":
        return LinearEmulator(settings.crossbar)
    if settings.emulator == "circuit":
        return CircuitEmulator(settings.crossbar)
    return SurrogateEmulator(_surrogate(settings.emulator), settings.crossbar)


def prepared_network(settings: CellSettings, name: str) -> nn.Module:
    """The network ``name``, pruned if the settings ask for it."""
    network: nn.Module = load_network(name)
    if settings.prune is None:
        return network
    asked = settings.prune
    return prune(
        network,
        asked.method,
        asked.sparsity,
        tile=asked.tile or settings.architecture,
        criterion=asked.criterion,
        scope=asked.scope,
        skip=asked.skip,
    ).model


def full_scales(name: str) -> dict[str, LayerRule]:
    """The weight full scales of a network whose weights were clipped in weight-constrained training (WCT), as rules."""
    scales = network_info(name).get("weight_full_scale") or {}
    return {layer: LayerRule(weight_full_scale=scale) for layer, scale in scales.items()}


def on_ideal_tiles(settings: CellSettings) -> CellSettings:
    """The settings of the reference of ``settings``: ideal tiles without variations or mitigation.

    On ideal tiles the window and the drive cancel. They are set to fixed values here, so that all grid points of one
    architecture share one reference.
    """
    arch = settings.architecture.replace(window=ConductanceWindow(100e3, 6.0), v_max=0.25)
    rows, cols = arch.tile
    plain = type(settings.crossbar)(rows, cols)
    return settings.replace(
        emulator="ideal",
        crossbar=plain,
        architecture=arch,
        variations=None,
        mitigation=(),
        fine_tuning_steps=1,
        draws=1,
        energy="ideal",
    )


@lru_cache(maxsize=4)
def images_of(data: str, images: int | None, calibration: int, seed: int, device: str, root: Path | None) -> Images:
    """The test and calibration images on ``device``; with one seed, a smaller test set is the start of a larger one."""
    training, tests = _image_set(data, True, root), _image_set(data, False, root)
    chosen = tests if images is None else tests.subset(images, seed)
    drawn = training.subset(min(calibration, len(training)), seed)
    (x, y), (cx, cy) = ([t.to(device) for t in s.batch(torch.arange(len(s)))] for s in (chosen, drawn))
    return Images(x, y, Batch(cx, cy))


def images_for(job: Job) -> Images:
    """The images of a job."""
    s = job.settings
    return images_of(s.data, s.images, s.calibration_images, s.seed, job.device, job.data_root)


@lru_cache(maxsize=4)
def _image_set(data: str, train: bool, root: Path | None) -> ImageSet:
    return load_images(data, train=train, root=root)


@lru_cache(maxsize=8)
def _surrogate(name: str) -> Any:
    return load_surrogate(name)


def _result(job: Job) -> dict[str, Any]:
    began = time.perf_counter()
    images = images_for(job)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(job.settings.seed, "cell", job.draw))
        network = prepared_network(job.settings, job.network).to(job.device)
        truth = _logits(network.eval(), images)
        model, counts = (network, {}) if job.floating else _converted(job, network, images)
        logits = _logits(model, images)
    right = logits.argmax(-1) == images.labels
    return {
        "right": "".join("1" if x else "0" for x in right.tolist()),
        "classes": logits.shape[-1],
        "logit_error": [finite(value) for value in logit_error(logits, truth)],
        **counts,
        "seconds": time.perf_counter() - began,
    }


def _logits(model: nn.Module, images: Images) -> Tensor:
    """The logits of the test images (images, classes)."""
    with torch.no_grad():
        return torch.cat([model(part) for part in images.tests.split(_BATCH)])


def _converted(job: Job, network: nn.Module, images: Images) -> tuple[nn.Module, dict[str, float | None]]:
    """The network on crossbars with mitigation and varied devices, and its figures of ``COUNTS`` and ``CONVERTERS``.

    Remapping and fine-tuning know the circuit but not the devices' deviations. Output gains and batch norms are fitted
    to the crossbars with these deviations.
    """
    settings = job.settings
    model = _remapped(settings, network, job.network, images.calibration)
    if "fine_tuning" in settings.mitigation:
        model = _fine_tuned(job, network, model, images.calibration)
    report: ConversionReport = model.conversion  # type: ignore[assignment]
    if settings.variations is not None:
        model = vary(model, settings.variations, derive_seed(settings.seed, "draw", job.draw))
    if "gain" in settings.mitigation:
        model = correct_outputs(model, images.calibration.images)
    if "batch_norm" in settings.mitigation:
        model = refit_batch_norm(model, images.calibration.images)
    return model, counted(model, images.tests, settings.energy) | converter_use(report)


def _convert(settings: CellSettings, network: nn.Module, name: str, calibration: Batch, **options: Any) -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConversionWarning)  # clipping and overflows have columns in the tables
        return convert(
            network,
            settings.architecture,
            emulator_of(settings),
            per_layer=full_scales(name),
            calibration=calibration.images,
            layout=settings.layout,
            fold=settings.fold,
            **options,
        )


def _remapped(settings: CellSettings, network: nn.Module, name: str, calibration: Batch) -> nn.Module:
    with torch.no_grad():
        model = _convert(settings, network, name, calibration)
    if settings.remapping == "none":
        return model
    return remap(model, REMAPPINGS[settings.remapping].replace(seed=settings.seed), calibration).model


def _fine_tuned(job: Job, network: nn.Module, mapped: nn.Module, calibration: Batch) -> nn.Module:
    settings = job.settings
    model = _convert(settings, network, job.network, calibration, trainable=True)
    if settings.remapping != "none":
        model = arranged(model, arrangements(mapped))
    batches = AugmentedBatches(
        _image_set(settings.data, True, job.data_root), FitConfig(batch=_STEP, seed=settings.seed)
    )
    moved = MovedBatches(batches, torch.device(job.device))
    fine_tune(model, moved, steps=settings.fine_tuning_steps, gradients="ideal")
    return model
