"""A surrogate as an emulator."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from geniex.circuit import Crossbar
from geniex.circuit.checks import check_conductances
from geniex.emulator.base import Emulator
from geniex.errors import CheckpointError, ConversionError
from geniex.mapping import Architecture, ConductanceWindow
from geniex.surrogate import Surrogate, load_surrogate
from geniex.surrogate.base import Outside, surrogate_class, surrogate_type


class SurrogateEmulator(Emulator):
    """A surrogate that stands for ``crossbar``; voltages must be >= 0, as the simulator's streams are.

    A universal surrogate ("physics", "physics-fast") is bound to the crossbar here, and by ``bind`` to an
    architecture's window, drive and streams too.

    Args:
        surrogate: a surrogate, whose weights stay as they are; or the name of a shipped surrogate or the path of a
            checkpoint, whose weights are frozen.
        crossbar: the crossbar to emulate.
        outside: the answer to a crossbar, or to an architecture that the emulator is bound to, outside the range that
            the surrogate was validated on: "raise" an error or "warn"; None leaves it to the surrogate.

    Raises:
        CheckpointError: the surrogate does not stand for the crossbar.
        InputError: ``outside`` is given for a surrogate that stands for one circuit alone and has no such choice.
    """

    def __init__(
        self, surrogate: Surrogate | str | Path, crossbar: Crossbar, *, outside: Outside | None = None
    ) -> None:
        given, name = surrogate, ""
        if not isinstance(given, Surrogate):
            given, name = load_surrogate(given), f"surrogate {given}: "
        if outside is not None:
            given = given.with_outside(outside)
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
        """The surrogate's workspace."""
        return self.surrogate.floats_per_read

    @property
    def description(self) -> str:
        """The surrogate's name and the crossbar."""
        return f"{self.surrogate.label}: {self.crossbar.description}"

    def bind(self, architecture: Architecture) -> SurrogateEmulator:
        """The emulator with the surrogate bound to the architecture's window, ``v_max`` and streams.

        A trained network stands for one window and one ``v_max``, so it gives this very emulator or an error. Weights
        are shared.

        Raises:
            ConversionError: the surrogate does not stand for the architecture's tile, window or drive.
        """
        super().bind(architecture)
        binary = architecture.stream_bits == 1
        try:
            bound = self.surrogate.bound(self.crossbar, architecture.window, architecture.v_max, binary)
        except CheckpointError as error:
            raise ConversionError(str(error)) from error
        return self if bound is self.surrogate else self._with(surrogate=bound)

    def moved(self, function: Callable[[Tensor], Tensor]) -> SurrogateEmulator:
        """The emulator with the surrogate's weights moved."""

        def kept(tensor: Tensor) -> Tensor:
            new = function(tensor)
            return new if new.dtype in (torch.float32, torch.float64) else tensor.to(new.device)

        moved = self.surrogate.moved(kept)
        return self if moved is self.surrogate else self._with(surrogate=moved)

    def program(self, conductances: Tensor) -> Any:
        """The surrogate's array for conductances (..., rows, cols) [S]."""
        check_conductances(conductances, self.crossbar.rows, self.crossbar.cols)
        return self.surrogate.program(conductances)

    def read(self, array: Any, voltages: Tensor) -> Tensor:
        """Column currents (..., cols) [A]."""
        return self.surrogate.read(array, voltages)

    def settings(self) -> dict[str, Any]:
        """The crossbar, and the surrogate's type, binding and settings with a digest of its weights."""
        surrogate = self.surrogate
        told = {
            "type": surrogate_type(type(surrogate)),
            "window": surrogate.window.to_dict(),
            "v_max": surrogate.v_max,
            "binary": surrogate.binary,
            "settings": surrogate.settings(),
            "weights_sha256": hashlib.sha256(safetensors.torch.save(self.weights())).hexdigest(),
        }
        return {"crossbar": self.crossbar.to_dict(), "surrogate": told}

    def weights(self) -> dict[str, Tensor]:
        """The surrogate's state."""
        return {name: tensor.detach().cpu().contiguous() for name, tensor in self.surrogate.state_dict().items()}

    @classmethod
    def from_settings(
        cls, settings: Mapping[str, Any], weights: dict[str, Tensor], inner: Emulator | None
    ) -> SurrogateEmulator:
        """The emulator of the surrogate in ``settings`` with ``weights``, frozen.

        Raises:
            CheckpointError: the surrogate's class is neither geniex's own nor registered.
        """
        told, crossbar = settings["surrogate"], Crossbar.from_dict(settings["crossbar"])
        kind, window = surrogate_class(told["type"]), ConductanceWindow.from_dict(told["window"])
        with torch.device("meta"):  # draws no initial weights
            surrogate = kind(crossbar, window, told["v_max"], **told["settings"])
        surrogate.load_state_dict(weights, assign=True)
        return cls(surrogate.eval().requires_grad_(False), crossbar)
