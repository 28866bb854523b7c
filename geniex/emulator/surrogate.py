"""A trained surrogate as an emulator."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from geniex.circuit import Crossbar
from geniex.circuit.validate import check_conductances
from geniex.emulator.base import Emulator
from geniex.errors import CheckpointError, ConversionError
from geniex.mapping import Architecture
from geniex.surrogate import Surrogate, load_surrogate


class SurrogateEmulator(Emulator):
    """A surrogate that stands for ``crossbar``; voltages must be >= 0, as the simulator's streams are.

    A universal one ("physics", "physics-fast") is made for the crossbar; a converted network makes it for its window,
    drive and streams too.

    Args:
        surrogate: the surrogate, with its weights as they are; or a shipped one's name or a checkpoint's path, whose
            weights are then frozen.
        crossbar: the circuit to emulate; ``CheckpointError`` if the surrogate does not stand for it.
    """

    def __init__(self, surrogate: Surrogate | str | Path, crossbar: Crossbar) -> None:
        given, name = surrogate, ""
        if not isinstance(given, Surrogate):
            given, name = load_surrogate(given), f"surrogate {given}: "
        try:
            given = given.bound(crossbar)
        except CheckpointError as error:
            raise CheckpointError(f"{name}{error}") from None
        self.surrogate, self.crossbar = given, crossbar
        self.name = "surrogate"

    @property
    def tile(self) -> tuple[int, int]:
        """The crossbar's (rows, cols)."""
        return (self.crossbar.rows, self.crossbar.cols)

    @property
    def floats_per_read(self) -> int:
        """The surrogate's hidden values."""
        return self.surrogate.floats_per_read

    def program(self, conductances: Tensor) -> Any:
        """The conductance half of the network for (..., rows, cols) [S]."""
        check_conductances(conductances, self.crossbar.rows, self.crossbar.cols)
        return self.surrogate.program(conductances)

    def read(self, array: Any, voltages: Tensor) -> Tensor:
        """Column currents (..., cols) [A]."""
        return self.surrogate.read(array, voltages)

    def move(self, function: Callable[[Tensor], Tensor]) -> None:
        """Move the surrogate's weights, in place."""

        def kept(tensor: Tensor) -> Tensor:
            new = function(tensor)
            return new if new.dtype in (torch.float32, torch.float64) else tensor.to(new.device)

        self.surrogate._apply(kept)

    def check(self, architecture: Architecture) -> None:
        """Raise ``ConversionError`` where tile, window or drive are not what the surrogate stands for."""
        super().check(architecture)
        binary = architecture.stream_bits == 1
        try:
            self.surrogate = self.surrogate.bound(self.crossbar, architecture.window, architecture.v_max, binary)
        except CheckpointError as error:
            raise ConversionError(str(error)) from error
