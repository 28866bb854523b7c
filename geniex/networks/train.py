"""The training of the small networks: augmented batches, AdamW with a one-cycle learning rate, run by Lightning."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from geniex.config import Config, check_number, check_positive_int, check_seed
from geniex.errors import InputError
from geniex.networks.constraint import Constraint
from geniex.networks.images import ImageSet
from geniex.networks.zoo import Network, network_kind


@dataclass(frozen=True, kw_only=True)
class FitConfig(Config):
    """The settings of a training; the same configuration on the same machine gives the same weights."""

    epochs: int = 20
    """Passes over the training images."""
    batch: int = 128
    """Images per optimiser step."""
    learning_rate: float = 0.005
    """Peak learning rate of the one-cycle schedule."""
    weight_decay: float = 0.05
    """Decoupled weight decay of AdamW."""
    shift: int = 1
    """Pixels by which images are moved at most, in each direction; 0 leaves them in place."""
    flip: bool = True
    """Whether half of the images are mirrored left to right."""
    seed: int = 0
    """Seed of the initial weights, the order of the images and their augmentation."""

    def __post_init__(self) -> None:
        check_positive_int("epochs", self.epochs)
        check_positive_int("batch", self.batch)
        check_seed(self.seed)
        check_number("learning_rate", self.learning_rate, low=0.0, open_low=True)
        check_number("weight_decay", self.weight_decay, low=0.0)
        if not isinstance(self.shift, int) or self.shift < 0:
            raise InputError("shift", repr(self.shift), "it must be a whole number of pixels, at least 0")


def train_network(
    name: str,
    images: ImageSet,
    config: FitConfig,
    progress: bool = False,
    device: torch.device | str | None = None,
) -> Network:
    """The network ``name`` trained on ``images``, in eval mode on the CPU, in the form that is stored.

    Args:
        name: a key of ``NETWORKS``, such as "fashion-cnn".
        images: training images of the network's input shape.
        config: the settings of the training.
        progress: show a progress bar.
        device: the device to train on; None takes the fastest one on this machine.
    """
    kind = network_kind(name)
    with torch.random.fork_rng():
        torch.manual_seed(config.seed)
        network = kind.make()
    _check_images(name, network, images, config)
    _fit(network, images, config, Constraint(), progress, device)
    return kind.finish(network)


def retrain_network(
    network: Network,
    images: ImageSet,
    config: FitConfig,
    *,
    constraint: Constraint | None = None,
    progress: bool = False,
    device: torch.device | str | None = None,
) -> Network:
    """A copy of a trained ``network``, trained further on ``images``, in the same form, in eval mode on the CPU.

    With a ``constraint`` this is the fine-tuning of pruned and of weight-constrained networks (Bhattacharjee et al.,
    DATE 2022): after each optimiser step masked weights are set to 0, and weights beyond their limit are clamped to it.

    Args:
        network: a network of ``NETWORKS``, with batch norms or without, with any layer widths.
        images: training images of its input shape.
        config: the settings of the training; the learning rate should peak lower than in a first training.
        constraint: masks and limits that hold from the beginning and after every step.
        progress: show a progress bar.
        device: the device to train on; None takes the fastest one on this machine.
    """
    constraint = constraint or Constraint()
    constraint.check(network)
    _check_images(type(network).__name__, network, images, config)
    trained = copy.deepcopy(network)
    _fit(trained, images, config, constraint, progress, device)
    return trained


def accuracy(network: nn.Module, images: ImageSet, batch: int = 1000) -> float:
    """The share of ``images``, 0 to 1, that ``network`` classifies correctly; the network must be in eval mode."""
    right = 0
    with torch.inference_mode():
        for indices in torch.arange(len(images)).split(batch):
            pixels, labels = images.batch(indices)
            right += int((network(pixels).argmax(-1) == labels).sum())
    return right / len(images)


def _check_images(name: str, network: Network, images: ImageSet, config: FitConfig) -> None:
    if len(images) < config.batch:
        raise InputError("batch", config.batch, f"it must be at most {len(images)}, the number of images in the set")
    if images.shape != network.input_shape:
        raise InputError("images", f"shape {images.shape}", f"{name} takes images of shape {network.input_shape}")
    if (highest := int(images.labels.max())) >= network.classes:
        raise InputError(
            "images",
            f"label {highest}",
            f"{name} has {network.classes} classes, so labels must be below {network.classes}",
        )


def _fit(
    network: nn.Module,
    images: ImageSet,
    config: FitConfig,
    constraint: Constraint,
    progress: bool,
    device: torch.device | str | None,
) -> None:
    from geniex.networks.optimise import optimise  # imports lightning, which takes seconds

    optimise(
        network,
        AugmentedBatches(images, config),
        constraint,
        epochs=config.epochs,
        learning_rate=config.learning_rate,
        weight_decay=config.weight_decay,
        progress=progress,
        device=device,
    )


class AugmentedBatches:
    """Shuffled, augmented batches, drawn anew in each pass from one seeded generator; a partial last one is dropped."""

    def __init__(self, images: ImageSet, config: FitConfig) -> None:
        self.images, self.config = images, config
        self.generator = torch.Generator().manual_seed(config.seed)

    def __len__(self) -> int:
        return len(self.images) // self.config.batch

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        order = torch.randperm(len(self.images), generator=self.generator)
        for indices in order.split(self.config.batch)[: len(self)]:
            pixels, labels = self.images.batch(indices)
            yield augment(pixels, self.config.shift, self.config.flip, self.generator), labels


def augment(images: Tensor, shift: int, flip: bool, generator: torch.Generator) -> Tensor:
    """The images (batch, C, H, W) moved by up to ``shift`` pixels, zeros moving in; ``flip`` mirrors half of them."""
    batch, _, height, width = images.shape
    moves = torch.randint(0, 2 * shift + 1, (2, batch, 1), generator=generator)
    mirror = (torch.rand(batch, 1, generator=generator) < 0.5) & flip
    rows, cols = torch.arange(height).expand(batch, -1), torch.arange(width).expand(batch, -1)
    rows, cols = rows + moves[0], torch.where(mirror, width - 1 - cols, cols) + moves[1]
    # One gather moves and mirrors; it leaves the channels last, from where they are put back in front.
    padded = functional.pad(images, (shift,) * 4)
    sample = torch.arange(batch)[:, None, None]
    return padded[sample, :, rows[:, :, None], cols[:, None, :]].permute(0, 3, 1, 2).contiguous()
