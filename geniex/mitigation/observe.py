"""What crossbar layers see in a running network, and what the loss makes of their outputs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from geniex.errors import InputError
from geniex.simulator import CrossbarLayer, crossbar_layers
from geniex.simulator.calibrate import for_a_while

BATCH = 64
"""Images that are observed at once."""


@dataclass(frozen=True)
class Batch:
    """Images (count, ...) and labels (count,) by which mappings are judged; of the training set."""

    images: Tensor
    labels: Tensor

    def __post_init__(self) -> None:
        good = isinstance(self.images, Tensor) and isinstance(self.labels, Tensor) and len(self.images) > 0
        if not good or self.labels.shape != self.images.shape[:1] or self.labels.is_floating_point():
            shapes = " and ".join(str(tuple(getattr(x, "shape", ()))) for x in (self.images, self.labels))
            raise InputError("calibration", f"images and labels {shapes}", "at least one image, and one label for each")

    @classmethod
    def of(cls, calibration: object) -> Batch:
        """A pair (images, labels) as a batch, and a batch as it is."""
        if isinstance(calibration, Batch):
            return calibration
        if not isinstance(calibration, Sequence) or len(calibration) != 2:
            raise InputError("calibration", type(calibration).__name__, "it must be a pair: images and labels")
        return cls(*calibration)

    def parts(self, size: int = BATCH) -> Iterator[Batch]:
        """Smaller batches."""
        for images, labels in zip(self.images.split(size), self.labels.split(size), strict=True):
            yield Batch(images, labels)


@dataclass(frozen=True)
class Observation:
    """One layer on a batch: every vector that its matrices see, what they give, and the loss' derivative by that."""

    inputs: Tensor
    """(images, vectors, groups * inputs)."""
    outputs: Tensor
    """(images, vectors, groups * outputs)."""
    gradients: Tensor
    """Of each image's own loss by the outputs, same shape; zeros where the loss does not depend on them."""


def losses(model: nn.Module, batch: Batch) -> Tensor:
    """Cross-entropy (images,) of a model's logits."""
    return functional.cross_entropy(model(batch.images), batch.labels, reduction="none")


@torch.no_grad()
def mean_loss(model: nn.Module, batch: Batch) -> float:
    """Mean cross-entropy over the batch."""
    return float(torch.cat([losses(model, part) for part in batch.parts()]).mean())


def observe(model: nn.Module, batch: Batch, names: Iterable[str] | None = None) -> dict[str, Observation]:
    """An observation of each crossbar layer of ``model`` that is called, or of those in ``names``.

    In evaluation mode an image's loss depends on that image alone, so that the gradient of the losses' sum is every
    image's own.
    """
    layers = crossbar_layers(model)
    chosen = {name: layers[name] for name in (layers if names is None else names)}
    calls: dict[str, list[list[Tensor]]] = {name: [] for name in chosen}

    def watch(name: str) -> Callable[..., Tensor]:
        def hook(layer: CrossbarLayer, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
            watched = output if output.requires_grad else output.detach().requires_grad_()
            # What the network does in place, it does to copies of what is kept.
            seen = [args[0].detach().clone(), watched.detach(), torch.zeros_like(watched)]
            calls[name].append(seen)
            watched.register_hook(lambda gradient: seen.__setitem__(2, gradient))
            return watched.clone()

        return hook

    with _frozen(model), hooked((layer, watch(name)) for name, layer in chosen.items()), torch.enable_grad():
        total = losses(model, batch).sum()
        if total.requires_grad:
            total.backward()
    return {name: _observation(chosen[name], seen, len(batch.images)) for name, seen in calls.items() if seen}


def hooked(hooks: Iterable[tuple[nn.Module, Callable[..., Any]]]) -> AbstractContextManager[None]:
    """Forward hooks on modules, for a while."""
    return for_a_while(module.register_forward_hook(hook) for module, hook in hooks)


@contextmanager
def _frozen(model: nn.Module) -> Iterator[None]:
    """Parameters without gradients, so that nothing before the first watched layer is differentiated."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    for parameter in trained:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in trained:
            parameter.requires_grad_(True)


def _observation(layer: CrossbarLayer, calls: list[list[Tensor]], images: int) -> Observation:
    def by_image(vectors: Tensor) -> Tensor:
        return vectors.reshape(images, -1, vectors.shape[-1])

    parts = zip(
        *((layer.matrix_inputs(x), layer.output_vectors(y), layer.output_vectors(g)) for x, y, g in calls), strict=True
    )
    return Observation(*(torch.cat([by_image(vectors) for vectors in part], dim=1) for part in parts))
