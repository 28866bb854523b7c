"""Convolutions on crossbars, plain and transposed."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from geniex.mapping import ConvGeometry, Packing, from_kernels, to_kernels
from geniex.simulator.layers.crossbar import CrossbarLayer, register_layer
from geniex.simulator.modes import check_mode


class CrossbarConv(CrossbarLayer):
    """A convolution of one to three dimensions on crossbars.

    Each kernel lies on a group of bit lines, and each position is one read (im2col). In the layout "toeplitz" every
    output at every position has bit lines of its own, and one read takes a whole map, whose size must be ``map_size``.
    Products are the same to the bit unless ADCs clip or accumulators cut off bits, because these then act on other
    sums. Tiles without a weight have no array. The number of the others is the number of column tiles that positions
    times channels fill, times the few row tiles that each column tile sees. That is 17 MB of conductances for
    FashionCNN's first layer on tiles of 64 x 64, and gigabytes for 64 channels on maps of 32 x 32.
    """

    geometry: ConvGeometry

    @staticmethod
    def weight_of(module: nn.modules.conv._ConvNd) -> Tensor:
        """The kernel matrices (groups, outputs, inputs)."""
        return to_kernels(module)

    @staticmethod
    def weight_to(module: nn.modules.conv._ConvNd, matrices: Tensor) -> Tensor:
        """A copy of the kernels in the shape of the torch layer's weight."""
        return from_kernels(module, matrices)

    @staticmethod
    def geometry_of(module: nn.modules.conv._ConvNd) -> ConvGeometry:
        """The convolution's kernel, stride, dilation and padding."""
        return ConvGeometry.of(module)

    @staticmethod
    def read_fields(x: Tensor, packing: Packing, geometry: ConvGeometry | None) -> Tensor:
        """The receptive fields (count, in_channels * kernel), or whole maps (count, features) where it is unrolled."""
        assert geometry is not None
        fields, _ = packing.read_maps(x if x.dim() > geometry.dims + 1 else x[None], geometry)
        return fields.reshape(-1, packing.features)

    @property
    def output_dim(self) -> int:
        """The dimension before those of the map."""
        return -1 - self.geometry.dims

    def output_vectors(self, y: Tensor) -> Tensor:
        """The output's vectors (count, out_channels), position by position, image after image."""
        maps = y if y.dim() > self.geometry.dims + 1 else y[None]
        return maps.flatten(2).transpose(1, 2).flatten(0, 1)

    def forward(self, input: Tensor) -> Tensor:
        """The outputs (batch, out_channels, ...) for (batch, in_channels, ...); a single map may lack the batch."""
        return self._convolved(input, self.geometry)

    def _convolved(self, x: Tensor, geometry: ConvGeometry) -> Tensor:
        check_mode(x)
        if x.dim() == geometry.dims + 1:
            return self._convolved(x[None], geometry)[0]
        fields, size = self.packing.read_maps(x, geometry)
        return self.product(fields).transpose(1, 2).unflatten(2, size)


class CrossbarConvTranspose(CrossbarConv):
    """A transposed convolution on crossbars, computed as a convolution of the input with zeros between its elements."""

    def forward(self, input: Tensor, output_size: Sequence[int] | None = None) -> Tensor:
        """The outputs (batch, out_channels, ...) for (batch, in_channels, ...); torch defines ``output_size``."""
        geometry = self.geometry if output_size is None else self.geometry.to_size(input.shape, output_size)
        return self._convolved(input, geometry)


for _plain in (nn.Conv1d, nn.Conv2d, nn.Conv3d):
    register_layer(_plain, CrossbarConv)
for _transposed in (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d):
    register_layer(_transposed, CrossbarConvTranspose)
