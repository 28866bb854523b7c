"""torch layers whose matrix products run on crossbars; the bias stays digital."""

from __future__ import annotations

import copy
import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import Any, NoReturn

import torch
from torch import Tensor, nn

from geniex.circuit.checks import has_values
from geniex.emulator import Emulator
from geniex.errors import InputError
from geniex.mapping import (
    Architecture,
    CompactedTiles,
    ConvGeometry,
    GroupPacking,
    Layout,
    Packing,
    TileLayout,
    Unrolling,
    compact,
    im2col,
    kernel_weight,
    kernels,
)
from geniex.simulator.hooks import without_hooks
from geniex.simulator.matrix import CrossbarMatrix, Reads
from geniex.simulator.modes import check_mode, refuse_script
from geniex.simulator.scales import FullScale, InputStatistics

Inputs = InputStatistics | float | None


class CrossbarLayer(nn.Module, ABC):
    """A torch layer on crossbars: one matrix for each block of groups, one read for each field (input vector).

    Args:
        module: the torch layer; its weights are programmed, its bias copied.
        architecture: fixed point, slices, streams, converters.
        emulator: the crossbar's physics.
        layout: "block_diagonal" puts as many groups on one array as fit. "dense" gives each group arrays of its own.
            "toeplitz" unrolls a convolution, so that one read serves all its positions. "compacted" leaves out rows and
            columns of zeros.
        map_size: spatial size of the input, which "toeplitz" needs.
        inputs: statistics of the inputs in calibration, or their largest magnitude, for all matrices or one for each;
            see ``CrossbarMatrix``.
        dtype: dtype of conductances, voltages and currents.
        trainable: whether the weights stay parameters; see ``CrossbarMatrix``.
        checkpoint: what a backward pass computes once more; see ``CrossbarMatrix``.
        weight_full_scale: magnitude that weights are scaled by, one for the layer or one for each output of all groups;
            see ``CrossbarMatrix``.
    """

    def __init__(
        self,
        module: nn.Module,
        architecture: Architecture,
        emulator: Emulator,
        *,
        layout: Layout = "block_diagonal",
        map_size: Sequence[int] | None = None,
        inputs: Inputs | Sequence[Inputs] = None,
        dtype: torch.dtype | None = None,
        trainable: bool = False,
        checkpoint: bool | None = None,
        weight_full_scale: FullScale | None = None,
    ) -> None:
        super().__init__()
        self.layout = layout
        self.packing = self.packed(module, architecture, layout, map_size)
        weight = self.weight_of(module)
        blocks = self.packing.blocks(weight)
        layouts = tile_layouts(self.packing, blocks, architecture, layout)
        given = inputs if isinstance(inputs, Sequence) else [inputs] * len(blocks)
        options: dict[str, Any] = {"dtype": dtype, "checkpoint": checkpoint}
        trained: Sequence[bool | Tensor] = self._trained(weight, layouts) if trainable else [False] * len(blocks)
        self.matrices = nn.ModuleList(
            CrossbarMatrix(
                block,
                architecture,
                emulator,
                inputs=seen,
                trainable=which,
                layout=tiles,
                weight_full_scale=scale,
                **options,
            )
            for block, seen, which, tiles, scale in zip(
                blocks,
                given,
                trained,
                layouts,
                _by_block(weight_full_scale, blocks),
                strict=True,
            )
        )
        bias = module.bias
        if isinstance(bias, Tensor) and has_values(bias) and not torch.isfinite(bias).all():
            raise InputError("bias", "NaN or infinity", "every bias must be finite")
        self.bias = nn.Parameter(bias.detach().clone()) if isinstance(bias, Tensor) else None
        self.register_buffer("output_gain", None)
        self._torch_layer = (_without_values(module),) if trainable else ()

    output_gain: Tensor | None
    """Factors (groups * outputs,) on the products before the bias is added, from a correction of outputs; None is 1."""

    @staticmethod
    @abstractmethod
    def weight_of(module: Any) -> Tensor:
        """The layer's weight matrices (groups, outputs, inputs)."""

    @staticmethod
    @abstractmethod
    def weight_to(module: Any, matrices: Tensor) -> Tensor:
        """A copy of weight matrices (groups, outputs, inputs) in the shape of the torch layer's weight."""

    @staticmethod
    @abstractmethod
    def fields_of(module: Any, x: Tensor) -> Tensor:
        """The vectors (count, groups * inputs) that the matrices of a torch layer see for its input ``x``."""

    @abstractmethod
    def matrix_inputs(self, x: Tensor) -> Tensor:
        """The vectors (count, groups * inputs) that the matrices see for the layer's input ``x``."""

    @property
    @abstractmethod
    def output_dim(self) -> int:
        """The dimension of an output, as a negative index, that holds the groups' outputs."""

    @abstractmethod
    def output_vectors(self, y: Tensor) -> Tensor:
        """The vectors (count, groups * outputs) of the layer's output ``y``, one for each of ``matrix_inputs``."""

    @classmethod
    def packed(
        cls, module: nn.Module, architecture: Architecture, layout: Layout, map_size: Sequence[int] | None = None
    ) -> Packing:
        """The packing that places the layer's matrices on arrays."""
        groups, outputs, inputs = cls.weight_of(module).shape
        return GroupPacking.of(groups, inputs, outputs, architecture, layout)

    @property
    def matrix(self) -> CrossbarMatrix:
        """The matrix of a layer that has exactly one."""
        if len(self.matrices) != 1:
            raise InputError("layer", f"one of {len(self.matrices)} matrices", "they are in .matrices")
        return self.matrices[0]  # type: ignore[return-value]

    @property
    def trainable(self) -> bool:
        """Whether the weights are parameters."""
        return bool(self._torch_layer)

    def digital(self) -> nn.Module:
        """The torch layer that this one replaced, on this layer's device, with the present weights and bias."""
        if not self._torch_layer:
            raise InputError("model", "a layer whose weights are on crossbars alone", "convert it with trainable=True")
        if self.output_gain is not None:
            raise InputError("model", "a layer whose outputs are calibrated for its crossbars", "copy it before that")
        blocks = [matrix.weight.detach() for matrix in self.matrices]  # type: ignore[operator]
        layer = copy.deepcopy(self._torch_layer[0]).train(self.training)
        layer.weight = nn.Parameter(self.weight_to(layer, self.packing.unblocked(blocks)))
        layer.bias = None if self.bias is None else nn.Parameter(self.bias.detach().clone())  # type: ignore[assignment]
        return layer

    def reads(self, fields: Tensor) -> list[Reads]:
        """Every voltage and current that fields (count, groups * inputs) cause, for each matrix."""
        return [matrix.reads(part) for matrix, part in self._parts(fields)]

    def product(self, fields: Tensor) -> Tensor:
        """The layer's outputs (..., groups * outputs) for fields (..., groups * inputs).

        An unrolled convolution gives (..., positions, groups * outputs) for whole maps (..., features). A NaN reaches
        only the outputs of the fields and groups that contain it.
        """
        if not fields.dim() or fields.shape[-1] != self.packing.features:
            return self.matrices[0](fields)  # the matrix raises an error that says what is wrong
        joined = self.packing.joined([matrix(part, nan=False) for matrix, part in self._parts(fields)])
        if fields.numel():
            joined = joined.masked_fill(self.packing.reached_by_nan(fields.detach()), math.nan)
        if self.output_gain is not None:
            joined = joined * self.output_gain
        return joined if self.bias is None else joined + self.bias

    def _trained(self, weight: Tensor, layouts: Sequence[TileLayout]) -> Sequence[bool | Tensor]:
        """The trained weights of each matrix: all but the zeros between groups and the weights that are on no tile."""
        if self.packing.per_block == 1 and self.layout != "compacted":
            return [True] * len(self.packing.shapes)
        masks = self.packing.blocks(torch.ones_like(weight, dtype=torch.bool))
        return [
            mask & tiles.held.to(mask.device) if isinstance(tiles, CompactedTiles) else mask
            for mask, tiles in zip(masks, layouts, strict=True)
        ]

    def _parts(self, fields: Tensor) -> Iterator[tuple[CrossbarMatrix, Tensor]]:
        """Pairs of each matrix and its inputs."""
        return zip(self.matrices, self.packing.split(fields), strict=True)  # type: ignore[arg-type]

    def __prepare_scriptable__(self) -> NoReturn:
        refuse_script()

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "weight":
            raise AttributeError(
                f"the weight of a {type(self).__name__} is on crossbars, but the module around it sets another: keep"
                " this layer digital by a rule"
            )
        super().__setattr__(name, value)

    def __getattr__(self, name: str) -> Any:
        if name == "weight":
            raise AttributeError(
                f"{type(self).__name__} has no weight, it is on crossbars, but the module around it reads it: keep this"
                " layer digital by a rule"
            )
        return super().__getattr__(name)


class CrossbarLinear(CrossbarLayer):
    """``nn.Linear`` on crossbars: each input drives a word line, each output is read from a group of bit lines."""

    @staticmethod
    def weight_of(module: nn.Linear) -> Tensor:
        """The weight matrix (1, outputs, inputs)."""
        return module.weight[None]

    @staticmethod
    def weight_to(module: nn.Linear, matrices: Tensor) -> Tensor:
        """A copy of the one matrix (outputs, inputs)."""
        return matrices[0].clone()

    @staticmethod
    def fields_of(module: nn.Linear, x: Tensor) -> Tensor:
        """The input's vectors (count, in_features)."""
        return x.reshape(-1, module.in_features)

    def matrix_inputs(self, x: Tensor) -> Tensor:
        """The input's vectors (count, in_features)."""
        return x.reshape(-1, self.packing.inputs)

    @property
    def output_dim(self) -> int:
        """The last dimension."""
        return -1

    def output_vectors(self, y: Tensor) -> Tensor:
        """The output's vectors (count, out_features)."""
        return y.reshape(-1, self.packing.outputs)

    def forward(self, input: Tensor) -> Tensor:
        """The outputs (..., out_features) for inputs (..., in_features)."""
        check_mode(input)
        return self.product(input)


class CrossbarConv(CrossbarLayer):
    """A convolution of one to three dimensions on crossbars.

    Each kernel lies on a group of bit lines, and each position is one read (im2col). In the layout "toeplitz" every
    output at every position has bit lines of its own, and one read takes a whole map, whose size must be ``map_size``.
    Products are the same to the bit unless ADCs clip or accumulators cut off bits, because these then act on other
    sums. Tiles without a weight have no array. The number of the others is the number of column tiles that positions
    times channels fill, times the few row tiles that each column tile sees. That is 17 MB of conductances for
    FashionCNN's first layer on tiles of 64 x 64, and gigabytes for 64 channels on maps of 32 x 32.
    """

    def __init__(
        self, module: nn.modules.conv._ConvNd, architecture: Architecture, emulator: Emulator, **options: Any
    ) -> None:
        super().__init__(module, architecture, emulator, **options)
        self.geometry = ConvGeometry.of(module)

    @staticmethod
    def weight_of(module: nn.modules.conv._ConvNd) -> Tensor:
        """The kernel matrices (groups, outputs, inputs)."""
        return kernels(module)

    @staticmethod
    def weight_to(module: nn.modules.conv._ConvNd, matrices: Tensor) -> Tensor:
        """A copy of the kernels in the shape of the torch layer's weight."""
        return kernel_weight(module, matrices)

    @staticmethod
    def fields_of(module: nn.modules.conv._ConvNd, x: Tensor) -> Tensor:
        """The receptive fields (count, in_channels * kernel) of the input ``x``."""
        return _fields(x, ConvGeometry.of(module))

    @classmethod
    def packed(
        cls, module: Any, architecture: Architecture, layout: Layout, map_size: Sequence[int] | None = None
    ) -> Packing:
        """The packing that places the layer's matrices on arrays."""
        if layout != "toeplitz":
            return super().packed(module, architecture, layout)
        if map_size is None:
            allowed = (
                "layout 'toeplitz' unrolls for maps of one size: calibrate, or give LayerRule(map_size=(rows, cols))"
            )
            raise InputError("map_size", None, allowed)
        return Unrolling.of(module, architecture, map_size)

    def matrix_inputs(self, x: Tensor) -> Tensor:
        """The receptive fields (count, in_channels * kernel), or whole maps (count, features) where it is unrolled."""
        if isinstance(self.packing, Unrolling):
            return self.packing.vectors(x if x.dim() > self.geometry.dims + 1 else x[None])
        return _fields(x, self.geometry)

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
        if isinstance(self.packing, Unrolling):
            if geometry != self.geometry:
                raise InputError("output_size", "not the default", "an unrolled convolution gives maps of one size")
            fields, size = self.packing.vectors(x), self.packing.output_size
        else:
            fields, size = im2col(x, geometry)
        return self.product(fields).transpose(1, 2).unflatten(2, size)


class CrossbarConvTranspose(CrossbarConv):
    """A transposed convolution on crossbars, computed as a convolution of the input with zeros between its elements."""

    def forward(self, input: Tensor, output_size: Sequence[int] | None = None) -> Tensor:
        """The outputs (batch, out_channels, ...) for (batch, in_channels, ...); torch defines ``output_size``."""
        geometry = self.geometry if output_size is None else self.geometry.to_size(input.shape, output_size)
        return self._convolved(input, geometry)


def tile_layouts(
    packing: Packing, blocks: Sequence[Tensor], architecture: Architecture, layout: Layout
) -> list[TileLayout]:
    """The tile layout of each of ``blocks``; without values no weight is known to be 0, and none is left out."""
    if layout != "compacted" or not all(has_values(block) for block in blocks):
        return packing.layouts(architecture)
    return [compact(block.detach() != 0, architecture) for block in blocks]


def _by_block(full_scale: FullScale | None, blocks: Sequence[Tensor]) -> list[FullScale | None]:
    """The full scale of each block: the one given for all, or those of the block's outputs."""
    if not isinstance(full_scale, tuple):
        return [full_scale] * len(blocks)
    outputs = sum(len(block) for block in blocks)
    if len(full_scale) != outputs:
        allowed = f"one, or one for each of {outputs} outputs"
        raise InputError("weight_full_scale", f"{len(full_scale)} numbers", allowed)
    parts, rest = [], full_scale
    for block in blocks:
        parts.append(rest[: len(block)])
        rest = rest[len(block) :]
    return list(parts)


def _without_values(module: nn.Module) -> nn.Module:
    """A copy of ``module`` without its weight and its bias."""
    bare = without_hooks(copy.copy(module))
    bare._parameters = dict.fromkeys(module._parameters)
    return copy.deepcopy(bare)


def _fields(x: Tensor, geometry: ConvGeometry) -> Tensor:
    return im2col(x if x.dim() > geometry.dims + 1 else x[None], geometry)[0].flatten(0, 1)


CROSSBAR_LAYERS: dict[type[nn.Module], type[CrossbarLayer]] = {
    nn.Linear: CrossbarLinear,
    nn.Conv1d: CrossbarConv,
    nn.Conv2d: CrossbarConv,
    nn.Conv3d: CrossbarConv,
    nn.ConvTranspose1d: CrossbarConvTranspose,
    nn.ConvTranspose2d: CrossbarConvTranspose,
    nn.ConvTranspose3d: CrossbarConvTranspose,
}
"""torch's layers that have a crossbar form, each with the class of that form."""


def crossbar_layers(model: nn.Module) -> dict[str, CrossbarLayer]:
    """The layers of a converted model that run on crossbars, by name."""
    return {name: m for name, m in model.named_modules() if isinstance(m, CrossbarLayer)}


def crossbar_matrices(model: nn.Module) -> dict[str, CrossbarMatrix]:
    """Every matrix of a converted model that runs on crossbars, by name."""
    return {name: m for name, m in model.named_modules() if isinstance(m, CrossbarMatrix)}
