"""The protocol of emulators: program conductances once, read voltages often."""

from __future__ import annotations

import copy
import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from geniex.emulator.power import PowerMeter, estimate_power
from geniex.errors import ConversionError, InputError
from geniex.mapping import Architecture


class Emulator(nn.Module, ABC):
    """A crossbar's transfer function, from programmed conductances and voltages to currents.

    Laws, for every crossbar that the emulator accepts (it refuses all others when it is built or at ``program``):
    With zero wire resistance and linear cells ``read`` gives V @ G. V = 0 gives exactly 0. ``read`` is differentiable
    in the voltages, and ``program`` followed by ``read`` in the conductances. ``program`` checks values, ``read``
    never does. Using an emulator does not change it: ``bind`` returns another emulator where something has to differ.

    An emulator is a torch module: its tensors are parameters and buffers, and ``.to`` and ``state_dict`` are torch's
    own. A minimal emulator of your own has a ``name``, ``program`` and ``read``; if it has an ``__init__``, that calls
    ``super().__init__()`` first. An emulator that depends on the architecture overrides ``bind``. All other methods
    have defaults that are right, if not the fastest, for every emulator.
    """

    name: str
    """Name of the emulator in tables."""
    cacheable: bool = False
    """Whether class, ``settings`` and tensors decide the programmed arrays, so that files can hold them. It is not
    inherited: a subclass, which may program other arrays, says so itself."""
    set_by_architecture: tuple[str, ...] = ()
    """Names of the ``settings`` that ``bind`` takes from the architecture."""

    @abstractmethod
    def program(self, conductances: Tensor) -> Any:
        """The programmed array, a dataclass of tensors with all work that depends only on the conductances.

        ``conductances`` are (..., rows, cols) [S]. Each tensor of the array has their leading dimensions, so that some
        of the tiles can be read separately.
        """

    @abstractmethod
    def read(self, array: Any, voltages: Tensor) -> Tensor:
        """Column currents (..., cols) [A] for ``voltages`` (..., rows) [V].

        Leading dimensions broadcast with the programmed ones, without expanding a side that has size 1.
        """

    def forward(self, voltages: Tensor, conductances: Tensor) -> Tensor:
        """Column currents (..., cols) [A] by ``program`` and ``read``, for the arguments of ``Crossbar.solve``."""
        return self.read(self.program(conductances), voltages)

    def response(self, array: Any) -> Tensor | None:
        """R (..., rows, cols) [S] if reading ``array`` gives voltages @ R; None if it does not."""
        return None

    def power_meter(self, conductances: Tensor, currents: Callable[[Tensor], Tensor]) -> PowerMeter:
        """The meter of the power that drivers deliver to tiles with ``conductances`` (..., rows, cols) [S].

        ``currents`` reads the tiles: column currents (..., cols) [A] for voltages (..., rows) [V]. By default the
        power is estimated from them, see ``geniex.emulator.power.estimate_power``.
        """
        return estimate_power(conductances, currents, self.floats_per_read)

    @property
    def inner(self) -> Emulator | None:
        """The emulator that this one wraps; None if it wraps none."""
        return None

    @property
    def worker(self) -> Emulator:
        """The emulator that does the work: the innermost wrapped one, or this one if it wraps none."""
        return self if self.inner is None else self.inner.worker

    @property
    def description(self) -> str:
        """One line that names the emulator, its cells and its resistances."""
        return self.name

    @property
    def deterministic(self) -> bool:
        """Whether equal tiles and drives always give equal currents, and no drive gives none.

        Reads whose result is known from these rules are skipped.
        """
        return True

    @property
    def exact(self) -> bool:
        """Whether currents are those of the circuit itself, up to a solver's tolerance."""
        return False

    @property
    def tile(self) -> tuple[int, int] | None:
        """The tile (rows, cols) that the emulator is made for; None takes any."""
        return None

    @property
    def floats_per_read(self) -> int:
        """Workspace per tile and voltage vector beyond the currents, in numbers; reads are chunked by it."""
        return 0

    def bind(self, architecture: Architecture) -> Emulator:
        """The emulator for ``architecture``: this one if it serves as it is, otherwise a new one.

        Neither this emulator nor anything that it was made from is changed. An emulator that is bound to an equal
        architecture already is returned itself, so that matrices which are given a bound emulator share it.

        Raises:
            ConversionError: the emulator cannot serve the architecture.
            InputError: the cell's model does not cover the architecture's voltages or conductances.
        """
        if self.tile is not None and self.tile != architecture.tile:
            raise ConversionError(
                f"architecture.tile: got {architecture.tile}; the {self.name} emulator has tiles of"
                f" {self.tile}: use Architecture(tile={self.tile}) or an emulator of that size"
            )
        return self

    def without_noise(self, array: Any) -> tuple[Emulator, Any]:
        """The emulator and the ``array`` that it programmed without the noise of reads, for figures of their mean."""
        return self, array

    def with_noise_seed(self, seed: int | None = None) -> Emulator:
        """The emulator with noise that starts again, from ``seed`` if one is given, and is shared with no other.

        An emulator without noise returns itself.
        """
        return self

    def settings(self) -> dict[str, Any]:
        """The arguments that it was made from, JSON-ready, without tensors and the wrapped emulator."""
        return {}

    @classmethod
    def from_settings(cls, settings: Mapping[str, Any], weights: dict[str, Tensor], inner: Emulator | None) -> Emulator:
        """The emulator made again from ``settings`` and its state ``weights``, around ``inner`` if it wraps one.

        Raises:
            ConversionError: the class does not say how; an emulator of it has to be given.
        """
        raise ConversionError(f"emulator: a {cls.__name__} cannot be made again from its settings: pass emulator=")

    def extra_repr(self) -> str:
        """The description, for ``print(emulator)``."""
        return self.description


_E = TypeVar("_E", bound=Emulator)


def is_cacheable(emulator: Emulator) -> bool:
    """Whether the emulator's very class says that it is ``cacheable``."""
    return "cacheable" in vars(type(emulator)) and emulator.cacheable


def check_emulator(emulator: object) -> Emulator:
    """``emulator`` itself; raises ``InputError`` unless it is an emulator."""
    if not isinstance(emulator, Emulator):
        got = emulator.__name__ if isinstance(emulator, type) else type(emulator).__name__
        raise InputError("emulator", got, "it must be an Emulator, such as LinearEmulator(crossbar)")
    if "_modules" not in vars(emulator):
        allowed = "its __init__ must call super().__init__() first, as that of every torch module does"
        raise InputError("emulator", type(emulator).__name__, allowed)
    return emulator


def move_copy(emulator: _E, function: Callable[[Tensor], Tensor]) -> _E:
    """A copy of ``emulator`` with ``function`` applied to each of its tensors, such as a move to another device.

    An emulator without tensors is returned itself. A tensor that would get less than float32 keeps its dtype. Noise
    continues where it was.
    """
    if not any(True for tensors in (emulator.parameters(), emulator.buffers()) for _ in tensors):
        return emulator

    def kept(tensor: Tensor) -> Tensor:
        new = function(tensor)
        return new if new.dtype in (torch.float32, torch.float64) else tensor.to(new.device)

    return copy.deepcopy(emulator)._apply(kept)


_moves: WeakKeyDictionary[Callable[[Tensor], Tensor], dict[int, tuple[Emulator, Emulator]]] = WeakKeyDictionary()
"""Emulators before and after a move, by the function that moved them and by the id of the first.

A function's entry ends with the function.
"""


def move_copy_once(emulator: Emulator, function: Callable[[Tensor], Tensor]) -> Emulator:
    """``move_copy``: the same object whenever the same function moves the same emulator.

    ``nn.Module.to`` applies one function to all modules, so layers that share an emulator, with its weights and its
    noise, still share one afterwards.
    """
    try:
        known = _moves.setdefault(function, {})
    except TypeError:  # some callables of C have no weak references
        return move_copy(emulator, function)
    if id(emulator) not in known:
        known[id(emulator)] = (emulator, move_copy(emulator, function))  # keeping the emulator alive keeps its id
    return known[id(emulator)][1]


def map_tensors(array: Any, function: Callable[[Any], Any], leaf: type = Tensor) -> Any:
    """A programmed array with ``function`` applied to each of its tensors, e.g. to move it to a device.

    With another class as ``leaf``, ``function`` is applied to the objects of that class.
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
