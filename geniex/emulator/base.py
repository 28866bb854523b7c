"""The protocol of emulators: program conductances once, read voltages often."""

from __future__ import annotations

import copy
import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any, Self
from weakref import WeakKeyDictionary

from torch import Tensor

from geniex.errors import ConversionError
from geniex.mapping import Architecture


class Emulator(ABC):
    """A crossbar's transfer function, from programmed conductances and voltages to currents.

    Laws, for every crossbar that the emulator accepts (others it refuses when it is built or at ``program``):
    with zero wires and linear cells ``read`` gives V @ G; V = 0 gives exactly 0; ``read`` is differentiable in
    the voltages, and ``program`` followed by ``read`` in the conductances. Values are checked by ``program``,
    never by ``read``. Whoever uses an emulator leaves it as it is: ``bind``, ``moved`` and ``restarted`` return
    another emulator where something has to differ, and never change this one.

    A minimal emulator of your own has a ``name``, ``program`` and ``read``. One that depends on the architecture
    overrides ``bind``, one that holds tensors overrides ``moved``.
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
    def inner(self) -> Emulator | None:
        """The emulator that this one wraps; None where it wraps none."""
        return None

    @property
    def worker(self) -> Emulator:
        """The emulator that does the work: the innermost of the wrapped ones, or itself."""
        return self if self.inner is None else self.inner.worker

    @property
    def description(self) -> str:
        """One line that names the emulator, its cells and its resistances."""
        return self.name

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

    def bind(self, architecture: Architecture) -> Emulator:
        """The emulator for ``architecture``: this one where it serves as it is, otherwise a new one.

        Neither this emulator nor anything that it was made from is changed. Binding what is bound to an equal
        architecture returns the very same object, so that matrices which are given a bound emulator share it.

        Raises:
            ConversionError: the emulator cannot serve the architecture.
            InputError: the cell's model ends below the architecture's voltages or conductances.
        """
        if self.tile is not None and self.tile != architecture.tile:
            raise ConversionError(
                f"architecture.tile: got {architecture.tile}; the {self.name} emulator is made for tiles of"
                f" {self.tile}: use Architecture(tile={self.tile}) or an emulator of that size"
            )
        return self

    def moved(self, function: Callable[[Tensor], Tensor]) -> Emulator:
        """The emulator with ``function`` of each of its own tensors, such as a move to another device.

        It is this very emulator where there are no tensors. A tensor that would fall below float32 keeps its dtype.
        Noise goes on where it was.
        """
        return self

    def restarted(self) -> Emulator:
        """The emulator with its noise at the beginning and in nobody else's use; this one where it has no noise."""
        return self

    def settings(self) -> dict[str, Any]:
        """What it was made from beside weights and the wrapped emulator, JSON-ready."""
        return {}

    def weights(self) -> dict[str, Tensor]:
        """Its own tensors by name, on the CPU."""
        return {}

    @classmethod
    def from_settings(cls, settings: Mapping[str, Any], weights: dict[str, Tensor], inner: Emulator | None) -> Emulator:
        """The emulator that ``settings`` and ``weights`` told of, around ``inner`` where it wraps one."""
        raise NotImplementedError(f"{cls.__name__} does not say how it is made again")

    def _with(self, **changes: Any) -> Self:
        """A copy of this emulator with other attributes; what is not named is shared."""
        changed = copy.copy(self)
        vars(changed).update(changes)
        return changed


_moves: WeakKeyDictionary[Callable[[Tensor], Tensor], dict[int, tuple[Emulator, Emulator]]] = WeakKeyDictionary()
"""What each function that is still in use has moved, by the id of what it moved."""


def moved_once(emulator: Emulator, function: Callable[[Tensor], Tensor]) -> Emulator:
    """``emulator.moved(function)``, the same object whenever the same function moves the same emulator.

    ``nn.Module.to`` hands one function from module to module. Layers that share an emulator, with its weights and its
    noise, so go on sharing one.
    """
    try:
        known = _moves.setdefault(function, {})
    except TypeError:  # some callables of C have no weak references
        return emulator.moved(function)
    if id(emulator) not in known:
        known[id(emulator)] = (emulator, emulator.moved(function))  # what is kept alive keeps its id
    return known[id(emulator)][1]


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
