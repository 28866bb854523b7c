"""The protocol of emulators: program conductances once, read voltages often."""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

from torch import Tensor

from geniex.errors import ConversionError
from geniex.mapping import Architecture


class Emulator(ABC):
    """A crossbar's transfer function, from programmed conductances and voltages to currents.

    Laws, for every crossbar that the emulator accepts (others it refuses when it is built or at ``program``):
    with zero wires and linear cells ``read`` gives V @ G; V = 0 gives exactly 0; ``read`` is differentiable in
    the voltages, and ``program`` followed by ``read`` in the conductances. Values are checked by ``program``,
    never by ``read``.
    """

    name: str
    """What tables call it."""

    @abstractmethod
    def program(self, conductances: Tensor) -> Any:
        """All work that depends on ``conductances`` (..., rows, cols) [S] alone, as a dataclass of tensors.

        Each of its tensors has the tiles' leading dimensions, so that a part of the tiles can be read alone.
        """

    @abstractmethod
    def read(self, array: Any, voltages: Tensor) -> Tensor:
        """Column currents (..., cols) [A] for ``voltages`` (..., rows) [V].

        Leading dimensions broadcast with the programmed ones; nothing is expanded where one side has size 1.
        """

    def response(self, array: Any) -> Tensor | None:
        """R (..., rows, cols) [S] where reading ``array`` is voltages @ R; None where it is not."""
        return None

    @property
    def worker(self) -> Emulator:
        """The emulator that does the work: itself, unless it stands before another."""
        return self

    @property
    def deterministic(self) -> bool:
        """Whether equal tiles and drives give equal currents, and no drive none: what is known so is not read."""
        return True

    @property
    def tile(self) -> tuple[int, int] | None:
        """The (rows, cols) it is made for; None takes any."""
        return None

    @property
    def floats_per_read(self) -> int:
        """Numbers of workspace per tile and voltage vector, beyond the currents, for chunking."""
        return 0

    def move(self, function: Callable[[Tensor], Tensor]) -> None:  # noqa: B027
        """Put ``function`` of each of its own tensors in the tensor's place, as ``nn.Module.to`` does; most have none.

        A tensor that would fall below float32 keeps its dtype.
        """

    def check(self, architecture: Architecture) -> None:
        """Raise ``ConversionError`` where this emulator cannot serve ``architecture``."""
        if self.tile is not None and self.tile != architecture.tile:
            raise ConversionError(
                f"architecture.tile: got {architecture.tile}; the {self.name} emulator is made for tiles of"
                f" {self.tile}: use Architecture(tile={self.tile}) or an emulator of that size"
            )


def map_tensors(array: Any, function: Callable[[Any], Any], leaf: type = Tensor) -> Any:
    """A programmed array with ``function`` applied to each of its tensors, e.g. to move it to a device.

    Or to each object of another class ``leaf`` instead.
    """
    if isinstance(array, leaf):
        return function(array)
    if isinstance(array, tuple):
        parts = [map_tensors(part, function, leaf) for part in array]
        return type(array)(*parts) if hasattr(array, "_fields") else tuple(parts)
    if dataclasses.is_dataclass(array) and not isinstance(array, type):
        changes = {f.name: map_tensors(getattr(array, f.name), function, leaf) for f in dataclasses.fields(array)}
        return dataclasses.replace(array, **changes)
    return array
