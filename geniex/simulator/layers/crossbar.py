"""torch layers whose matrix products run on crossbars; the bias stays digital.

``register_layer`` registers the class that takes a torch layer's place on crossbars.
"""

from __future__ import annotations

import copy
import inspect
import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import Any, NoReturn

import torch
from torch import Tensor, nn

from geniex.circuit.checks import has_values
from geniex.emulator import Emulator
from geniex.errors import InputError
from geniex.jobs import share_registry
from geniex.mapping import Architecture, ConvGeometry, LayerLayout, Layout, Packing, TileLayout, lay_out
from geniex.simulator.matrix import CrossbarMatrix
from geniex.simulator.modes import refuse_script
from geniex.simulator.read import Reads
from geniex.simulator.replace import remove_hooks
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
        plan: the layer's layout on tiles where it has been made already; it takes the place of ``layout`` and
            ``map_size``.
        inputs: statistics of the inputs in calibration, or their largest magnitude, for all matrices or one for each;
            see ``CrossbarMatrix``.
        dtype: dtype of conductances, voltages and currents.
        trainable: whether the weights stay parameters; see ``CrossbarMatrix``.
        checkpoint: whether a backward pass computes intermediate values again; see ``CrossbarMatrix``.
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
        plan: LayerLayout | None = None,
        inputs: Inputs | Sequence[Inputs] = None,
        dtype: torch.dtype | None = None,
        trainable: bool = False,
        checkpoint: bool | None = None,
        weight_full_scale: FullScale | None = None,
    ) -> None:
        super().__init__()
        weight, self.geometry = self.weight_of(module), self.geometry_of(module)
        if plan is None:
            plan = lay_out(weight.detach(), architecture, layout, self.geometry, map_size)
        self.layout, self.packing = plan.name, plan.packing
        blocks = self.packing.blocks(weight)
        given = inputs if isinstance(inputs, Sequence) else [inputs] * len(blocks)
        trained: Sequence[bool | Tensor] = self._trained(weight, plan.tiles) if trainable else [False] * len(blocks)
        scales = _by_block(weight_full_scale, blocks)
        self.matrices = nn.ModuleList()
        for block, seen, which, tiles, scale in zip(blocks, given, trained, plan.tiles, scales, strict=True):
            matrix = CrossbarMatrix(
                block,
                architecture,
                emulator,
                inputs=seen,
                dtype=dtype,
                trainable=which,
                checkpoint=checkpoint,
                layout=tiles,
                weight_full_scale=scale,
            )
            self.matrices.append(matrix)
        bias = getattr(module, "bias", None)
        if isinstance(bias, Tensor) and has_values(bias) and not torch.isfinite(bias).all():
            raise InputError("bias", "NaN or infinity", "every bias must be finite")
        self.bias = nn.Parameter(bias.detach().clone()) if isinstance(bias, Tensor) else None
        self.register_buffer("output_gain", None)
        self._torch_layer = (_without_values(module),) if trainable else ()

    geometry: ConvGeometry | None
    """The geometry of a convolution; None for a layer without positions."""
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
    def geometry_of(module: Any) -> ConvGeometry | None:
        """The geometry of a convolution; None for a layer without positions."""
        return None

    @staticmethod
    @abstractmethod
    def read_fields(x: Tensor, packing: Packing, geometry: ConvGeometry | None) -> Tensor:
        """The vectors (count, ``packing.features``) that the matrices see for the layer's input ``x``."""

    def matrix_inputs(self, x: Tensor) -> Tensor:
        """The vectors (count, groups * inputs) that the matrices see for the layer's input ``x``.

        An unrolled convolution sees whole maps (count, features).
        """
        return self.read_fields(x, self.packing, self.geometry)

    @property
    @abstractmethod
    def output_dim(self) -> int:
        """The dimension of an output, as a negative index, that holds the groups' outputs."""

    @abstractmethod
    def output_vectors(self, y: Tensor) -> Tensor:
        """The vectors (count, groups * outputs) of the layer's output ``y``, one for each of ``matrix_inputs``."""

    @property
    def matrix(self) -> CrossbarMatrix:
        """The matrix of a layer that has exactly one."""
        if len(self.matrices) != 1:
            raise InputError("layer", f"one of {len(self.matrices)} matrices", "use .matrices")
        return self.matrices[0]  # type: ignore[return-value]

    @property
    def trainable(self) -> bool:
        """Whether the weights are parameters."""
        return bool(self._torch_layer)

    def digital(self) -> nn.Module:
        """The torch layer that this one replaced, on this layer's device, with the present weights and bias."""
        if not self._torch_layer:
            raise InputError("model", "a layer without trainable weights", "convert the model with trainable=True")
        if self.output_gain is not None:
            raise InputError("model", "a layer whose outputs were corrected", "copy the model before correct_outputs")
        blocks = [matrix.weight.detach() for matrix in self.matrices]  # type: ignore[operator]
        layer = copy.deepcopy(self._torch_layer[0]).train(self.training)
        layer.weight = nn.Parameter(self.weight_to(layer, self.packing.unblock(blocks)))
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
            return self.matrices[0](fields)  # the matrix raises the right error
        joined = self.packing.join([matrix(part, nan=False) for matrix, part in self._parts(fields)])
        if fields.numel():
            joined = joined.masked_fill(self.packing.reached_by_nan(fields.detach()), math.nan)
        if self.output_gain is not None:
            joined = joined * self.output_gain
        return joined if self.bias is None else joined + self.bias

    def _trained(self, weight: Tensor, tiles: Sequence[TileLayout]) -> Sequence[bool | Tensor]:
        """The trained weights of each matrix: all but the zeros between groups and the weights that are on no tile."""
        held = [layout.held for layout in tiles]
        if not self.packing.mixes_groups and all(which is None for which in held):
            return [True] * len(tiles)
        masks = self.packing.blocks(torch.ones_like(weight, dtype=torch.bool))
        return [
            mask if which is None else mask & which.to(mask.device) for mask, which in zip(masks, held, strict=True)
        ]

    def _parts(self, fields: Tensor) -> Iterator[tuple[CrossbarMatrix, Tensor]]:
        """Pairs of each matrix and its inputs."""
        return zip(self.matrices, self.packing.split(fields), strict=True)  # type: ignore[arg-type]

    def __prepare_scriptable__(self) -> NoReturn:
        refuse_script()

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "weight":
            raise AttributeError(
                f"the weight of a {type(self).__name__} is on crossbars, but the module around it sets it: keep this"
                " layer digital by a rule"
            )
        super().__setattr__(name, value)

    def __getattr__(self, name: str) -> Any:
        if name == "weight":
            raise AttributeError(
                f"{type(self).__name__} has its weight on crossbars, but the module around it reads .weight: keep this"
                " layer digital by a rule"
            )
        return super().__getattr__(name)


_kinds: dict[type[nn.Module], type[CrossbarLayer]] = {}
"""Torch layers that have a crossbar form, each with the class of that form."""


def register_layer(torch_kind: type[nn.Module], kind: type[CrossbarLayer]) -> None:
    """Register ``kind`` as the form on crossbars of the layers ``torch_kind``, so that ``convert`` puts them there.

    A layer of a subclass of ``torch_kind`` counts as one if it does not compute otherwise. The layer must have its
    weight as a parameter ``weight``, and its bias, if it has one, as ``bias``.

    Args:
        torch_kind: class of a layer of torch, or of your own; a class that is registered already gets the new form.
        kind: a subclass of ``CrossbarLayer``, often of ``CrossbarLinear`` or ``CrossbarConv``.

    >>> from geniex.simulator import CrossbarLinear
    >>> class Doubled(nn.Linear):
    ...     def forward(self, input):
    ...         return 2 * super().forward(input)
    >>> class CrossbarDoubled(CrossbarLinear):
    ...     def forward(self, input):
    ...         return 2 * super().forward(input)
    >>> register_layer(Doubled, CrossbarDoubled)

    Raises:
        InputError: one of the two is no such class.
    """
    if not isinstance(torch_kind, type) or not issubclass(torch_kind, nn.Module):
        raise InputError("torch_kind", repr(torch_kind), "it must be a subclass of torch.nn.Module")
    if not isinstance(kind, type) or not issubclass(kind, CrossbarLayer) or inspect.isabstract(kind):
        allowed = "it must be a subclass of CrossbarLayer that has all its methods, such as one of CrossbarLinear"
        raise InputError("kind", repr(kind), allowed)
    _kinds[torch_kind] = kind


def _is_own(kind: type) -> bool:
    return kind.__module__.partition(".")[0] not in ("geniex", "torch")


share_registry(lambda: [(register_layer, pair) for pair in _kinds.items() if any(map(_is_own, pair))])


def find_registered_kind(module: nn.Module) -> type[nn.Module] | None:
    """The registered class whose layers ``module`` is one of: its own class or the nearest one that it derives from."""
    for torch_kind in type(module).__mro__:
        if torch_kind in _kinds:
            return torch_kind
    return None


def find_crossbar_kind(module: nn.Module) -> type[CrossbarLayer] | None:
    """The class that takes the module's place on crossbars; None unless it computes as a registered layer does."""
    torch_kind = find_registered_kind(module)
    if torch_kind is None:
        return None
    for name in ("forward", "_conv_forward", "__call__"):
        own = getattr(torch_kind, name, None)
        if own is not None and (getattr(type(module), name) is not own or name in vars(module)):
            return None
    return _kinds[torch_kind]


def find_crossbar_layers(model: nn.Module) -> dict[str, CrossbarLayer]:
    """The layers of a converted model that run on crossbars, by name."""
    return {name: m for name, m in model.named_modules() if isinstance(m, CrossbarLayer)}


def find_crossbar_matrices(model: nn.Module) -> dict[str, CrossbarMatrix]:
    """Every matrix of a converted model that runs on crossbars, by name."""
    return {name: m for name, m in model.named_modules() if isinstance(m, CrossbarMatrix)}


def _by_block(full_scale: FullScale | None, blocks: Sequence[Tensor]) -> list[FullScale | None]:
    """The full scale of each block: the one given for all, or those of the block's outputs."""
    if not isinstance(full_scale, tuple):
        return [full_scale] * len(blocks)
    outputs = sum(len(block) for block in blocks)
    if len(full_scale) != outputs:
        allowed = f"it must be one number, or one for each of the {outputs} outputs"
        raise InputError("weight_full_scale", f"{len(full_scale)} numbers", allowed)
    parts, rest = [], full_scale
    for block in blocks:
        parts.append(rest[: len(block)])
        rest = rest[len(block) :]
    return list(parts)


def _without_values(module: nn.Module) -> nn.Module:
    """A copy of ``module`` without its weight and its bias."""
    bare = remove_hooks(copy.copy(module))
    bare._parameters = dict.fromkeys(module._parameters)
    return copy.deepcopy(bare)
