"""Layouts of layers as matrices: a convolution's receptive fields as rows of a matrix product (im2col)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(frozen=True)
class ConvGeometry:
    """Which inputs each output of a 2-d convolution sees."""

    kernel: tuple[int, int]
    stride: tuple[int, int]
    dilation: tuple[int, int]
    padding: tuple[int, int, int, int]
    """Left, right, top, bottom, as ``torch.nn.functional.pad`` takes them."""
    padding_mode: str

    @classmethod
    def of(cls, conv: nn.Conv2d) -> Self:
        """The geometry of a torch layer, "same" and "valid" padding resolved."""
        left, right, top, bottom = conv._reversed_padding_repeated_twice
        mode = "constant" if conv.padding_mode == "zeros" else conv.padding_mode
        return cls(
            _pair(conv.kernel_size),
            _pair(conv.stride),
            _pair(conv.dilation),
            (left, right, top, bottom),
            mode,
        )


def im2col(x: Tensor, geometry: ConvGeometry) -> tuple[Tensor, tuple[int, int]]:
    """Receptive fields (batch, positions, in_channels * kernel) of images (batch, in_channels, H, W), output size.

    Features run as ``conv.weight.flatten(1)`` does: channel, kernel row, kernel column.
    """
    padded = F.pad(x, geometry.padding, mode=geometry.padding_mode)
    reach = [d * (k - 1) for d, k in zip(geometry.dilation, geometry.kernel, strict=True)]
    height, width = ((padded.shape[2 + k] - reach[k] - 1) // geometry.stride[k] + 1 for k in range(2))
    fields = F.unfold(padded, geometry.kernel, dilation=geometry.dilation, stride=geometry.stride)
    return fields.transpose(1, 2), (height, width)


def _pair(value: tuple[int, ...]) -> tuple[int, int]:
    return (value[0], value[1])
