"""Layouts of layers as matrices: a convolution's receptive fields as rows of a matrix product (im2col)."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn


def im2col(x: Tensor, conv: nn.Conv2d) -> tuple[Tensor, tuple[int, int]]:
    """Receptive fields (batch, positions, in_channels * kernel) of images (batch, in_channels, H, W), output size.

    Features run as ``conv.weight.flatten(1)`` does: channel, kernel row, kernel column.
    """
    kernel, stride, dilation = conv.kernel_size, conv.stride, conv.dilation
    padded = F.pad(x, conv._reversed_padding_repeated_twice, mode=_PAD_MODES[conv.padding_mode])
    size = [
        (padded.shape[2 + k] - dilation[k] * (kernel[k] - 1) - 1) // stride[k] + 1 for k in range(2)
    ]
    fields = F.unfold(padded, kernel, dilation=dilation, stride=stride)  # type: ignore[arg-type]
    return fields.transpose(1, 2), (size[0], size[1])


_PAD_MODES = {"zeros": "constant", "reflect": "reflect", "replicate": "replicate", "circular": "circular"}
