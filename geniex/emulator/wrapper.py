"""The base of emulators that stand around another one and add to what it does."""

from __future__ import annotations

from collections.abc import Callable
from typing import Self

from torch import Tensor

from geniex.emulator.base import Emulator, moved_once
from geniex.errors import InputError
from geniex.mapping import Architecture


class EmulatorWrapper(Emulator):
    """An emulator around ``.emulator``, with that one's tile, workspace and determinism.

    A subclass overrides ``program`` and ``read``, and whatever else it changes. Binding, moving and restarting it do
    so with the wrapped emulator.

    Args:
        emulator: the emulator to wrap.
    """

    def __init__(self, emulator: Emulator) -> None:
        if not isinstance(emulator, Emulator):
            raise InputError("emulator", type(emulator).__name__, "it must be an Emulator")
        self.emulator, self.name = emulator, emulator.name

    @property
    def inner(self) -> Emulator:
        """The wrapped emulator."""
        return self.emulator

    @property
    def deterministic(self) -> bool:
        """Whether the wrapped emulator is deterministic."""
        return self.emulator.deterministic

    @property
    def tile(self) -> tuple[int, int] | None:
        """The wrapped emulator's tile."""
        return self.emulator.tile

    @property
    def floats_per_read(self) -> int:
        """The wrapped emulator's workspace."""
        return self.emulator.floats_per_read

    def bind(self, architecture: Architecture) -> Self:
        """This wrapper around the bound emulator; raises the errors of the wrapped emulator's ``bind``."""
        return self._around(self.emulator.bind(architecture))

    def moved(self, function: Callable[[Tensor], Tensor]) -> Self:
        """This wrapper around the moved emulator."""
        return self._around(moved_once(self.emulator, function))

    def restarted(self) -> Self:
        """This wrapper around the restarted emulator."""
        return self._around(self.emulator.restarted())

    def _around(self, emulator: Emulator) -> Self:
        return self if emulator is self.emulator else self._with(emulator=emulator)
