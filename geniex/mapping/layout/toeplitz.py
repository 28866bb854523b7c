"""A convolution unrolled for maps of one size: one Toeplitz matrix from all inputs to all outputs at all positions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Self

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from geniex.errors import InputError
from geniex.mapping.architecture import Architecture
from geniex.mapping.layout.convolution import ConvGeometry, pad_maps, to_kernels
from geniex.mapping.layout.grouped import Packing


@dataclass(frozen=True)
class Unrolling(Packing):
    """The matrix of a convolution from a whole map to a whole map, and the positions of its weights.

    Inputs and outputs are ordered by position, with a position's channels side by side, so that the receptive field of
    a position lies on few tiles. Inputs that no output sees, and zero padding, have no word line. The copies that other
    padding modes make are inputs of their own, because two weights on one cell would be another integer. Where inputs
    are a sign alone, padding is +1 as in the other layouts, and has word lines too.

    The structure is held in NumPy arrays, which have values even where tensors have none.
    """

    geometry: ConvGeometry
    """Kernel, stride, dilation and padding."""
    size: tuple[int, ...]
    """Size of the maps, without batch and channels."""
    groups: int
    """Number of groups."""
    inputs: int
    """Inputs of one group's kernels: channels times kernel."""
    outputs: int
    """Output channels of one group."""
    padded: bool
    """Whether padding, and zeros between inputs, are inputs."""

    @classmethod
    def of(cls, conv: nn.modules.conv._ConvNd, architecture: Architecture, size: Sequence[int]) -> Self:
        """The unrolling of a torch convolution, transposed or not, for maps of ``size``.

        Raises:
            InputError: the convolution does not take maps of this size, or its weights have no 0.
        """
        groups, outputs, inputs = to_kernels(conv).shape
        return cls.of_kernels(ConvGeometry.of(conv), (groups, outputs, inputs), architecture, size)

    @classmethod
    def of_kernels(
        cls, geometry: ConvGeometry, kernel: tuple[int, int, int], architecture: Architecture, size: Sequence[int]
    ) -> Self:
        """The unrolling of kernels (groups, outputs, inputs) with a ``geometry``; ``of`` states the errors."""
        if architecture.weight_bits == 1 and architecture.weight_scheme == "differential":
            raise InputError("layout", "'toeplitz'", "one-bit weights have no 0, which unrolling needs: use 'dense'")
        groups, outputs, inputs = kernel
        sign_alone = architecture.input_bits == 1 and architecture.streaming == "passes"
        padded = geometry.padding_mode != "constant" or sign_alone
        found = cls(geometry, check_size(size, geometry.dims), groups, inputs, outputs, padded)
        if min(found.output_size) < 1:
            raise InputError("map size", found.size, f"a kernel of {geometry.kernel} must fit on the padded map")
        return found

    @property
    def channels(self) -> int:
        """Number of input channels of all groups."""
        return self.groups * self.inputs // math.prod(self.geometry.kernel)

    @property
    def map_size(self) -> tuple[int, ...]:
        """Spatial size of the maps, without batch and channels."""
        return self.size

    @cached_property
    def output_size(self) -> tuple[int, ...]:
        """Size of the output maps."""
        return tuple(len(table) for table in self._lines)

    @property
    def positions(self) -> int:
        """Number of positions of an output map."""
        return math.prod(self.output_size)

    @property
    def features(self) -> int:
        """Number of inputs of the matrix."""
        return self.sites * self.channels

    @property
    def sites(self) -> int:
        """Number of sites: the input positions that some output sees."""
        return math.prod(len(seen) for seen in self._seen)

    @property
    def shapes(self) -> list[tuple[int, int]]:
        """(outputs, inputs) of the one matrix."""
        return [(self.positions * self.groups * self.outputs, self.features)]

    @property
    def weights(self) -> int:
        """Number of weights in the matrix without the zeros between them: the products for one image."""
        return math.prod(int((line >= 0).sum()) for line in self._lines) * self.channels * self.outputs

    @cached_property
    def taps(self) -> Any:
        """The kernel element from each site to each position, int32 (positions, sites); -1 means none."""
        taps = np.zeros((1, 1), np.int32)
        for line, seen, width in zip(self._lines, self._seen, self.geometry.kernel, strict=True):
            here = line[:, seen]
            both = (taps[:, None, :, None] >= 0) & (here[None, :, None, :] >= 0)
            joined = np.where(both, taps[:, None, :, None] * width + here[None, :, None, :], -1)
            taps = joined.reshape(len(taps) * len(here), -1).astype(np.int32)
        return taps

    @cached_property
    def sites_of_fields(self) -> Any:
        """The site at each kernel element of a position, int64 (positions, kernel); ``sites`` means none."""
        found = np.full((self.positions, math.prod(self.geometry.kernel)), self.sites)
        position, site = np.nonzero(self.taps >= 0)
        found[position, self.taps[position, site]] = site
        return found

    def blocks(self, weight: Tensor) -> list[Tensor]:
        """The kernels (groups * outputs, inputs of a group) of the groups' weights (groups, outputs, inputs)."""
        return [weight.flatten(0, 1)]

    def unblock(self, blocks: Sequence[Tensor]) -> Tensor:
        """The groups' weights (groups, outputs, inputs) of ``blocks``: the inverse of ``blocks``."""
        return blocks[0].unflatten(0, (self.groups, self.outputs))

    def split(self, vectors: Tensor) -> tuple[Tensor, ...]:
        """The inputs of the one matrix, as a tuple of one."""
        return (vectors,)

    def join(self, products: Sequence[Tensor]) -> Tensor:
        """Outputs (..., positions, groups * outputs) of the one matrix' product."""
        return products[0].unflatten(-1, (self.positions, self.groups * self.outputs))

    def reached_by_nan(self, fields: Tensor) -> Tensor:
        """Whether the receptive field of each output has a NaN in maps (..., features).

        The result is bool (..., positions, groups * outputs).
        """
        lost = fields.unflatten(-1, (self.sites, self.groups, -1)).amax(-1).isnan()
        lost = F.pad(lost, (0, 0, 0, 1))  # the site that stands for none
        sites = torch.tensor(self.sites_of_fields, device=fields.device)
        seen = lost.index_select(-2, sites.flatten()).unflatten(-2, sites.shape)
        return seen.any(-2).repeat_interleave(self.outputs, -1)

    def read_maps(self, x: Tensor, geometry: ConvGeometry) -> tuple[Tensor, tuple[int, ...]]:
        """The matrix' inputs (batch, features) for maps (batch, channels, *size), and the size of the output's maps.

        Raises:
            InputError: the maps have another size, or ``geometry`` is not that of the unrolled convolution.
        """
        if geometry != self.geometry:
            raise InputError(
                "output_size", "not the default", "an unrolled convolution gives maps of one size: omit output_size"
            )
        return self.vectors(x), self.output_size

    def vectors(self, x: Tensor) -> Tensor:
        """The matrix' inputs (batch, features) of maps (batch, channels, *size)."""
        if tuple(x.shape[2:]) != self.size:
            way_out = "convert it with such images, or with layout='dense'"
            allowed = f"this convolution is unrolled for maps of {self.size}: {way_out}"
            raise InputError("input", f"maps of {tuple(x.shape[2:])}", allowed)
        x = pad_maps(x, self.geometry) if self.padded else x
        for dim, seen in enumerate(self._seen, start=2):
            x = _taken(x, dim, seen)
        return x.flatten(2).transpose(1, 2).flatten(1)

    @cached_property
    def _lines(self) -> tuple[Any, ...]:
        """The kernel element from input to output (outputs, inputs) for each dimension; -1 means none."""
        padding, dims = self.geometry.padding, self.geometry.dims
        ends = [padding[2 * (dims - 1 - dim) : 2 * (dims - dim)] for dim in range(dims)]
        return tuple(
            _line(size, kernel, stride, dilation, spacing, before, after, padded=self.padded)
            for size, kernel, stride, dilation, spacing, (before, after) in zip(
                self.size,
                self.geometry.kernel,
                self.geometry.stride,
                self.geometry.dilation,
                self.geometry.spacing,
                ends,
                strict=True,
            )
        )

    @cached_property
    def _seen(self) -> tuple[Any, ...]:
        """The indices of the inputs that some output sees, for each dimension."""
        return tuple(np.flatnonzero((line >= 0).any(0)) for line in self._lines)


def check_size(size: Sequence[int], dims: int) -> tuple[int, ...]:
    """``size`` as the spatial size of maps; raises ``InputError`` unless it is ``dims`` positive whole numbers."""
    given = tuple(size) if isinstance(size, Sequence) else (size,)
    if len(given) != dims or not all(type(n) is int and n > 0 for n in given):
        raise InputError("map size", size, f"it must be the {dims} whole numbers of a map without batch and channels")
    return given


def _line(
    size: int, kernel: int, stride: int, dilation: int, spacing: int, before: int, after: int, *, padded: bool
) -> Any:
    """The kernel element from input to output in one dimension, int32 (outputs, inputs); -1 means none."""
    spread = (size - 1) * spacing + 1
    outputs = max(0, (spread + before + after - dilation * (kernel - 1) - 1) // stride + 1)
    at = np.arange(outputs)[:, None] * stride + np.arange(kernel) * dilation
    if padded:  # every place of the padded map is an input
        inside, inputs = np.ones_like(at, bool), spread + before + after
    else:
        at, inputs = at - before, size
        inside = (at >= 0) & (at < spread) & (at % spacing == 0)
        at = at // spacing
    table = np.full((outputs, max(0, inputs)), -1, np.int32)
    rows, elements = np.nonzero(inside)
    table[rows, at[rows, elements]] = elements
    return table


def _taken(x: Tensor, dim: int, indices: Any) -> Tensor:
    """``x`` at ``indices`` of ``dim``; a view where the indices are equally spaced."""
    first, count = int(indices[0]), len(indices)
    steps = np.diff(indices)
    if count == 1 or (steps == steps[0]).all():
        step = 1 if count == 1 else int(steps[0])
        at = [slice(None)] * dim + [slice(first, int(indices[-1]) + 1, step)]
        return x[tuple(at)]
    return x.index_select(dim, torch.tensor(indices, device=x.device))
