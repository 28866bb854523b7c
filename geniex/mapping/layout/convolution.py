"""Convolutions as matrix products: their geometry, receptive fields (im2col), and kernels as matrices."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import torch.nn.functional as F
from torch import Tensor, nn

from geniex.errors import InputError


@dataclass(frozen=True)
class ConvGeometry:
    """The geometry of a convolution: the inputs that each output sees, with one number for each dimension."""

    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    dilation: tuple[int, ...]
    padding: tuple[int, ...]
    """Padding before and after each dimension, the last dimension first, as ``torch.nn.functional.pad`` takes it."""
    padding_mode: str
    spacing: tuple[int, ...]
    """Distance of neighbouring inputs after zeros are inserted between them; 1 inserts none."""

    @classmethod
    def of(cls, conv: nn.modules.conv._ConvNd) -> Self:
        """The geometry of a torch convolution, transposed or not, with "same" and "valid" padding resolved.

        A transposed convolution is a convolution of stride 1, with a mirrored kernel, over its input with zeros
        inserted.
        """
        if isinstance(conv, nn.modules.conv._ConvTransposeNd):
            return cls._transposed(conv)
        return cls(
            kernel=tuple(conv.kernel_size),
            stride=tuple(conv.stride),
            dilation=tuple(conv.dilation),
            padding=tuple(conv._reversed_padding_repeated_twice),
            padding_mode="constant" if conv.padding_mode == "zeros" else conv.padding_mode,
            spacing=(1,) * len(conv.kernel_size),
        )

    @classmethod
    def _transposed(cls, conv: Any) -> Self:
        padding: list[int] = []
        for k, d, p, more in zip(conv.kernel_size, conv.dilation, conv.padding, conv.output_padding, strict=True):
            reach = d * (k - 1) - p
            padding = [reach, reach + more, *padding]
        return cls(
            kernel=tuple(conv.kernel_size),
            stride=(1,) * len(conv.kernel_size),
            dilation=tuple(conv.dilation),
            padding=tuple(padding),
            padding_mode="constant",
            spacing=tuple(conv.stride),
        )

    @property
    def dims(self) -> int:
        """Number of dimensions of the maps: 1, 2 or 3."""
        return len(self.kernel)

    def to_size(self, inputs: Sequence[int], outputs: Sequence[int]) -> Self:
        """The geometry of a transposed convolution that turns maps of size ``inputs`` into maps of size ``outputs``.

        Only the last dimensions of both sizes count. Several output sizes are possible where the stride exceeds 1.
        """
        if len(outputs) < self.dims:
            raise InputError("output_size", tuple(outputs), f"it must have the {self.dims} dimensions of a map")
        padding: list[int] = []
        for dim in range(self.dims):
            before, step = self.padding[2 * (self.dims - 1 - dim)], self.spacing[dim]
            size, wanted = inputs[dim - self.dims], outputs[dim - self.dims]
            least = (size - 1) * step + 1 + 2 * before - self.dilation[dim] * (self.kernel[dim] - 1)
            if not least <= wanted < least + step:
                allowed = f"for maps of {size} it must be from {least} to {least + step - 1}"
                raise InputError("output_size", wanted, allowed)
            padding = [before, before + wanted - least, *padding]
        return dataclasses.replace(self, padding=tuple(padding))


def im2col(x: Tensor, geometry: ConvGeometry) -> tuple[Tensor, tuple[int, ...]]:
    """Receptive fields (batch, positions, in_channels * kernel) of maps (batch, in_channels, ...), and output size.

    Features are ordered as in ``conv.weight.flatten(1)``: by channel, then by kernel element, last dimension fastest.
    """
    dims = geometry.dims
    x = pad_maps(x, geometry)
    for dim, (k, stride, dilation) in enumerate(
        zip(geometry.kernel, geometry.stride, geometry.dilation, strict=True), start=2
    ):
        x = x.unfold(dim, dilation * (k - 1) + 1, stride)[..., ::dilation]
    size = tuple(x.shape[2 : 2 + dims])
    # So far x (batch, in_channels, *size, *kernel) is a view; the reshape below makes the only copy.
    order = [0, *range(2, 2 + dims), 1, *range(2 + dims, 2 + 2 * dims)]
    features = x.shape[1] * math.prod(geometry.kernel)
    return x.permute(order).reshape(x.shape[0], math.prod(size), features), size


def pad_maps(x: Tensor, geometry: ConvGeometry) -> Tensor:
    """Maps (batch, channels, ...) with zeros inserted between their elements, and padded, as ``geometry`` says."""
    return F.pad(_spaced(x, geometry.spacing), geometry.padding, mode=geometry.padding_mode)


def to_kernels(conv: nn.modules.conv._ConvNd) -> Tensor:
    """A convolution's weights as one matrix for each group (groups, outputs, inputs), for the fields of ``im2col``."""
    grouped = conv.weight.unflatten(0, (conv.groups, -1))
    if isinstance(conv, nn.modules.conv._ConvTransposeNd):
        grouped = grouped.transpose(1, 2).flip(tuple(range(3, grouped.dim())))
    return grouped.flatten(2)


def from_kernels(conv: nn.modules.conv._ConvNd, matrices: Tensor) -> Tensor:
    """A copy of ``matrices`` (groups, outputs, inputs), which ``to_kernels`` gives, in the shape of ``conv.weight``."""
    grouped = matrices.unflatten(2, (conv.in_channels // conv.groups, *conv.kernel_size))
    if isinstance(conv, nn.modules.conv._ConvTransposeNd):
        grouped = grouped.flip(tuple(range(3, grouped.dim()))).transpose(1, 2)
    return grouped.flatten(0, 1).clone()


def _spaced(x: Tensor, spacing: tuple[int, ...]) -> Tensor:
    """Maps (batch, channels, ...) with zeros inserted between neighbours, which are then ``spacing`` apart."""
    for dim, step in enumerate(spacing, start=2):
        if step > 1:
            apart = F.pad(x.unsqueeze(dim + 1), (0, 0) * (x.dim() - dim - 1) + (0, step - 1))
            x = apart.flatten(dim, dim + 1).narrow(dim, 0, (x.shape[dim] - 1) * step + 1)
    return x
