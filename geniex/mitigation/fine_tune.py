"""Fine-tuning of a converted model: its weights adapt to the crossbars that they are programmed on."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import get_args

import torch
from torch import Tensor, nn
from torch.nn import functional

from geniex.config import check_number, check_positive_int
from geniex.errors import InputError
from geniex.simulator import CrossbarMatrix, find_crossbar_matrices
from geniex.simulator.arguments import Arguments, find_logits
from geniex.simulator.batches import LabelledData, read_labelled_batches
from geniex.simulator.matrix import Gradients

Loss = Callable[[Tensor, Tensor], Tensor]
"""A function of outputs and labels that returns the loss."""
Progress = Callable[[int, int, float], None]
"""A function that is called after each step with the steps done, the number of all steps, and the loss."""


def fine_tune(
    converted: nn.Module,
    loader: LabelledData,
    *,
    steps: int = 100,
    learning_rate: float = 1e-3,
    weight_decay: float = 0.0,
    gradients: Gradients = "emulator",
    loss: Loss = functional.cross_entropy,
    progress: Progress | None = None,
) -> list[float]:
    """Train the parameters of ``converted`` in place and return the loss of each step.

    The optimiser is AdamW with a cosine schedule. Each step programs the weights and reads the crossbars, so that the
    outputs are the crossbars'. All scales are kept, and weights are clipped to them. Nothing is random here: the same
    loader gives the same weights.

    Args:
        converted: the model that ``convert(..., trainable=True)`` made; a parameter that needs no gradient stays as it
            is.
        loader: batches of (inputs, labels), or of mappings with "labels", repeated until all steps are done; a single
            batch is allowed. ``read_labelled_batches`` has the rules.
        steps: number of optimiser steps.
        learning_rate: learning rate of the first step; it falls to 0.
        weight_decay: decoupled weight decay of AdamW.
        gradients: "emulator" propagates gradients through the crossbars' own derivatives. "ideal" propagates them
            through the weights as if the crossbars were ideal, straight through every non-ideality.
        loss: function of the logits, which the model returns directly or as ``.logits``, and of the labels.
        progress: called after each step.

    Raises:
        InputError: the model has no trainable crossbars, or the loader has no batches or batches without labels.
    """
    check_positive_int("steps", steps)
    check_number("learning_rate", learning_rate, low=0.0, open_low=True)
    check_number("weight_decay", weight_decay, low=0.0)
    if gradients not in get_args(Gradients):
        raise InputError("gradients", repr(gradients), f"it must be one of {', '.join(get_args(Gradients))}")
    matrices = [
        m for m in find_crossbar_matrices(converted).values() if m.weight is not None and m.weight.requires_grad
    ]
    if not matrices:
        raise InputError("converted", "no trainable weight on crossbars", "convert the model with trainable=True")
    optimizer = torch.optim.AdamW(
        [p for p in converted.parameters() if p.requires_grad], lr=learning_rate, weight_decay=weight_decay
    )
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    losses: list[float] = []
    with _gradients(matrices, gradients), torch.enable_grad():
        for _, (inputs, labels) in zip(range(steps), _repeated(loader, converted), strict=False):
            value = loss(find_logits(inputs.run(converted)), labels)
            optimizer.zero_grad()
            value.backward()
            optimizer.step()
            schedule.step()
            for matrix in matrices:
                matrix.clip_weight()
            losses.append(float(value.detach()))
            if progress is not None:
                progress(len(losses), steps, losses[-1])
    return losses


@contextmanager
def _gradients(matrices: list[CrossbarMatrix], gradients: Gradients) -> Iterator[None]:
    before = [matrix.gradients for matrix in matrices]
    for matrix in matrices:
        matrix.gradients = gradients
    try:
        yield
    finally:
        for matrix, own in zip(matrices, before, strict=True):
            matrix.gradients = own


def _repeated(loader: LabelledData, model: nn.Module) -> Iterator[tuple[Arguments, Tensor]]:
    """The loader's batches, repeated endlessly."""
    while True:
        yield from read_labelled_batches(loader, model)
