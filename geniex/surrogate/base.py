"""The contract of a surrogate: a model that takes the place of a crossbar's circuit."""

from __future__ import annotations

import copy
import importlib
import inspect
import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, Self, TypeVar

import torch
from torch import Tensor, nn

from geniex.cells import Cell
from geniex.circuit import Crossbar
from geniex.errors import CheckpointError, InputError
from geniex.mapping import ConductanceWindow

Outside = Literal["raise", "warn"]
"""Answer to a circuit outside the range that a surrogate was validated on: an error or a warning."""


@dataclass(frozen=True)
class SurrogateArray:
    """Programmed tiles of a surrogate; every tensor has the tiles' leading dimensions."""

    conductances: Tensor
    """Conductances (..., rows, cols), siemens, for the ideal product."""


class Surrogate(nn.Module, ABC):
    """A model of one crossbar's column currents, for V in [0, v_max] and G in the window.

    Laws: ``program`` does all work that depends on the conductances alone. ``read`` broadcasts the leading
    dimensions of voltages and array without expanding either, checks no values and never waits for the
    device. V = 0 gives exactly 0. ``read`` is differentiable in V, ``program`` followed by ``read`` in G.

    The inputs set the dtype and device of the work: move the surrogate to the device first (``.to``), or its weights
    travel with every read. Checkpoints name the class: decorate a class of your own with ``register_surrogate``.
    """

    crossbar: Crossbar
    """Crossbar whose circuit the surrogate stands for."""
    window: ConductanceWindow
    """Range of the conductances."""
    v_max: float
    """Highest voltage, volt."""
    info: dict[str, Any]
    """Origin of the surrogate, JSON-ready: data digest, split, training settings, held-out errors."""
    binary: bool = False
    """Whether the surrogate is made for inputs that are 0 or ``v_max`` only."""

    def __init__(self, crossbar: Crossbar, window: ConductanceWindow, v_max: float) -> None:
        super().__init__()
        self.crossbar, self.window, self.v_max = crossbar, window, v_max
        self.info = {}

    @abstractmethod
    def program(self, conductances: Tensor) -> SurrogateArray:
        """The array of tiles with ``conductances`` (..., rows, cols) [S]."""

    @abstractmethod
    def read(self, array: Any, voltages: Tensor) -> Tensor:
        """Column currents (..., cols) [A] of ``array`` for driver ``voltages`` (..., rows) [V]."""

    @property
    def floats_per_read(self) -> int:
        """Numbers of workspace that ``read`` needs per tile and voltage vector, beyond the currents."""
        return 0

    @property
    def label(self) -> str:
        """The surrogate's name in reports, by default the class' name."""
        return type(self).__name__

    @abstractmethod
    def settings(self) -> dict[str, Any]:
        """The constructor's arguments beyond crossbar, window and v_max, JSON-ready."""

    def forward(self, voltages: Tensor, conductances: Tensor) -> Tensor:
        """Column currents (..., cols) [A] by ``program`` and ``read``, for the arguments of ``Crossbar.solve``."""
        return self.read(self.program(conductances), voltages)

    def bound(
        self,
        crossbar: Crossbar,
        window: ConductanceWindow | None = None,
        v_max: float | None = None,
        binary: bool = False,
    ) -> Surrogate:
        """The surrogate that stands for this circuit, with shared weights; this very one where it already does.

        ``binary`` says that inputs are 0 or ``v_max`` only, which some surrogates read faster.

        Raises:
            CheckpointError: the surrogate does not stand for this circuit.
        """
        self.check(crossbar, window, v_max)
        return self

    def with_outside(self, outside: Outside) -> Surrogate:
        """The surrogate with another answer to circuits outside its range, "raise" or "warn".

        Raises:
            InputError: the surrogate stands for one circuit alone, so that there is nothing to choose.
        """
        allowed = f"{self.label} has no such choice: it stands for the one circuit that it was trained for"
        raise InputError("outside", repr(outside), allowed)

    def moved(self, function: Callable[[Tensor], Tensor]) -> Self:
        """A copy with ``function`` applied to each weight and buffer; this very surrogate where it has none."""
        tensors = [*self.parameters(), *self.buffers()]
        if not tensors:
            return self
        # deepcopy takes the objects in its memo as already copied.
        memo: dict[int, Any] = {}
        with torch.no_grad():
            for tensor in tensors:
                new = function(tensor.detach())
                is_weight = isinstance(tensor, nn.Parameter)
                memo[id(tensor)] = nn.Parameter(new, requires_grad=tensor.requires_grad) if is_weight else new
        return copy.deepcopy(self, memo)

    def check(self, crossbar: Crossbar, window: ConductanceWindow | None = None, v_max: float | None = None) -> None:
        """Raise ``CheckpointError`` unless this surrogate was trained for exactly this circuit and drive."""
        asked, trained = circuit_values(crossbar), circuit_values(self.crossbar)
        if window is not None:
            asked |= {"r_on": window.r_on, "on_off": window.on_off}
            trained |= {"r_on": self.window.r_on, "on_off": self.window.on_off}
        if v_max is not None:
            asked["v_max"], trained["v_max"] = v_max, self.v_max
        wrong = [name for name, value in asked.items() if not _same(value, trained[name])]
        if wrong:
            told = ", ".join(f"{name}={_short(trained[name])} and not {_short(asked[name])}" for name in wrong)
            raise CheckpointError(
                f"this surrogate was trained for {told}: train one for this crossbar (geniex sweep, geniex train)"
            )


_SHIPPED = {"GeniexMLP": "geniex.surrogate.mlp.network", "PhysicsSurrogate": "geniex.surrogate.physics.surrogate"}
"""Modules of geniex's own surrogates, by class name, as checkpoints name them."""
_registered: dict[str, type[Surrogate]] = {}
"""Surrogates that users registered, by class name."""
_S = TypeVar("_S", bound=Surrogate)


def register_surrogate(kind: type[_S]) -> type[_S]:
    """``kind`` itself, a surrogate class of your own that checkpoints may name from now on; use it as a decorator.

    Checkpoints and converted models with such a surrogate load in every process that has imported the class' module.

    Raises:
        InputError: ``kind`` is no complete surrogate class, or its name is that of another one.
    """
    if not (isinstance(kind, type) and issubclass(kind, Surrogate)) or inspect.isabstract(kind):
        got = kind.__name__ if isinstance(kind, type) else f"an object of type {type(kind).__name__}"
        raise InputError("kind", got, "it must be a class that derives from Surrogate and has all its methods")
    name = surrogate_type(kind)
    other = _registered.get(name, kind)
    # A class of the same qualified name in the same module is the same one defined again, as by rerunning a notebook.
    if _where(other) != _where(kind):
        raise InputError("kind", _where(kind), f"{_where(other)} is registered under that name: rename one")
    if name not in _SHIPPED:
        _registered[name] = kind
    return kind


def surrogate_type(kind: type[Surrogate]) -> str:
    """The name of the class ``kind`` in files.

    Raises:
        InputError: the class is not geniex's own but has the name of one that is.
    """
    name = kind.__name__
    if name in _SHIPPED and kind.__module__ != _SHIPPED[name]:
        allowed = f"files would take it for geniex' own {_SHIPPED[name]}.{name}: give your class another name"
        raise InputError("surrogate", _where(kind), allowed)
    return name


def surrogate_class(name: object) -> type[Surrogate]:
    """The class that files call ``name``: geniex's own, regardless of what was imported before, or a registered one.

    Raises:
        CheckpointError: no class has that name.
    """
    if isinstance(name, str) and name in _SHIPPED:
        return getattr(importlib.import_module(_SHIPPED[name]), name)
    if isinstance(name, str) and name in _registered:
        return _registered[name]
    known = ", ".join(sorted({*_SHIPPED, *_registered}))
    raise CheckpointError(
        f"a surrogate of class {name!r}: known are {known}; import the module of one of your own, which puts"
        " geniex.surrogate.register_surrogate before the class"
    )


def _where(kind: type) -> str:
    return f"{kind.__module__}.{kind.__qualname__}"


def _short(value: object) -> object:
    return value.short if isinstance(value, Cell) else value


def circuit_values(crossbar: Crossbar) -> dict[str, Any]:
    """The numbers and the cell that define a crossbar's circuit, by name."""
    wires = crossbar.wires
    return {
        "rows": crossbar.rows,
        "cols": crossbar.cols,
        "r_source": wires.r_source,
        "r_sink": wires.r_sink,
        "r_wire_row": wires.r_row,
        "r_wire_col": wires.r_col,
        "cell": crossbar.cell,
    }


def _same(a: object, b: object) -> bool:
    if isinstance(a, float) and isinstance(b, float):
        return math.isclose(a, b, rel_tol=1e-9)
    return a == b
