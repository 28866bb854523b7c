"""The networks by name, and how each is made and stored."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from geniex.errors import InputError
from geniex.networks.fashion import FashionCNN
from geniex.networks.resnet import ResNet
from geniex.networks.vgg import FASHION, VGG, VGG16

Network = FashionCNN | VGG | ResNet
"""A module that has the ``input_shape`` of its images and its number of ``classes``."""


@dataclass(frozen=True)
class NetworkKind:
    """The functions that make and store the networks of one architecture."""

    make: Callable[[], Network]
    """Function that makes the untrained network in the form that is trained."""
    stored: Callable[[], Network]
    """Function that makes the untrained network in the form that is stored."""
    finish: Callable[[Any], Network] = lambda network: network
    """Function that turns the trained form into the stored form."""


def _same(make: Callable[[], Network]) -> NetworkKind:
    return NetworkKind(make, make)


_GREY, _COLOUR = (1, 28, 28), (3, 32, 32)

NETWORKS: dict[str, NetworkKind] = {
    "fashion-cnn": NetworkKind(FashionCNN, partial(FashionCNN, batch_norm=False), FashionCNN.fold),
    "fashion-vgg": _same(partial(VGG, _GREY, 10, FASHION)),
    "fashion-resnet20": _same(partial(ResNet, _GREY, 10, width=24, shrink=True)),
    "cifar10-vgg16": _same(partial(VGG, _COLOUR, 10, VGG16)),
    "cifar100-vgg16": _same(partial(VGG, _COLOUR, 100, VGG16)),
    "cifar10-resnet20": _same(partial(ResNet, _COLOUR, 10)),
    "cifar100-resnet20": _same(partial(ResNet, _COLOUR, 100)),
}
"""The architectures that ``geniex fit`` trains; ``shipped_networks`` lists the trained networks that ship."""


def network_kind(name: str) -> NetworkKind:
    """The architecture ``name``; raises ``InputError`` for an unknown name."""
    if name not in NETWORKS:
        raise InputError("network", repr(name), f"the networks are {', '.join(NETWORKS)}")
    return NETWORKS[name]
