"""A small convolutional network for 28x28 grey images that needs few crossbar reads."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from geniex.errors import InputError


class FashionCNN(nn.Module):
    """Three strided convolutions and a linear layer: images (batch, 1, 28, 28) in [0, 1] -> 10 logits.

    The strides shrink the maps to 14x14, 7x7 and 4x4, so one image takes 196 + 49 + 16 + 1 input vectors.
    The inputs of all layers are >= 0, which suits the input streams of a crossbar.

    Args:
        batch_norm: normalise after each convolution, for training; False gives the folded network.
    """

    input_shape = (1, 28, 28)
    classes = 10

    def __init__(self, batch_norm: bool = True) -> None:
        super().__init__()
        norm: Callable[[int], nn.Module] = nn.BatchNorm2d if batch_norm else (lambda channels: nn.Identity())
        self.conv1 = nn.Conv2d(1, 16, 5, stride=2, padding=2, bias=not batch_norm)
        self.norm1 = norm(16)
        self.conv2 = nn.Conv2d(16, 32, 3, stride=2, padding=1, bias=not batch_norm)
        self.norm2 = norm(32)
        self.conv3 = nn.Conv2d(32, 64, 3, stride=2, padding=1, bias=not batch_norm)
        self.norm3 = norm(64)
        self.relu = nn.ReLU()
        self.classifier = nn.Linear(64 * 4 * 4, self.classes)

    def forward(self, images: Tensor) -> Tensor:
        """Logits (batch, 10) of images (batch, 1, 28, 28) in [0, 1]."""
        maps = self.relu(self.norm1(self.conv1(images)))
        maps = self.relu(self.norm2(self.conv2(maps)))
        maps = self.relu(self.norm3(self.conv3(maps)))
        return self.classifier(maps.flatten(1))

    def fold(self) -> FashionCNN:
        """A copy in eval mode that computes the same function, with the batch norms folded into the convolutions."""
        if isinstance(self.norm1, nn.Identity):
            raise InputError("network", "a folded FashionCNN", "there are no batch norms left to fold")
        # The copy's initial weights are overwritten, so drawing them must not advance the caller's random generator.
        with torch.random.fork_rng(devices=[]):
            copy = FashionCNN(batch_norm=False).to(self.classifier.weight).eval()
        was_training = self.training
        self.eval()
        for index in "123":
            fused = fuse_conv_bn_eval(getattr(self, f"conv{index}"), getattr(self, f"norm{index}"))
            getattr(copy, f"conv{index}").load_state_dict(fused.state_dict())
        self.train(was_training)
        copy.classifier.load_state_dict(self.classifier.state_dict())
        return copy
