"""Accuracy that fine-tuning recovers on crossbars, with the gradients of the crossbars and of the ideal product."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from geniex import __version__
from geniex.config import check_positive_int
from geniex.emulator import CircuitEmulator, SurrogateEmulator
from geniex.errors import InputError
from geniex.mapping import Architecture
from geniex.mitigation import fine_tune
from geniex.networks import ImageSet
from geniex.networks.train import AugmentedBatches, FitConfig
from geniex.preset import Preset
from geniex.simulator import convert
from geniex.simulator.matrix import Gradients
from geniex.study.statistics import bootstrap_ratio, wilson_interval

Progress = Callable[[str, int, int], None]
"""A function called with a description of the current work, the part done and the whole."""

METHODS: dict[str, Gradients] = {"plain": "ideal", "crossbar-aware": "emulator"}
"""Source of the gradients in each kind of fine-tuning; the loss of both is on the crossbars' outputs."""
_BATCH = 50
"""Images in one forward pass outside training."""
_VALIDATION = 500
"""Training images that choose the learning rate; they are left out of training."""
_CALIBRATION = 128
"""Training images that choose the input ranges."""


@dataclass(frozen=True)
class Run:
    """One run of fine-tuning."""

    method: str
    learning_rate: float
    training_loss: float
    """Mean loss over the last tenth of the steps."""
    validation_loss: float
    validation_accuracy: float
    seconds_per_step: float
    chosen: bool = False
    """Whether the validation loss is the lowest of the method's runs."""


@dataclass(frozen=True)
class State:
    """The network's accuracy on the test images before or after fine-tuning."""

    name: str
    """State of the network: "float", "before", or the method of the chosen run."""
    accuracy: float
    low: float
    high: float
    """Ends of the 95 % Wilson interval of the accuracy."""
    recovered: float | None = None
    """Share of the accuracy lost from "float" to "before" that fine-tuning recovers."""
    recovered_low: float | None = None
    recovered_high: float | None = None
    """Ends of the 95 % bootstrap interval of the share over the images."""
    check_accuracy: float | None = None
    """Accuracy on the first images by another model of the same crossbars."""
    check_agreement: float | None = None
    """Share of the first images on which both models predict the same class."""


@dataclass(frozen=True)
class FineTuningStudy:
    """The result of ``study_fine_tuning``."""

    states: tuple[State, ...]
    runs: tuple[Run, ...]
    configuration: dict[str, Any]
    models: dict[str, nn.Module] = field(repr=False, compare=False)
    """Converted network that each method has trained at its chosen learning rate, by method."""

    def to_dict(self) -> dict[str, Any]:
        """The study as JSON-ready plain values, without the models."""
        return {
            "states": [asdict(state) for state in self.states],
            "runs": [asdict(run) for run in self.runs],
            "configuration": self.configuration,
        }


def study_fine_tuning(
    network: nn.Module,
    training: ImageSet,
    tests: ImageSet,
    *,
    preset: Preset,
    architecture: Architecture,
    surrogate: str = "physics-fast",
    steps: int = 100,
    batch: int = 64,
    learning_rates: Sequence[float] = (3e-4, 1e-3),
    check: str | None = "physics",
    check_images: int = 100,
    seed: int = 0,
    progress: Progress | None = None,
) -> FineTuningStudy:
    """The accuracy of ``network`` on crossbars before fine-tuning and after each of ``METHODS``.

    Each method sees the same batches at each learning rate. The rate is chosen on training images that are left out of
    training.

    Args:
        network: a classifier whose batch norms are folded.
        training: images to train on, shifted by up to a pixel and mirrored at random.
        tests: images to classify.
        preset: preset of the crossbar.
        architecture: the digital side.
        surrogate: surrogate that models the crossbar.
        steps: training steps of each run.
        batch: images per step.
        learning_rates: learning rates to choose from.
        check: another surrogate, or "circuit" for the exact circuit, that runs the trained weights; None leaves the
            check out.
        check_images: number of test images for the check.
        seed: seed of the batches and of the images left out.
        progress: called as the study goes on.
    """
    check_positive_int("batch", batch)
    if not learning_rates:
        raise InputError("learning_rates", "none", "give at least one")
    if check is not None and not 1 <= check_images <= len(tests):
        raise InputError("check_images", check_images, f"give 1 to {len(tests)}, the test images that there are")
    if len(training) - _VALIDATION < batch:
        allowed = f"at least one batch of {batch} beside the {_VALIDATION} that choose the learning rate"
        raise InputError("training", f"{len(training)} images", allowed)
    say = progress or (lambda what, done, whole: None)
    shuffled = training.subset(len(training), seed)
    left_out, kept = _part(shuffled, slice(_VALIDATION)), _part(shuffled, slice(_VALIDATION, None))
    calibration = kept.batch(torch.arange(min(_CALIBRATION, len(kept))))[0]

    def on(name: str) -> nn.Module:
        emulator = CircuitEmulator(preset.crossbar) if name == "circuit" else SurrogateEmulator(name, preset.crossbar)
        return convert(network, architecture, emulator, calibration=calibration, trainable=True, checkpoint=True)

    converted, judge = on(surrogate), None if check is None else on(check)
    book = _Book(tests, check_images, judge, say)
    book.enter("float", copy.deepcopy(network).eval(), checked=False)
    book.enter("before", converted)
    runs, models = list[Run](), dict[str, nn.Module]()
    for method in METHODS:
        tried: list[tuple[Run, nn.Module]] = []
        for rate in learning_rates:
            batches = AugmentedBatches(kept, FitConfig(batch=batch, seed=seed))
            tried.append(_tuned(converted, batches, left_out, method, rate, steps, say))
        best, models[method] = min(tried, key=lambda pair: pair[0].validation_loss)
        runs += [replace(run, chosen=run is best) for run, _ in tried]
        book.enter(method, models[method])
    configuration = {
        "geniex_version": __version__,
        "torch_version": torch.__version__,
        "preset": preset.to_dict(),
        "architecture": architecture.to_dict(),
        "surrogate": surrogate,
        "steps": steps,
        "batch": batch,
        "seed": seed,
        "test_images": len(tests),
        "check": check,
        "check_images": check_images,
    }
    return FineTuningStudy(tuple(book.states), tuple(runs), configuration, models)


class _Book:
    """The states of the network in the order in which they are measured."""

    def __init__(self, tests: ImageSet, check_images: int, judge: nn.Module | None, say: Progress) -> None:
        self.tests, self.first, self.judge, self.say = tests, _part(tests, slice(check_images)), judge, say
        self.right: dict[str, Tensor] = {}
        self.states: list[State] = []

    def enter(self, name: str, model: nn.Module, checked: bool = True) -> None:
        """Classify all test images with ``model``, and the first ones with the judge at the same weights and scales."""
        predicted = _logits(model, self.tests, name, self.say).argmax(-1)
        own = self.right[name] = predicted == self.tests.labels
        low, high = wilson_interval(int(own.sum()), len(own))
        state = replace(State(name, _share(own), low, high), **self._recovered(own))
        if self.judge is not None and checked:
            self.judge.load_state_dict(model.state_dict())
            told = _logits(self.judge, self.first, f"{name}, checked", self.say).argmax(-1)
            state = replace(
                state,
                check_accuracy=_share(told == self.first.labels),
                check_agreement=_share(told == predicted[: len(told)]),
            )
        self.states.append(state)

    def _recovered(self, own: Tensor) -> dict[str, Any]:
        if "before" not in self.right or own is self.right["before"]:
            return {}
        before = self.right["before"].double()
        back, lost = own.double() - before, self.right["float"].double() - before
        if float(lost.sum()) <= 0:
            return {}
        share, (low, high) = float(back.sum() / lost.sum()), bootstrap_ratio(back, lost)
        # If next to nothing was lost, some resamples lose nothing, and the share has no interval.
        known = {"recovered_low": low, "recovered_high": high} if math.isfinite(low + high) else {}
        return {"recovered": share} | known


def _tuned(
    converted: nn.Module,
    batches: AugmentedBatches,
    left_out: ImageSet,
    method: str,
    rate: float,
    steps: int,
    say: Progress,
) -> tuple[Run, nn.Module]:
    """One run of fine-tuning on a copy of ``converted``, and the trained copy."""
    model, what, start = copy.deepcopy(converted), f"{method}, {rate:g}", time.perf_counter()
    losses = fine_tune(
        model,
        batches,
        steps=steps,
        learning_rate=rate,
        gradients=METHODS[method],
        progress=lambda done, whole, loss: say(what, done, whole),
    )
    seconds = (time.perf_counter() - start) / steps
    last = losses[-max(1, steps // 10) :]
    logits = _logits(model, left_out, f"{what}, validation", say)
    loss = float(functional.cross_entropy(logits, left_out.labels))
    share = _share(logits.argmax(-1) == left_out.labels)
    return Run(method, rate, sum(last) / len(last), loss, share, seconds), model


@torch.no_grad()
def _logits(model: nn.Module, images: ImageSet, what: str, say: Progress) -> Tensor:
    parts = []
    for indices in torch.arange(len(images)).split(_BATCH):
        parts.append(model(images.batch(indices)[0]))
        say(what, int(indices[-1]) + 1, len(images))
    return torch.cat(parts)


def _part(images: ImageSet, part: slice) -> ImageSet:
    return ImageSet(images.pixels[part], images.labels[part], images.full_scale)


def _share(right: Tensor) -> float:
    return float(right.double().mean())
