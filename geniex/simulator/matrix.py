"""A weight matrix on crossbar tiles, and its product with inputs."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from geniex.circuit import shared_matmul
from geniex.circuit.validate import check_conductances, has_values
from geniex.config import check_number
from geniex.emulator import Emulator, map_tensors
from geniex.errors import InputError
from geniex.mapping import Architecture, Location, TileLayout
from geniex.mapping.fixed_point import accumulate, input_integers, largest_frac_bits, weight_magnitudes
from geniex.mapping.slicing import digit_weights, slice_digits, stream_digits, stream_weights
from geniex.simulator.ranges import InputStatistics
from geniex.simulator.readout import adc_counts, stream_voltages

_WORKSPACE_BYTES = {"cpu": 128 << 20, "cuda": 2 << 30}
"""Bytes of currents and emulator workspace in flight: inputs are taken in chunks of this size."""


class Reads(NamedTuple):
    """What the tiles of a matrix see: drives that broadcast against the tiles, and their currents."""

    voltages: Tensor
    """(reads, inputs, row_tiles, 1, 1, rows) [V]."""
    ideal: Tensor
    """Currents without any non-ideality (reads, inputs, row_tiles, 2, col_tiles, cols) [A]."""
    actual: Tensor
    """Currents of the emulator, same shape [A]."""


class CrossbarMatrix(nn.Module):
    """x @ weight.T computed by tiles of crossbars.

    The weights are programmed at construction. Gradients flow to the inputs, through the emulator's own
    derivative and straight through the quantisers; the programmed weights are constants.

    Args:
        weight: (outputs, inputs).
        architecture: fixed point, slices, streams, converters.
        emulator: what stands for the crossbar's physics; its tile must be the architecture's.
        inputs: statistics of its inputs in calibration, or their largest magnitude; needed where
            ``architecture.input_frac_bits`` is None. Where statistics saw no negative input, one pass is streamed
            and negative inputs clip to 0.
        dtype: of conductances, voltages and currents, float32 or float64; None means the weight's, at least float32.

    >>> from geniex.emulator import IdealEmulator
    >>> weight = torch.tensor([[0.5, -0.25]])
    >>> CrossbarMatrix(weight, Architecture(), IdealEmulator(), inputs=1.0)(torch.tensor([0.5, 0.5]))
    tensor([0.1250])
    """

    conductances: Tensor
    codes: Tensor | None
    """The ideal levels, kept where the offset scheme reads them."""

    def __init__(
        self,
        weight: Tensor,
        architecture: Architecture,
        emulator: Emulator,
        *,
        inputs: InputStatistics | float | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        _check_weight(weight)
        emulator.check(architecture)
        self.architecture, self.emulator = architecture, emulator
        self.layout = TileLayout(architecture, inputs=weight.shape[1], outputs=weight.shape[0])
        self.weight_frac_bits = self._weight_frac_bits(weight)
        self.input_frac_bits = self._input_frac_bits(inputs)
        self.non_negative = isinstance(inputs, InputStatistics) and inputs.non_negative
        """Whether inputs are taken to have no sign, whatever they are."""
        with torch.no_grad():
            codes = self._codes(weight.detach(), dtype or torch.promote_types(weight.dtype, torch.float32))
            conductances = architecture.window.to_conductance(codes, 2**architecture.slice_bits)
            self.array: Any = emulator.program(conductances)
        self.register_buffer("codes", codes if architecture.offset == "ideal_before" else None)
        self.register_buffer("conductances", conductances)
        self.register_load_state_dict_post_hook(_program_again)

    def program(self, conductances: Tensor) -> None:
        """Put other conductances (row_tiles, 2, col_tiles, rows, cols) [S] on the tiles, e.g. measured ones.

        ``.conductances`` has those that are programmed now. Index 0 of the second dimension is the positive
        array.
        """
        check_conductances(conductances, *self.architecture.tile)
        if conductances.shape != self.conductances.shape:
            raise InputError(
                "conductances", tuple(conductances.shape), f"this matrix has {tuple(self.conductances.shape)}"
            )
        with torch.no_grad():
            self.conductances = conductances.to(self.conductances)
            self.array = self.emulator.program(self.conductances)

    def locate(self, output: int, input: int) -> Location:
        """Where the weight from ``input`` to ``output`` lies."""
        return self.layout.locate(output, input)

    def forward(self, x: Tensor) -> Tensor:
        """The product (..., outputs) for inputs (..., inputs), in the inputs' dtype."""
        if x.dim() == 0 or x.shape[-1] != self.layout.inputs or not x.is_floating_point():
            given = f"{x.dtype} of shape {tuple(x.shape)}"
            raise InputError("x", given, f"it must be floating, its last dimension the {self.layout.inputs} inputs")
        flat = x.reshape(math.prod(x.shape[:-1]), self.layout.inputs)
        if flat.shape[0] == 0:
            return x.new_zeros(*x.shape[:-1], self.layout.outputs)
        # Microamperes do not survive the half precision that autocast would take the products to.
        with torch.autocast(x.device.type, enabled=False):
            inputs, row_tiles = self._chunk(len(flat))
            parts = [self._multiply(part, row_tiles) for part in flat.split(inputs)]
        return torch.cat(parts).reshape(*x.shape[:-1], self.layout.outputs).to(x.dtype)

    def reads(self, x: Tensor) -> Reads:
        """Every voltage and current that inputs (count, inputs) cause, to look inside; keep ``count`` small."""
        levels, _ = self._levels(x)
        voltages = stream_voltages(levels, self.architecture)
        ideal = shared_matmul(voltages, self.conductances)
        return Reads(voltages, ideal, self.emulator.read(self.array, voltages))

    def extra_repr(self) -> str:
        """Sizes, for ``print(model)``."""
        grid = f"{self.layout.row_tiles}x{self.layout.col_tiles} tiles of {self.architecture.tile}"
        return f"{self.layout.inputs} -> {self.layout.outputs}, {grid}, {self.emulator.name}"

    def _multiply(self, x: Tensor, row_tiles: int) -> Tensor:
        """The product (count, outputs) for inputs (count, inputs), so many row tiles at a time."""
        levels, place = self._levels(x)
        total = torch.zeros((), device=x.device)
        for start in range(0, self.layout.row_tiles, row_tiles):
            total = total + self._partial(levels, place, slice(start, start + row_tiles))
        return self.layout.join_outputs(total)

    def _partial(self, levels: Tensor, place: Tensor, tiles: slice) -> Tensor:
        """What some row tiles add to the product (count, col_tiles, outputs)."""
        arch, levels = self.architecture, levels[:, :, tiles]
        array = map_tensors(self.array, lambda tensor: tensor[tiles])
        currents = self.emulator.read(array, stream_voltages(levels, arch))
        counts = adc_counts(currents, levels, None if self.codes is None else self.codes[tiles], arch)
        # (reads, inputs, row_tiles, arrays, col_tiles, outputs, slices)
        slices = self.layout.slices_of(counts).double()
        shifted = slices @ digit_weights(arch.slice_bits, arch.slices, slices)
        total = torch.tensordot(place, shifted, dims=1)  # (passes, inputs, row_tiles, arrays, col_tiles, outputs)
        held = accumulate(total, arch, self.weight_frac_bits + self.input_frac_bits)
        signed = held[0] - held[1] if held.shape[0] == 2 else held[0]
        signed = signed[:, :, 0] - signed[:, :, 1] if signed.shape[2] == 2 else signed[:, :, 0]
        return signed.sum(1)

    def _levels(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Stream levels (reads, inputs, row_tiles, 1, 1, rows) and each read's place value (passes, reads)."""
        arch = self.architecture
        integers = input_integers(x, arch, self.input_frac_bits)
        if self.non_negative:
            integers = integers.clamp(min=0)
        eager = x.device.type == "cpu" and has_values(x)
        passes = 1 if self.non_negative or (eager and not (integers < 0).any()) else arch.passes
        digits = stream_digits(integers, arch, passes=passes).flatten(0, 1)
        place = torch.block_diag(*[stream_weights(arch, digits)] * passes).reshape(passes, -1)
        if eager and not x.requires_grad:
            # A stream that is zero everywhere carries no current: nothing is read.
            used = digits.flatten(1).any(-1)
            used[0] |= not used.any()  # solvers and products take no empty batch
            if not used.all():
                digits, place = digits[used], place[:, used]
        levels = self.layout.split_inputs(digits.to(self.conductances.dtype))
        return levels[..., None, None, :], place

    def _chunk(self, count: int) -> tuple[int, int]:
        """Inputs and row tiles to take at once, of ``count`` inputs, such that the work fits the budget."""
        arch, item = self.architecture, self.conductances.element_size()
        budget = _WORKSPACE_BYTES.get(self.conductances.device.type, 256 << 20)
        reads = arch.passes * arch.streams
        # Levels are cut from float64 integers, for all row tiles at once.
        drives = reads * self.layout.row_tiles * arch.tile[0] * (16 + item)
        per_tile = reads * 2 * self.layout.col_tiles * (6 * arch.tile[1] + self.emulator.floats_per_read) * item
        inputs = max(1, min(count, budget // drives, budget // per_tile))
        return inputs, max(1, min(self.layout.row_tiles, budget // (per_tile * inputs)))

    def _codes(self, weight: Tensor, dtype: torch.dtype) -> Tensor:
        """The levels (row_tiles, 2, col_tiles, rows, cols) of ``weight``."""
        arch = self.architecture
        parts = []
        # By row tiles, because the integers on the way are float64.
        for block in weight.split(arch.tile[0], dim=1):
            magnitudes = weight_magnitudes(block, arch, self.weight_frac_bits)
            digits = slice_digits(magnitudes, arch.slice_bits, arch.slices).to(dtype)
            parts.append(TileLayout(arch, inputs=block.shape[1], outputs=block.shape[0]).place(digits))
        return torch.cat(parts)

    def _weight_frac_bits(self, weight: Tensor) -> int:
        arch = self.architecture
        if arch.weight_frac_bits is not None:
            return arch.weight_frac_bits
        if not has_values(weight):
            raise InputError("architecture.weight_frac_bits", None, "give a number where weights have no values")
        return largest_frac_bits(float(weight.detach().abs().max()), arch.weight_bits)

    def _input_frac_bits(self, inputs: InputStatistics | float | None) -> int:
        arch = self.architecture
        if arch.input_frac_bits is not None:
            return arch.input_frac_bits
        if isinstance(inputs, InputStatistics):
            return largest_frac_bits(inputs.largest, arch.input_bits)
        if inputs is None:
            raise InputError(
                "architecture.input_frac_bits",
                None,
                "give a number, or calibrate: convert(..., calibration=images) or inputs=",
            )
        check_number("inputs", inputs, low=0.0)
        return largest_frac_bits(inputs, arch.input_bits)

    def get_extra_state(self) -> Tensor:
        """The binary points of weights and inputs, without which the conductances mean nothing."""
        return torch.tensor([self.weight_frac_bits, self.input_frac_bits, self.non_negative])

    def set_extra_state(self, state: Tensor) -> None:
        """Take over the binary points of a saved matrix."""
        self.weight_frac_bits, self.input_frac_bits, non_negative = state.tolist()
        self.non_negative = bool(non_negative)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> CrossbarMatrix:
        moved: dict[int, Tensor] = {}

        def move(tensor: Tensor) -> Tensor:
            """Once for each tensor, so that the array goes on sharing them; never below float32."""
            if id(tensor) not in moved:
                new = fn(tensor)
                moved[id(tensor)] = new if new.dtype in (torch.float32, torch.float64) else tensor.to(new.device)
            return moved[id(tensor)]

        array = map_tensors(self.array, move)
        super()._apply(move, recurse)
        self.array = array
        return self


def _program_again(matrix: CrossbarMatrix, _: object) -> None:
    """Put loaded conductances on the tiles."""
    matrix.program(matrix.conductances)


def _check_weight(weight: Tensor) -> None:
    if not isinstance(weight, Tensor) or weight.dim() != 2 or not weight.is_floating_point():
        raise InputError("weight", getattr(weight, "shape", type(weight)), "a floating (outputs, inputs) matrix")
    if weight.numel() == 0:
        raise InputError("weight", tuple(weight.shape), "it must hold at least one weight")
    if has_values(weight) and not torch.isfinite(weight).all():
        raise InputError("weight", "NaN or infinity", "every weight must be finite")
