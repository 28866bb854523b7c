"""The images of a loader, and a network's logits for some of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from geniex.errors import InputError
from geniex.simulator.arguments import Arguments, Examples, find_logits
from geniex.simulator.batches import LabelledData, read_labelled_batches


def gather_images(loader: LabelledData, model: nn.Module | None = None) -> tuple[Examples, Tensor]:
    """All images of a loader and their labels (count,).

    ``read_labelled_batches`` defines how the loader is read for ``model``.

    Raises:
        InputError: ``read_labelled_batches`` refuses the loader, there is no image, or not each image has one label.
    """
    inputs, labels = map(list, zip(*read_labelled_batches(loader, model, "loader"), strict=True))
    for given, told in zip(inputs, labels, strict=True):
        if told.shape != (len(given),):
            shape = f"a batch of {len(given)} images and labels {tuple(told.shape)}"
            raise InputError("loader", shape, "it must give one label for each image")
    images = Examples(inputs)
    if not len(images):
        raise InputError("loader", "no image", "it must give at least one image")
    return images, torch.cat(labels)


def compute_logits_of_part(part: Arguments, network: Callable[..., Any]) -> Tensor:
    """The logits (images, classes) that ``network`` gives for some images."""
    logits = find_logits(part.run(network))
    if logits.dim() != 2 or len(logits) != len(part):
        allowed = "it must give logits (images, classes)"
        raise InputError("model", f"an output {tuple(logits.shape)} for {len(part)} images", allowed)
    return logits
