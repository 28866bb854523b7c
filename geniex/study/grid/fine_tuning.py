"""Fine-tuning of a study's networks on their crossbars, at learning rates that are compared on images left out."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from geniex.mitigation import fine_tune
from geniex.networks import ImageSet
from geniex.networks.images import MovedBatches
from geniex.networks.train import AugmentedBatches, FitConfig
from geniex.study.grid.groups import FineTuning

Say = Callable[[str, int, int], None]
"""A function that is called with a description of the present work, the part done and the whole."""
_BATCH = 50
"""Images that are left out of training in one forward pass."""


@dataclass(frozen=True)
class TriedRate:
    """One run of fine-tuning at one learning rate."""

    learning_rate: float
    training_loss: float
    """Mean loss over the last tenth of the steps."""
    left_out_loss: float | None
    """Loss on the training images that were left out; None if none were."""
    left_out_accuracy: float | None
    seconds_per_step: float
    chosen: bool = False
    """Whether the study continues with the weights of this run."""


def fine_tune_copy(
    converted: nn.Module,
    training: ImageSet,
    asked: FineTuning,
    *,
    seed: int = 0,
    device: torch.device | str = "cpu",
    say: Say = lambda what, done, whole: None,
) -> tuple[nn.Module, tuple[TriedRate, ...]]:
    """A trained copy of a converted model at the best learning rate, and what each learning rate led to.

    Every learning rate gets the same batches. Images are shifted by up to a pixel and mirrored at random.

    Args:
        converted: the model that ``convert(..., trainable=True)`` made.
        training: images to train on and to leave out.
        asked: steps, batch size, learning rates and gradients.
        seed: seed of the batches and of the images that are left out.
        device: device of the model.
        say: function that is called as the training proceeds.
    """
    left_out, kept = None, training
    if asked.left_out:
        shuffled = training.subset(len(training), seed)
        left_out, kept = _part(shuffled, slice(asked.left_out)), _part(shuffled, slice(asked.left_out, None))
    best: tuple[TriedRate, nn.Module] | None = None
    tried: list[TriedRate] = []
    for rate in asked.learning_rates:
        batches = MovedBatches(AugmentedBatches(kept, FitConfig(batch=asked.batch, seed=seed)), torch.device(device))
        run, model = _tried(copy.deepcopy(converted), batches, left_out, asked, rate, say)
        tried.append(run)
        if best is None or _loss(run) < _loss(best[0]):
            best = run, model
    assert best is not None
    return best[1], tuple(TriedRate(**vars(run) | {"chosen": run is best[0]}) for run in tried)


def _tried(
    model: nn.Module, batches: MovedBatches, left_out: ImageSet | None, asked: FineTuning, rate: float, say: Say
) -> tuple[TriedRate, nn.Module]:
    """The run that trains ``model`` in place at one learning rate, and the model."""
    began = time.perf_counter()
    losses = fine_tune(
        model,
        batches,
        steps=asked.steps,
        learning_rate=rate,
        gradients=asked.gradients,
        progress=lambda done, whole, loss: say(f"learning rate {rate:g}", done, whole),
    )
    seconds = (time.perf_counter() - began) / asked.steps
    last = losses[-max(1, asked.steps // 10) :]
    loss = share = None
    if left_out is not None:
        logits = _logits(model, left_out, batches.device)
        loss = float(functional.cross_entropy(logits, left_out.labels))
        share = float((logits.argmax(-1) == left_out.labels).double().mean())
    return TriedRate(rate, sum(last) / len(last), loss, share, seconds), model


def _loss(run: TriedRate) -> float:
    return 0.0 if run.left_out_loss is None else run.left_out_loss


@torch.no_grad()
def _logits(model: nn.Module, images: ImageSet, device: torch.device) -> Tensor:
    parts = torch.arange(len(images)).split(_BATCH)
    return torch.cat([model(images.batch(indices)[0].to(device)).cpu() for indices in parts])


def _part(images: ImageSet, part: slice) -> ImageSet:
    return ImageSet(images.pixels[part], images.labels[part], images.full_scale)
