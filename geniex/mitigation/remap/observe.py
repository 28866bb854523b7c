"""Observations of crossbar layers in a running network: their inputs, outputs and the gradients of the loss."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from geniex.errors import InputError
from geniex.simulator import CrossbarLayer, find_crossbar_layers
from geniex.simulator.arguments import Arguments, Examples, find_logits
from geniex.simulator.batches import LabelledData, read_labelled_batches
from geniex.simulator.observe_inputs import keep_for_a_while

BATCH = 64
"""Number of images that are observed at once."""


@dataclass(frozen=True)
class Batch:
    """Training images and labels (count,) on which mappings are chosen."""

    images: Any
    """Images (count, ...), or the ``Arguments`` of a model that is not called with one tensor."""
    labels: Tensor

    def __post_init__(self) -> None:
        known = isinstance(self.images, (Tensor, Arguments)) and isinstance(self.labels, Tensor)
        good = known and len(self.images) > 0 and self.labels.shape == (len(self.images),)
        if not good or self.labels.is_floating_point():
            given = f"images and labels {_shapes(self.images)} and {_shapes(self.labels)}"
            raise InputError("calibration", given, "there must be at least one image and one label for each image")

    @classmethod
    def of(cls, calibration: LabelledData | Batch, model: nn.Module | None = None) -> Batch:
        """All of ``calibration`` as one batch; a batch is returned as it is.

        Args:
            calibration: (images, labels), a mapping with "labels", or a loader of such batches, by the rules of
                ``read_labelled_batches``.
            model: the model whose ``forward`` names the arguments; None stands for a model that requires one argument.

        Raises:
            InputError: ``read_labelled_batches`` refuses the data, or the batches do not fit into one.
        """
        if isinstance(calibration, Batch):
            return calibration
        inputs, labels = map(list, zip(*read_labelled_batches(calibration, model, "calibration"), strict=True))
        groups = inputs if len(inputs) == 1 else list(Examples(inputs))
        if len(groups) != 1:
            allowed = "all batches must fit into one: give inputs of one shape, and pad sequences to one length"
            raise InputError("calibration", f"{len(groups)} batches of different shapes", allowed)
        whole = groups[0]
        plain = len(whole.args) == 1 and not whole.kwargs
        return cls(whole.args[0] if plain else whole, torch.cat(labels))

    def run(self, model: nn.Module) -> Tensor:
        """The logits (count, classes) of ``model`` for these images."""
        return find_logits(self.images.run(model) if isinstance(self.images, Arguments) else model(self.images))

    def first(self, count: int) -> Batch:
        """A batch of the first images and labels, at most ``count``."""
        return Batch(self.images[:count], self.labels[:count])

    def parts(self, size: int = BATCH) -> Iterator[Batch]:
        """The batch in parts of at most ``size`` images."""
        for images, labels in zip(self.images.split(size), self.labels.split(size), strict=True):
            yield Batch(images, labels)


@dataclass(frozen=True)
class Observation:
    """One layer on a batch: the inputs and outputs of its matrices, and the gradients of the loss by the outputs."""

    inputs: Tensor
    """Input vectors (images, vectors, groups * inputs)."""
    outputs: Tensor
    """Output vectors (images, vectors, groups * outputs)."""
    gradients: Tensor
    """Gradients of each image's own loss by the outputs, same shape; zeros if the loss does not depend on them."""


def _shapes(images: object) -> str:
    if isinstance(images, Arguments):
        return ", ".join(f"{name} {tuple(tensor.shape)}" for name, tensor in images.tensors().items())
    return str(tuple(getattr(images, "shape", ())))


def compute_losses(model: nn.Module, batch: Batch) -> Tensor:
    """The cross-entropy (images,) of a model's logits."""
    return functional.cross_entropy(batch.run(model), batch.labels, reduction="none")


@torch.no_grad()
def compute_mean_loss(model: nn.Module, batch: Batch) -> float:
    """The mean cross-entropy over the batch."""
    return float(torch.cat([compute_losses(model, part) for part in batch.parts()]).mean())


def observe(model: nn.Module, batch: Batch, names: Iterable[str] | None = None) -> dict[str, Observation]:
    """An observation of each crossbar layer of ``model``, or of those in ``names``; uncalled layers are left out.

    In evaluation mode an image's loss depends on that image alone. The gradient of the sum of all losses therefore
    holds every image's own gradient.
    """
    layers = find_crossbar_layers(model)
    chosen = {name: layers[name] for name in (layers if names is None else names)}
    calls: dict[str, list[list[Tensor]]] = {name: [] for name in chosen}

    def watch(name: str) -> Callable[..., Tensor]:
        def hook(layer: CrossbarLayer, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
            watched = output if output.requires_grad else output.detach().requires_grad_()
            # Copies protect the kept tensors from in-place operations of the network.
            seen = [args[0].detach().clone(), watched.detach(), torch.zeros_like(watched)]
            calls[name].append(seen)
            watched.register_hook(lambda gradient: seen.__setitem__(2, gradient))
            return watched.clone()

        return hook

    with _frozen(model), add_hooks((layer, watch(name)) for name, layer in chosen.items()), torch.enable_grad():
        total = compute_losses(model, batch).sum()
        if total.requires_grad:
            total.backward()
    return {name: _observation(chosen[name], seen, len(batch.images)) for name, seen in calls.items() if seen}


def add_hooks(hooks: Iterable[tuple[nn.Module, Callable[..., Any]]]) -> AbstractContextManager[None]:
    """Temporary forward hooks on layers, which see a layer's own output before hooks that were registered earlier.

    The hooks find a layer's input in ``args[0]``, even if it was given by keyword.
    """

    def by_position(hook: Callable[..., Any]) -> Callable[..., Any]:
        return lambda layer, args, kwargs, output: hook(layer, args or (kwargs["input"],), output)

    return keep_for_a_while(
        module.register_forward_hook(by_position(hook), with_kwargs=True, prepend=True) for module, hook in hooks
    )


@contextmanager
def _frozen(model: nn.Module) -> Iterator[None]:
    """Freeze all parameters temporarily, so that nothing before the first watched layer is differentiated."""
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
