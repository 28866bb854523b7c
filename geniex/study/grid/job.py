"""One job of a study: a network runs on crossbars at one grid point's settings and classifies the test images."""

from __future__ import annotations

import time
import warnings
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from geniex.circuit import Crossbar
from geniex.emulator import CircuitEmulator, Emulator, IdealEmulator, LinearEmulator, SurrogateEmulator
from geniex.errors import ConversionWarning, GeniexError, InputError
from geniex.mapping import ConductanceWindow
from geniex.mitigation import REMAPPINGS, Batch, RemappedLayer, correct_outputs, prune, refit_batch_norm, remap
from geniex.networks import ImageSet, load_images, load_network, network_info
from geniex.simulator import ConversionReport, LayerRule, arrange, convert, read_arrangements, replace_emulator, vary
from geniex.study.grid.counts import count, read_converter_use
from geniex.study.grid.fine_tuning import Say, fine_tune_copy
from geniex.study.grid.groups import EmulatorCheck, FineTuning
from geniex.study.grid.layer_errors import measure_layer_errors
from geniex.study.grid.settings import PointSettings
from geniex.study.statistics import measure_logit_error, to_finite
from geniex.surrogate import load_surrogate
from geniex.threads import one_thread
from geniex.variation import derive_seed

_BATCH = 250
"""Images in one forward pass."""
_CHECKED = 32
"""Calibration images whose layer inputs the exact circuit gets as a check."""


@dataclass(frozen=True)
class Job:
    """One network at one grid point's settings: on crossbars with one draw of their devices, or in floating point."""

    settings: PointSettings
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


class ImageChoice(NamedTuple):
    """The choice of a job's images; the fields are those of the settings."""

    data: str
    images: int | None
    first_images: int | None
    calibration_images: int
    calibration_start: int
    seed: int


@dataclass(frozen=True)
class Images:
    """The images of a job."""

    tests: Tensor
    """Test images (count, C, H, W)."""
    labels: Tensor
    calibration: Batch


@dataclass(frozen=True)
class Computed:
    """The result of a job, and the network that it is about."""

    result: dict[str, Any]
    """The result that is kept, JSON-ready."""
    model: nn.Module = field(repr=False)
    """The network that has classified the test images."""


def run_job(job: Job) -> dict[str, Any] | str:
    """The result of a job, JSON-ready, or the reason why it has none."""
    try:
        with one_thread():
            return compute(job).result
    except GeniexError as error:
        return str(error)
    except Exception as error:  # an error of torch or of a network ends only this job
        return f"{type(error).__name__}: {error}".strip()


def make_emulator_of(settings: PointSettings) -> Emulator:
    """The emulator that ``settings`` name, for their crossbar."""
    return load_emulator(settings.emulator, settings.crossbar)


def load_emulator(name: str, crossbar: Crossbar) -> Emulator:
    """The emulator of a crossbar by name: "ideal", "linear", "circuit", or the name or path of a surrogate."""
    if name == "ideal":
        return IdealEmulator()
    if name == "linear":
        return LinearEmulator(crossbar)
    if name == "circuit":
        return CircuitEmulator(crossbar)
    return SurrogateEmulator(_surrogate(name), crossbar)


def prepare_network(settings: PointSettings, name: str) -> nn.Module:
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


def read_full_scales(name: str) -> dict[str, LayerRule]:
    """The weight full scales of a network whose weights were clipped in weight-constrained training (WCT), as rules."""
    scales = network_info(name).get("weight_full_scale") or {}
    return {layer: LayerRule(weight_full_scale=scale) for layer, scale in scales.items()}


def replace_by_ideal_tiles(settings: PointSettings) -> PointSettings:
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
        remapping_images=None,
        fine_tuning=FineTuning(),
        check=None,
        circuit_positions=0,
        draws=1,
        energy="ideal",
    )


def choose_images(settings: PointSettings) -> ImageChoice:
    """The choice of images that ``settings`` make."""
    return ImageChoice(*(getattr(settings, name) for name in ImageChoice._fields))


@lru_cache(maxsize=4)
def load_images_of(choice: ImageChoice, device: str, root: Path | None) -> Images:
    """The test and calibration images on ``device``.

    With one seed, a smaller drawn test set is the start of a larger one.
    """
    training, tests = (load_image_set(choice.data, train, root) for train in (True, False))
    if choice.images is not None and choice.images > len(tests):
        raise InputError("images", choice.images, f"it must be 1 to {len(tests)}, the number of images in the set")
    drawn = tests if choice.images is None else tests.subset(choice.images, choice.seed)
    count, start = len(drawn) if choice.first_images is None else choice.first_images, choice.calibration_start
    if count > len(drawn):
        raise InputError("first_images", count, f"there are {len(drawn)} test images")
    if start >= len(training):
        raise InputError("calibration_start", start, f"there are {len(training)} training images")
    calibration = training.subset(min(start + choice.calibration_images, len(training)), choice.seed)
    (x, y), (cx, cy) = drawn.batch(torch.arange(count)), calibration.batch(torch.arange(start, len(calibration)))
    return Images(x.to(device), y.to(device), Batch(cx.to(device), cy.to(device)))


@lru_cache(maxsize=4)
def load_image_set(data: str, train: bool, root: Path | None) -> ImageSet:
    """The training or the test images of a data set."""
    return load_images(data, train=train, root=root)


@lru_cache(maxsize=8)
def _surrogate(name: str) -> Any:
    return load_surrogate(name)


def compute(job: Job, say: Say = lambda what, done, whole: None) -> Computed:
    """The result of a job, and the network that it is about; ``say`` is called as long parts of the work go on."""
    began = time.perf_counter()
    images = load_images_of(choose_images(job.settings), job.device, job.data_root)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(job.settings.seed, "cell", job.draw))
        network = prepare_network(job.settings, job.network).to(job.device)
        truth = _logits(network.eval(), images.tests)
        model, figures = (network, {}) if job.floating else _on_crossbars(job, network, images, say)
        logits = _logits(model, images.tests, say)
        if job.settings.check is not None and not job.floating:
            figures |= _checked(job.settings.check, job.settings.crossbar, model, images, logits)
    right = logits.argmax(-1) == images.labels
    result = {
        "right": "".join("1" if x else "0" for x in right.tolist()),
        "classes": logits.shape[-1],
        "logit_error": [to_finite(value) for value in measure_logit_error(logits, truth)],
        **figures,
        "seconds": time.perf_counter() - began,
    }
    return Computed(result, model)


def _logits(model: nn.Module, images: Tensor, say: Say = lambda what, done, whole: None) -> Tensor:
    """The logits (images, classes) of some images."""
    parts: list[Tensor] = []
    with torch.no_grad():
        for part in images.split(_BATCH):
            parts.append(model(part))
            say("test images", sum(map(len, parts)), len(images))
    return torch.cat(parts)


def _on_crossbars(job: Job, network: nn.Module, images: Images, say: Say) -> tuple[nn.Module, dict[str, Any]]:
    """The network on crossbars with mitigation and varied devices, and its figures apart from the logits.

    Remapping and fine-tuning know the circuit but not the devices' deviations. Output gains and batch norms are fitted
    to the crossbars with these deviations.
    """
    settings = job.settings
    with torch.no_grad():
        plain = _convert(settings, network, job.network, images.calibration)
    model, figures = _remapped(job, plain, images, say)
    if "fine_tuning" in settings.mitigation:
        model, tried = _fine_tuned(job, network, model, images.calibration, say)
        figures["learning_rates"] = tried
    report: ConversionReport = model.conversion  # type: ignore[assignment]
    if settings.variations is not None:
        model = vary(model, settings.variations, derive_seed(settings.seed, "draw", job.draw))
    if "gain" in settings.mitigation:
        model = correct_outputs(model, images.calibration.images)
    if "batch_norm" in settings.mitigation:
        model = refit_batch_norm(model, images.calibration.images)
    return model, count(model, images.tests, settings.energy) | read_converter_use(report) | figures


def _convert(settings: PointSettings, network: nn.Module, name: str, calibration: Batch, **options: Any) -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConversionWarning)  # clipping and overflows have columns in the tables
        return convert(
            network,
            settings.architecture,
            make_emulator_of(settings),
            per_layer=read_full_scales(name),
            calibration=calibration.images,
            layout=settings.layout,
            fold=settings.fold,
            **options,
        )


def _remapped(job: Job, plain: nn.Module, images: Images, say: Say) -> tuple[nn.Module, dict[str, Any]]:
    """The converted network with its outputs moved; the places per layer, and the layers' errors if they are asked."""
    settings, model, figures = job.settings, plain, dict[str, Any]()
    if settings.remapping != "none":
        asked = REMAPPINGS[settings.remapping].replace(seed=settings.seed)
        count = settings.remapping_images or settings.calibration_images
        moved = remap(
            plain,
            asked,
            images.calibration.first(count),
            progress=lambda layer, done, whole: say("remapping", done, whole),
        )
        model = moved.model
        figures["places"] = [_place(layer) for layer in moved.layers]
    if settings.circuit_positions:
        found = measure_layer_errors(
            model,
            plain,
            settings.crossbar,
            images.calibration.first(_CHECKED),
            positions=settings.circuit_positions,
            seed=settings.seed,
        )
        figures["layers"] = [asdict(error) for error in found]
    return model, figures


def _place(layer: RemappedLayer) -> dict[str, Any]:
    told = asdict(layer)
    return {"layer": told.pop("name")} | told | {"consumers": ", ".join(layer.consumers)}


def _fine_tuned(
    job: Job, network: nn.Module, mapped: nn.Module, calibration: Batch, say: Say
) -> tuple[nn.Module, list[dict[str, Any]]]:
    settings, asked = job.settings, job.settings.fine_tuning
    # The crossbars' own gradients need every intermediate result, so these are computed again in the backward pass.
    checkpoint = True if asked.gradients == "emulator" else None
    model = _convert(settings, network, job.network, calibration, trainable=True, checkpoint=checkpoint)
    if settings.remapping != "none":
        model = arrange(model, read_arrangements(mapped))
    training = load_image_set(settings.data, True, job.data_root)
    tuned, tried = fine_tune_copy(model, training, asked, seed=settings.seed, device=job.device, say=say)
    return tuned, [asdict(run) for run in tried]


def _checked(
    asked: EmulatorCheck, crossbar: Crossbar, model: nn.Module, images: Images, logits: Tensor
) -> dict[str, Any]:
    """The accuracy of the same arrays by another emulator, and how often both predict the same class."""
    labels, own = images.labels[: asked.images], logits[: asked.images].argmax(-1)
    judge = replace_emulator(model, load_emulator(asked.emulator, crossbar))
    told = _logits(judge, images.tests[: asked.images]).argmax(-1)
    return {
        "check_accuracy": float((told == labels).double().mean()),
        "check_agreement": float((told == own).double().mean()),
    }
