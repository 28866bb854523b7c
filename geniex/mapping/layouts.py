"""Layouts of layers as matrices: receptive fields as rows (im2col), groups side by side (block-diagonal).

``Unrolling`` has the third one, "sparse", and ``squeezed`` what becomes of pruned matrices, "squeezed".
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, Self, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from geniex.errors import InputError
from geniex.mapping.architecture import Architecture
from geniex.mapping.tiles import TileLayout

Layout = Literal["dense", "block_diagonal", "sparse", "squeezed"]
LAYOUTS: tuple[str, ...] = get_args(Layout)


def check_layout(layout: object) -> None:
    """Raise ``InputError`` unless ``layout`` is one of ``LAYOUTS``."""
    if layout not in LAYOUTS:
        raise InputError("layout", repr(layout), f"it must be one of {', '.join(LAYOUTS)}")


@dataclass(frozen=True)
class ConvGeometry:
    """Which inputs each output of a convolution sees; one number a dimension."""

    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    dilation: tuple[int, ...]
    padding: tuple[int, ...]
    """Two numbers a dimension, the last dimension first, as ``torch.nn.functional.pad`` takes them."""
    padding_mode: str
    spacing: tuple[int, ...]
    """Distance of neighbouring inputs once zeros are put between them; 1 puts none."""

    @classmethod
    def of(cls, conv: nn.modules.conv._ConvNd) -> Self:
        """The geometry of a torch convolution, transposed or not, "same" and "valid" padding resolved.

        A transposed convolution is one of stride 1 over its input with zeros in between, with a mirrored kernel.
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
        """1, 2 or 3."""
        return len(self.kernel)

    def to_size(self, inputs: Sequence[int], outputs: Sequence[int]) -> Self:
        """The geometry of a transposed convolution that gives maps of size ``outputs`` for maps of size ``inputs``.

        Only the last dimensions count. Several sizes are possible where the stride is more than 1.
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

    Features run as ``conv.weight.flatten(1)`` does: channel, then kernel, its last dimension fastest.
    """
    dims = geometry.dims
    x = padded_maps(x, geometry)
    for dim, (k, stride, dilation) in enumerate(
        zip(geometry.kernel, geometry.stride, geometry.dilation, strict=True), start=2
    ):
        x = x.unfold(dim, dilation * (k - 1) + 1, stride)[..., ::dilation]
    size = tuple(x.shape[2 : 2 + dims])
    # (batch, in_channels, *size, *kernel): views all of them, copied once below.
    order = [0, *range(2, 2 + dims), 1, *range(2 + dims, 2 + 2 * dims)]
    features = x.shape[1] * math.prod(geometry.kernel)
    return x.permute(order).reshape(x.shape[0], math.prod(size), features), size


def padded_maps(x: Tensor, geometry: ConvGeometry) -> Tensor:
    """Maps (batch, channels, ...) with zeros between their elements, and padding around, where there is any."""
    return F.pad(_spaced(x, geometry.spacing), geometry.padding, mode=geometry.padding_mode)


def kernels(conv: nn.modules.conv._ConvNd) -> Tensor:
    """A convolution's weights as one matrix a group (groups, outputs, inputs), for the fields of ``im2col``."""
    grouped = conv.weight.unflatten(0, (conv.groups, -1))
    if isinstance(conv, nn.modules.conv._ConvTransposeNd):
        grouped = grouped.transpose(1, 2).flip(tuple(range(3, grouped.dim())))
    return grouped.flatten(2)


def kernel_weight(conv: nn.modules.conv._ConvNd, matrices: Tensor) -> Tensor:
    """A copy of the matrices (groups, outputs, inputs) of ``kernels`` in the shape of the convolution's weight."""
    grouped = matrices.unflatten(2, (conv.in_channels // conv.groups, *conv.kernel_size))
    if isinstance(conv, nn.modules.conv._ConvTransposeNd):
        grouped = grouped.flip(tuple(range(3, grouped.dim()))).transpose(1, 2)
    return grouped.flatten(0, 1).clone()


@dataclass(frozen=True)
class GroupPacking:
    """How the matrices of a layer's groups share arrays: several on one array's diagonal, zeros between them.

    "dense" gives each group arrays of its own. Off the diagonal sits the weight 0: level 0 of differential weights,
    which every offset scheme removes.
    """

    groups: int
    inputs: int
    """Of one group."""
    outputs: int
    """Of one group."""
    per_block: int
    """Groups that share arrays."""

    @classmethod
    def of(cls, groups: int, inputs: int, outputs: int, architecture: Architecture, layout: Layout) -> Self:
        """The packing of ``groups`` matrices (outputs, inputs): as many on one array as fit whole."""
        check_layout(layout)
        if architecture.weight_bits == 1 or layout == "sparse":
            layout = "dense"  # one bit is a sign, there is no 0 to put between groups; only convolutions are unrolled
        fitting = min(architecture.tile[0] // inputs, architecture.outputs_per_tile // outputs, groups)
        return cls(groups, inputs, outputs, 1 if layout == "dense" else max(1, fitting))

    @property
    def features(self) -> int:
        """Inputs of all groups."""
        return self.groups * self.inputs

    @property
    def shapes(self) -> list[tuple[int, int]]:
        """(outputs, inputs) of each block."""
        sizes = [min(self.per_block, self.groups - start) for start in range(0, self.groups, self.per_block)]
        return [(n * self.outputs, n * self.inputs) for n in sizes]

    @property
    def weights(self) -> int:
        """Weights in all, without the zeros between groups."""
        return self.groups * self.inputs * self.outputs

    def layouts(self, architecture: Architecture) -> list[TileLayout]:
        """Each block on its tiles."""
        return [TileLayout(architecture, inputs=inputs, outputs=outputs) for outputs, inputs in self.shapes]

    def blocks(self, weight: Tensor) -> list[Tensor]:
        """The matrices to program (outputs, inputs) of groups' weights (groups, outputs, inputs)."""
        return [torch.block_diag(*part) for part in weight.split(self.per_block)]

    def unblocked(self, blocks: Sequence[Tensor]) -> Tensor:
        """Groups' weights (groups, outputs, inputs) of the matrices ``blocks`` (outputs, inputs)."""
        of_group = (
            block[k : k + self.outputs, at : at + self.inputs]
            for block in blocks
            for k, at in zip(range(0, block.shape[0], self.outputs), range(0, block.shape[1], self.inputs), strict=True)
        )
        return torch.stack(list(of_group))

    def split(self, fields: Tensor) -> tuple[Tensor, ...]:
        """The inputs of each block, of all groups' (..., groups * inputs)."""
        return fields.split(self.per_block * self.inputs, -1)

    def joined(self, products: Sequence[Tensor]) -> Tensor:
        """Outputs (..., groups * outputs) of the blocks' products."""
        return products[0] if len(products) == 1 else torch.cat(list(products), -1)

    def reached_by_nan(self, fields: Tensor) -> Tensor:
        """bool, broadcasting with outputs (..., groups * outputs): whose group has a NaN in ``fields`` (..., features).

        A maximum is NaN where any of its numbers is, and takes less memory than a mask of all of them.
        """
        lost = fields.unflatten(-1, (self.groups, self.inputs)).amax(-1).isnan()
        return lost if self.groups == 1 else lost.repeat_interleave(self.outputs, -1)


def _spaced(x: Tensor, spacing: tuple[int, ...]) -> Tensor:
    """Maps (batch, channels, ...) with zeros between neighbours, that are then ``spacing`` apart."""
    for dim, step in enumerate(spacing, start=2):
        if step > 1:
            apart = F.pad(x.unsqueeze(dim + 1), (0, 0) * (x.dim() - dim - 1) + (0, step - 1))
            x = apart.flatten(dim, dim + 1).narrow(dim, 0, (x.shape[dim] - 1) * step + 1)
    return x
