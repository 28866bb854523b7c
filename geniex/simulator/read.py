"""Reads of programmed tiles, from integer inputs to products, in chunks that fit a workspace."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from geniex.circuit import shared_matmul
from geniex.circuit.checks import has_values
from geniex.emulator import Emulator, map_tensors
from geniex.mapping import TileLayout
from geniex.simulator.collapse import Programmed, multiply_collapsed
from geniex.simulator.periphery.accumulator import BinaryPoints, accumulate, shift_add, sum_signed
from geniex.simulator.periphery.adc import digitise, to_counts, to_voltages
from geniex.simulator.periphery.dac import split_into_reads
from geniex.workspace import workspace_bytes

_WORKSPACE_BYTES = {"cpu": 32 << 20, "cuda": 2 << 30}
"""Bytes of currents and emulator workspace at a time; inputs are read in chunks of at most this size."""
_MOST_GAPS = 16
"""The most gaps between runs of row tiles; with more, reading the tiles in the gaps too is faster."""


class Reads(NamedTuple):
    """The driver voltages of a matrix's tiles, which broadcast against the tiles, and their column currents."""

    voltages: Tensor
    """(reads, inputs, row_tiles, 1, 1, rows) [V]."""
    ideal: Tensor
    """Ideal currents (reads, inputs, row_tiles, arrays, col_tiles, cols) [A], with bit lines as they are arranged."""
    actual: Tensor
    """The emulator's currents, in the same shape [A]."""


@dataclass(frozen=True)
class Reader:
    """A reader of one matrix's tiles."""

    emulator: Emulator
    layout: TileLayout
    points: BinaryPoints
    """The sums' binary points."""
    step: Tensor | None
    """Counts per ADC code, broadcasting with (row_tiles, converters, col_tiles, cols); None is 1."""
    codes: Tensor | None
    """The ideal levels (row_tiles, arrays, col_tiles, rows, cols), which only "ideal_before" needs."""
    non_negative: bool
    """Whether inputs are unsigned."""
    checkpoint: bool = False
    """Whether a backward pass reads again, so that a read keeps no intermediate values."""

    def product(self, integers: Tensor, tiles: Programmed) -> Tensor:
        """Products (inputs, outputs), float64, of ``integers`` (inputs, features)."""
        inputs, row_tiles = self.chunk(len(integers), tiles)
        if tiles.weights is not None:
            parts = [multiply_collapsed(part, tiles, self.layout, self.points) for part in integers.split(inputs)]
        else:
            again = self.checkpoint and torch.is_grad_enabled()
            read = partial(checkpoint, self._read, use_reentrant=False) if again else self._read
            parts = [read(part, tiles, row_tiles) for part in integers.split(inputs)]
        return self.layout.join_outputs(torch.cat(parts))

    def levels(self, integers: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Stream levels (reads, inputs, row_tiles, 1, 1, rows) and each read's place value (passes, reads)."""
        levels, place = split_into_reads(
            integers,
            self.layout.architecture,
            non_negative=self.non_negative,
            all_streams=not self.emulator.deterministic,
        )
        return self.layout.split_inputs(levels.to(dtype))[..., None, None, :], place

    def analog(self, levels: Tensor, tiles: Programmed, at: slice) -> Tensor:
        """Counts before the ADC (reads, inputs, row_tiles, converters, col_tiles, cols) of some row tiles."""
        arch, levels = self.layout.architecture, levels[:, :, at]
        if tiles.counts is not None:
            return shared_matmul(levels, tiles.counts[at])
        array = map_tensors(tiles.array, lambda tensor: tensor[at])
        currents = self.layout.off_lines(self.emulator.read(array, to_voltages(levels, arch)))
        return to_counts(currents, levels, None if self.codes is None else self.codes[at], arch)

    def row_tiles(self, count: int, live: Sequence[bool] | None = None) -> list[slice]:
        """Runs of at most ``count`` row tiles that cover all row tiles, or all ``live`` ones and perhaps the gaps."""
        runs: list[slice] = []
        live = (True,) * self.layout.stack[0] if live is None else live
        for k, alive in enumerate(live):
            if not alive:
                continue
            if runs and runs[-1].stop == k and k - runs[-1].start < count:
                runs[-1] = slice(runs[-1].start, k + 1)
            else:
                runs.append(slice(k, k + 1))
        if len(runs) > len(live) // count + 1 + _MOST_GAPS:
            return self.row_tiles(count, [runs[0].start <= k < runs[-1].stop for k in range(len(live))])
        return runs

    def chunk(self, count: int, tiles: Programmed) -> tuple[int, int]:
        """The numbers of inputs (of ``count``) and of row tiles to read at once so that the work fits the budget."""
        arch, layout = self.layout.architecture, self.layout
        device, item = tiles.example.device.type, tiles.example.element_size()
        budget = workspace_bytes(_WORKSPACE_BYTES.get(device, 256 << 20))
        reads = 1 if tiles.weights is not None else arch.passes * arch.streams
        # Levels are cut from float64 integers, for all row tiles at once.
        drives = reads * layout.stack[0] * arch.tile[0] * (16 + item)
        columns = (6 if self.step is None else 12) * arch.tile[1]  # of currents and counts, some in float64
        per_tile = reads * arch.arrays * layout.stack[1] * (columns + self.emulator.floats_per_read) * item
        inputs = max(1, min(count, budget // drives, budget // per_tile))
        return inputs, max(1, min(layout.stack[0], budget // (per_tile * inputs)))

    def _read(self, integers: Tensor, tiles: Programmed, row_tiles: int) -> Tensor:
        """Products (inputs, col_tiles, outputs), with ``row_tiles`` row tiles read at a time."""
        levels, place = self.levels(integers, tiles.example.dtype)
        live = self._driven(levels, tiles.live)
        total = levels.new_zeros((len(integers), self.layout.col_tiles, self.layout.architecture.outputs_per_tile))
        return sum((self._partial(levels, place, tiles, at) for at in self.row_tiles(row_tiles, live)), total.double())

    def _driven(self, levels: Tensor, live: Sequence[bool]) -> Sequence[bool]:
        """Whether each row tile is live and has a driven word line; only values on the CPU are looked at."""
        if levels.requires_grad and not any(live):
            return [True, *live[1:]]  # the result must depend on the levels' graph
        if levels.device.type != "cpu" or not has_values(levels) or levels.requires_grad:
            return live
        if not self.emulator.deterministic:
            return live
        driven = levels.flatten(0, 1).any(0).flatten(1).any(1).tolist()
        return [alive and some for alive, some in zip(live, driven, strict=True)]

    def _partial(self, levels: Tensor, place: Tensor, tiles: Programmed, at: slice) -> Tensor:
        """The partial product (inputs, col_tiles, outputs) of some row tiles."""
        arch = self.layout.architecture
        step = self.step if self.step is None or len(self.step) == 1 else self.step[at]
        counts = digitise(self.analog(levels, tiles, at), step, arch)
        return sum_signed(accumulate(shift_add(counts, place, self.layout), arch, self.points), self.layout, at)
