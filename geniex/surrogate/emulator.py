"""A surrogate for one crossbar, by name or as an object."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from geniex.circuit import Crossbar
from geniex.emulator import Emulator, EmulatorWrapper
from geniex.emulator.base import is_cacheable
from geniex.errors import CheckpointError
from geniex.surrogate.base import Outside, Surrogate
from geniex.surrogate.checkpoint import load_surrogate


class SurrogateEmulator(EmulatorWrapper):
    """The surrogate that stands for ``crossbar``; voltages must be >= 0, as the simulator's streams are.

    A universal surrogate ("physics", "physics-fast") is bound to the crossbar here, and by ``bind`` to an
    architecture's window, drive and streams too. ``.surrogate`` is the bound surrogate.

    Args:
        surrogate: a surrogate, whose weights stay as they are; or the name of a shipped surrogate or the path of a
            checkpoint, whose weights are frozen.
        crossbar: the crossbar to emulate.
        outside: the answer to a crossbar, or to an architecture that the emulator is bound to, outside the range that
            the surrogate was validated on: "raise" an error or "warn"; None leaves it to the surrogate.

    Raises:
        CheckpointError: the surrogate does not stand for the crossbar.
        InputError: ``outside`` is given for a surrogate that is for one circuit only and has no such choice.
    """

    def __init__(
        self, surrogate: Surrogate | str | Path, crossbar: Crossbar, *, outside: Outside | None = None
    ) -> None:
        found = load_surrogate(surrogate)
        if outside is not None:
            found = found.with_outside(outside)
        try:
            found = found.bound(crossbar)
        except CheckpointError as error:
            named = f"surrogate {surrogate}: " if isinstance(surrogate, str | Path) else ""
            raise CheckpointError(f"{named}{error}") from None
        super().__init__(found)
        self.crossbar = crossbar

    def around(self, emulator: Emulator) -> SurrogateEmulator:
        """The emulator of the same crossbar by another surrogate."""
        assert isinstance(emulator, Surrogate)
        return self.class_around(SurrogateEmulator)(emulator, self.crossbar)

    @property
    def surrogate(self) -> Surrogate:
        """The surrogate, bound to the crossbar."""
        surrogate = self.emulator
        assert isinstance(surrogate, Surrogate)
        return surrogate

    @property
    def description(self) -> str:
        """The surrogate's name and the crossbar."""
        return self.emulator.description

    @property
    def cacheable(self) -> bool:  # type: ignore[override]
        """Whether the surrogate is."""
        return is_cacheable(self.emulator)

    def response(self, array: Any) -> Tensor | None:
        """The surrogate's response."""
        return self.emulator.response(array)

    def program(self, conductances: Tensor) -> Any:
        """The surrogate's array for conductances (..., rows, cols) [S]."""
        return self.emulator.program(conductances)

    def read(self, array: Any, voltages: Tensor) -> Tensor:
        """Column currents (..., cols) [A]."""
        return self.emulator.read(array, voltages)

    @classmethod
    def from_settings(
        cls, settings: Mapping[str, Any], weights: dict[str, Tensor], inner: Emulator | None
    ) -> SurrogateEmulator:
        """The emulator of the surrogate ``inner``."""
        assert isinstance(inner, Surrogate)
        return cls(inner, inner.crossbar)
