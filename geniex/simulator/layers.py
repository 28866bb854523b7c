"""torch layers whose matrix product runs on crossbars; the bias stays digital."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from geniex.emulator import Emulator
from geniex.errors import ConversionError
from geniex.mapping import Architecture, ConvGeometry, im2col
from geniex.simulator.matrix import CrossbarMatrix
from geniex.simulator.ranges import InputStatistics


class CrossbarLinear(nn.Module):
    """``nn.Linear`` on crossbars: one input a word line, one output a group of bit lines."""

    def __init__(
        self,
        linear: nn.Linear,
        architecture: Architecture,
        emulator: Emulator,
        *,
        inputs: InputStatistics | float | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.matrix = CrossbarMatrix(linear.weight, architecture, emulator, inputs=inputs, dtype=dtype)
        self.bias = None if linear.bias is None else nn.Parameter(linear.bias.detach().clone())

    def matrix_inputs(self, x: Tensor) -> Tensor:
        """The vectors (count, inputs) that the matrix sees for a layer input."""
        return x.reshape(-1, self.matrix.layout.inputs)

    def forward(self, x: Tensor) -> Tensor:
        """(..., out_features) for (..., in_features)."""
        out = self.matrix(x)
        return out if self.bias is None else out + self.bias


class CrossbarConv2d(nn.Module):
    """``nn.Conv2d`` on crossbars, laid out dense (im2col): one kernel a group of bit lines, one read a position."""

    def __init__(
        self,
        conv: nn.Conv2d,
        architecture: Architecture,
        emulator: Emulator,
        *,
        inputs: InputStatistics | float | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        if conv.groups != 1:
            raise ConversionError(f"Conv2d.groups: got {conv.groups}; only groups=1 runs on crossbars")
        weight = conv.weight.flatten(1)
        self.matrix = CrossbarMatrix(weight, architecture, emulator, inputs=inputs, dtype=dtype)
        self.bias = None if conv.bias is None else nn.Parameter(conv.bias.detach().clone())
        self.geometry = ConvGeometry.of(conv)

    def matrix_inputs(self, x: Tensor) -> Tensor:
        """The vectors (count, inputs) that the matrix sees for a layer input."""
        return im2col(x, self.geometry)[0].flatten(0, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, out_channels, H', W') for (batch, in_channels, H, W); a single image may lack the batch."""
        if x.dim() == 3:
            return self.forward(x[None])[0]
        fields, size = im2col(x, self.geometry)
        out = self.matrix(fields)
        if self.bias is not None:
            out = out + self.bias
        return out.transpose(1, 2).unflatten(2, size)
