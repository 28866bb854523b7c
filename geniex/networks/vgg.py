"""VGG-style networks: a chain of 3x3 convolutions with batch norm, with pools between them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from torch import Tensor, nn

Stage = int | tuple[int, int] | Literal["pool"]
"""The output channels of a convolution, alone or with its stride, or "pool" for a 2x2 maximum pool."""

FASHION: tuple[Stage, ...] = ((32, 2), 64, "pool", 64, 128, "pool", 128)
"""Stages for 28x28 images, with maps of 14, 7 and 3 pixels a side, so that an image takes few crossbar reads."""
VGG16: tuple[Stage, ...] = (
    *(64, 64, "pool", 128, 128, "pool", 256, 256, 256, "pool"),
    *(512, 512, 512, "pool", 512, 512, 512, "pool"),
)
"""Stages of Simonyan and Zisserman's configuration D as used for 32x32 images: with batch norm and one linear layer."""


class VGG(nn.Module):
    """``stages`` of convolution, batch norm and ReLU, and one linear layer: images in [0, 1] -> logits.

    The inputs of all layers are >= 0.

    Args:
        input_shape: (channels, height, width) of an image.
        classes: number of classes, and so of logits.
        stages: the convolutions and pools, in order.
    """

    def __init__(self, input_shape: tuple[int, int, int], classes: int, stages: Sequence[Stage]) -> None:
        super().__init__()
        self.input_shape, self.classes = input_shape, classes
        channels, height, width = input_shape
        layers: list[nn.Module] = []
        for stage in stages:
            if stage == "pool":
                layers.append(nn.MaxPool2d(2))
                height, width = height // 2, width // 2
                continue
            outputs, stride = stage if isinstance(stage, tuple) else (int(stage), 1)
            conv = nn.Conv2d(channels, outputs, 3, stride, padding=1, bias=False)
            layers += [conv, nn.BatchNorm2d(outputs), nn.ReLU()]
            channels, height, width = outputs, -(-height // stride), -(-width // stride)
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Linear(channels * height * width, classes)

    def forward(self, images: Tensor) -> Tensor:
        """The logits (batch, classes) of images (batch, *input_shape) in [0, 1]."""
        return self.classifier(self.features(images).flatten(1))
