"""A trained surrogate as an emulator."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

from torch import Tensor

from geniex.circuit import Crossbar
from geniex.circuit.validate import check_conductances
from geniex.emulator.base import Emulator
from geniex.errors import CheckpointError, ConversionError
from geniex.mapping import Architecture
from geniex.surrogate import Surrogate, load_surrogate


class SurrogateEmulator(Emulator):
    """A surrogate that was trained for ``crossbar``; voltages must be >= 0, as the simulator's streams are.

    Args:
        surrogate: the surrogate, a shipped one's name, or a checkpoint's path.
        crossbar: the circuit to emulate; ``CheckpointError`` if the surrogate was trained for another.
    """

    def __init__(self, surrogate: Surrogate | str | Path, crossbar: Crossbar) -> None:
        loaded = surrogate if isinstance(surrogate, Surrogate) else load_surrogate(surrogate)
        loaded.check(crossbar)
        # A copy, so that freezing its weights does not stop someone's training.
        self.surrogate, self.crossbar = copy.deepcopy(loaded).eval().requires_grad_(False), crossbar
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

    def check(self, architecture: Architecture) -> None:
        """Raise ``ConversionError`` where tile, window or drive are not what the surrogate was trained on."""
        super().check(architecture)
        try:
            self.surrogate.check(self.crossbar, window=architecture.window, v_max=architecture.v_max)
        except CheckpointError as error:
            raise ConversionError(str(error)) from error
