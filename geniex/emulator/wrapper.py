"""The base of emulators that wrap another one and change what it returns."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from typing import Self, TypeVar

from torch import Tensor

from geniex.emulator.base import Emulator, check_emulator
from geniex.emulator.power import PowerMeter
from geniex.errors import ConversionError
from geniex.mapping import Architecture

_W = TypeVar("_W", bound="EmulatorWrapper")


class EmulatorWrapper(Emulator):
    """An emulator around ``.emulator``, with that one's tile, workspace, power and determinism.

    A subclass overrides ``around``, ``program`` and ``read``, and whatever else it changes. Binding the wrapper, or
    starting its noise again, does so with the wrapped emulator.

    Args:
        emulator: the emulator to wrap.
    """

    def __init__(self, emulator: Emulator) -> None:
        super().__init__()
        self.emulator = check_emulator(emulator)
        self.name = emulator.name

    @abstractmethod
    def around(self, emulator: Emulator) -> Self:
        """A wrapper with the settings of this one around another ``emulator``."""

    def rewrap(self, emulator: Emulator) -> Self:
        """``around``, checked: what a subclass adds must not be lost.

        Raises:
            ConversionError: ``around`` made a wrapper of another class, because a subclass did not override it.
        """
        made = self.around(emulator)
        if type(made) is not type(self):
            own, other = type(self).__name__, type(made).__name__
            raise ConversionError(
                f"emulator: {own}.around returned a {other}, without what {own} adds: override around, so that it"
                f" returns a {own} with the same settings around the other emulator"
            )
        return made

    def class_around(self, kind: type[_W]) -> type[_W]:
        """The class by which ``kind.around`` makes a wrapper: this one's own if it is made from the same arguments."""
        own = type(self)
        return own if issubclass(own, kind) and own.__init__ is kind.__init__ else kind

    @property
    def inner(self) -> Emulator:
        """The wrapped emulator."""
        return self.emulator

    @property
    def deterministic(self) -> bool:
        """Whether the wrapped emulator is deterministic."""
        return self.emulator.deterministic

    @property
    def exact(self) -> bool:
        """Whether the wrapped emulator is exact."""
        return self.emulator.exact

    @property
    def tile(self) -> tuple[int, int] | None:
        """The wrapped emulator's tile."""
        return self.emulator.tile

    @property
    def floats_per_read(self) -> int:
        """The wrapped emulator's workspace."""
        return self.emulator.floats_per_read

    def power_meter(self, conductances: Tensor, currents: Callable[[Tensor], Tensor]) -> PowerMeter:
        """The wrapped emulator's meter, with ``currents`` as this emulator reads them."""
        return self.emulator.power_meter(conductances, currents)

    def bind(self, architecture: Architecture) -> Self:
        """This wrapper around the bound emulator; raises the errors of the wrapped emulator's ``bind``."""
        return self._around(self.emulator.bind(architecture))

    def with_noise_seed(self, seed: int | None = None) -> Self:
        """This wrapper around the wrapped emulator with noise that starts again."""
        return self._around(self.emulator.with_noise_seed(seed))

    def extra_repr(self) -> str:
        """Nothing beside the wrapped emulator, which is printed anyway."""
        return ""

    def _around(self, emulator: Emulator) -> Self:
        return self if emulator is self.emulator else self.rewrap(emulator)
