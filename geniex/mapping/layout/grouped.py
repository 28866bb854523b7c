"""Layouts of layers as matrices: "dense" (receptive fields as rows, im2col) and "block_diagonal" (groups side by side).

``Unrolling`` is the layout "toeplitz", and ``compacted`` gives the layout "compacted" of pruned matrices.
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
from geniex.mapping.layout.grid import TileLayout

Layout = Literal["dense", "block_diagonal", "toeplitz", "compacted"]
LAYOUTS: tuple[str, ...] = get_args(Layout)


def check_layout(layout: object) -> None:
    """Raise ``InputError`` unless ``layout`` is one of ``LAYOUTS``."""
    if layout not in LAYOUTS:
        raise InputError("layout", repr(layout), f"it must be one of {', '.join(LAYOUTS)}")


@dataclass(frozen=True)
class ConvGeometry:
    """The geometry of a convolution: which inputs each output sees, with one number for each dimension."""

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
    x = padded_maps(x, geometry)
    for dim, (k, stride, dilation) in enumerate(
        zip(geometry.kernel, geometry.stride, geometry.dilation, strict=True), start=2
    ):
        x = x.unfold(dim, dilation * (k - 1) + 1, stride)[..., ::dilation]
    size = tuple(x.shape[2 : 2 + dims])
    # So far x (batch, in_channels, *size, *kernel) is a view; the reshape below makes the only copy.
    order = [0, *range(2, 2 + dims), 1, *range(2 + dims, 2 + 2 * dims)]
    features = x.shape[1] * math.prod(geometry.kernel)
    return x.permute(order).reshape(x.shape[0], math.prod(size), features), size


def padded_maps(x: Tensor, geometry: ConvGeometry) -> Tensor:
    """Maps (batch, channels, ...) with zeros inserted between their elements, and padded, as ``geometry`` says."""
    return F.pad(_spaced(x, geometry.spacing), geometry.padding, mode=geometry.padding_mode)


def kernels(conv: nn.modules.conv._ConvNd) -> Tensor:
    """A convolution's weights as one matrix for each group (groups, outputs, inputs), for the fields of ``im2col``."""
    grouped = conv.weight.unflatten(0, (conv.groups, -1))
    if isinstance(conv, nn.modules.conv._ConvTransposeNd):
        grouped = grouped.transpose(1, 2).flip(tuple(range(3, grouped.dim())))
    return grouped.flatten(2)


def kernel_weight(conv: nn.modules.conv._ConvNd, matrices: Tensor) -> Tensor:
    """A copy of ``matrices`` (groups, outputs, inputs), as ``kernels`` gives them, in the shape of ``conv.weight``."""
    grouped = matrices.unflatten(2, (conv.in_channels // conv.groups, *conv.kernel_size))
    if isinstance(conv, nn.modules.conv._ConvTransposeNd):
        grouped = grouped.flip(tuple(range(3, grouped.dim()))).transpose(1, 2)
    return grouped.flatten(0, 1).clone()


@dataclass(frozen=True)
class GroupPacking:
    """The packing of a layer's groups onto arrays: several matrices on one array's diagonal, zeros between them.

    "dense" gives each group arrays of its own. Cells off the diagonal hold the weight 0, which is level 0 of
    differential weights and is removed by every offset scheme.
    """

    groups: int
    """Number of groups."""
    inputs: int
    """Inputs of one group."""
    outputs: int
    """Outputs of one group."""
    per_block: int
    """Groups that share arrays, as one block."""

    @classmethod
    def of(cls, groups: int, inputs: int, outputs: int, architecture: Architecture, layout: Layout) -> Self:
        """The packing of ``groups`` matrices (outputs, inputs), with as many on one array as fit whole."""
        check_layout(layout)
        if architecture.weight_bits == 1 or layout == "toeplitz":
            layout = "dense"  # weights of one bit have no 0 to put between groups; only convolutions are unrolled
        fitting = min(architecture.tile[0] // inputs, architecture.outputs_per_tile // outputs, groups)
        return cls(groups, inputs, outputs, 1 if layout == "dense" else max(1, fitting))

    @property
    def features(self) -> int:
        """Number of inputs of all groups."""
        return self.groups * self.inputs

    @property
    def shapes(self) -> list[tuple[int, int]]:
        """The size (outputs, inputs) of each block."""
        sizes = [min(self.per_block, self.groups - start) for start in range(0, self.groups, self.per_block)]
        return [(n * self.outputs, n * self.inputs) for n in sizes]

    @property
    def weights(self) -> int:
        """Number of weights of all groups, without the zeros between groups."""
        return self.groups * self.inputs * self.outputs

    def layouts(self, architecture: Architecture) -> list[TileLayout]:
        """The layout of each block on its tiles."""
        return [TileLayout(architecture, inputs=inputs, outputs=outputs) for outputs, inputs in self.shapes]

    def blocks(self, weight: Tensor) -> list[Tensor]:
        """The matrices (outputs, inputs) to program, from the groups' weights (groups, outputs, inputs)."""
        return [torch.block_diag(*part) for part in weight.split(self.per_block)]

    def unblocked(self, blocks: Sequence[Tensor]) -> Tensor:
        """The groups' weights (groups, outputs, inputs) of ``blocks``, matrices (outputs, inputs)."""
        of_group = (
            block[k : k + self.outputs, at : at + self.inputs]
            for block in blocks
            for k, at in zip(range(0, block.shape[0], self.outputs), range(0, block.shape[1], self.inputs), strict=True)
        )
        return torch.stack(list(of_group))

    def split(self, fields: Tensor) -> tuple[Tensor, ...]:
        """The inputs of each block, from those of all groups (..., groups * inputs)."""
        return fields.split(self.per_block * self.inputs, -1)

    def joined(self, products: Sequence[Tensor]) -> Tensor:
        """Outputs (..., groups * outputs) of the blocks' products."""
        return products[0] if len(products) == 1 else torch.cat(list(products), -1)

    def reached_by_nan(self, fields: Tensor) -> Tensor:
        """Whether the group of each output has a NaN in ``fields`` (..., features).

        The result is bool and broadcasts with outputs (..., groups * outputs). It comes from maxima, which are NaN
        where any of their numbers is, because they take less memory than a mask of all numbers.
        """
        lost = fields.unflatten(-1, (self.groups, self.inputs)).amax(-1).isnan()
        return lost if self.groups == 1 else lost.repeat_interleave(self.outputs, -1)


def _spaced(x: Tensor, spacing: tuple[int, ...]) -> Tensor:
    """Maps (batch, channels, ...) with zeros inserted between neighbours, which are then ``spacing`` apart."""
    for dim, step in enumerate(spacing, start=2):
        if step > 1:
            apart = F.pad(x.unsqueeze(dim + 1), (0, 0) * (x.dim() - dim - 1) + (0, step - 1))
            x = apart.flatten(dim, dim + 1).narrow(dim, 0, (x.shape[dim] - 1) * step + 1)
    return x
