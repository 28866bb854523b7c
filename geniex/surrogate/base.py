"""The contract of a surrogate: a model that takes the place of a crossbar's circuit."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Literal, Self, TypeVar

import torch
from torch import Tensor

from geniex.cells import Cell
from geniex.circuit import Crossbar
from geniex.emulator.base import Emulator
from geniex.emulator.identity import check_complete_class, find_class, list_registered_emulators, register_emulator
from geniex.emulator.power import PowerMeter, meter_by_gain
from geniex.errors import CheckpointError, ConversionError, InputError
from geniex.mapping import Architecture, ConductanceWindow
from geniex.sweep.circuits import TileCircuits

Outside = Literal["raise", "warn"]
"""Answer to a circuit outside the range that a surrogate was validated on: an error or a warning."""


@dataclass(frozen=True)
class SurrogateArray:
    """Programmed tiles of a surrogate; every tensor has the tiles' leading dimensions."""

    conductances: Tensor
    """Conductances (..., rows, cols), siemens, for the ideal product."""


class Surrogate(Emulator):
    """An emulator that is a model of one crossbar's column currents, for V in [0, v_max] and G in the window.

    The inputs set the dtype and device of the work: move the surrogate to the device first (``.to``), or its weights
    travel with every read. Checkpoints name the class: decorate a class of your own with ``register_surrogate``.
    """

    name = "surrogate"
    set_by_architecture = ("window", "v_max", "binary")
    crossbar: Crossbar
    """Crossbar whose circuit the surrogate stands for."""
    window: ConductanceWindow
    """Range of the conductances."""
    v_max: float
    """Highest voltage, volt."""
    info: dict[str, Any]
    """Origin of the surrogate, JSON-ready: data digest, split, training settings, held-out errors."""
    universal: bool = False
    """Whether ``bound`` gives the surrogate for any circuit of a range; a trained network stands for one circuit."""
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
    def options(self) -> dict[str, Any]:
        """The constructor's arguments beyond crossbar, window and v_max, JSON-ready."""

    @property
    def label(self) -> str:
        """The surrogate's name in reports, by default the class' name."""
        return type(self).__name__

    @property
    def tile(self) -> tuple[int, int]:
        """The crossbar's (rows, cols)."""
        return (self.crossbar.rows, self.crossbar.cols)

    @property
    def description(self) -> str:
        """The surrogate's name and the crossbar."""
        return f"{self.label}: {self.crossbar.description}"

    def power_meter(self, conductances: Tensor, currents: Callable[[Tensor], Tensor]) -> PowerMeter:
        """The power of the crossbar's linear circuit, raised by the gain of the ``currents``."""
        return meter_by_gain(self.crossbar, conductances, currents, self.floats_per_read)

    def settings(self) -> dict[str, Any]:
        """The circuit, the drive, and the options."""
        circuit = {"crossbar": self.crossbar.to_dict(), "window": self.window.to_dict(), "v_max": self.v_max}
        return circuit | {"binary": self.binary, "options": self.options()}

    @classmethod
    def from_settings(cls, settings: Mapping[str, Any], weights: dict[str, Tensor], inner: Emulator | None) -> Self:
        """The surrogate of ``settings`` with ``weights``, frozen, in evaluation mode."""
        crossbar, window = Crossbar.from_dict(settings["crossbar"]), ConductanceWindow.from_dict(settings["window"])
        with torch.device("meta"):  # draws no initial weights, so that the random state stays as it is
            made = cls(crossbar, window, settings["v_max"], **settings["options"])
        made.load_state_dict(weights, assign=True)
        return made.eval().requires_grad_(False)

    def bind(self, architecture: Architecture) -> Surrogate:
        """The surrogate for the architecture's window, ``v_max`` and streams, with shared weights.

        A trained network stands for one window and one ``v_max``, so it gives this very surrogate or an error.

        Raises:
            ConversionError: the surrogate does not stand for the architecture's tile, window or drive.
        """
        super().bind(architecture)
        binary = architecture.stream_bits == 1
        try:
            return self.bound(self.crossbar, architecture.window, architecture.v_max, binary)
        except CheckpointError as error:
            raise ConversionError(str(error)) from error

    def bound(
        self,
        crossbar: Crossbar,
        window: ConductanceWindow | None = None,
        v_max: float | None = None,
        binary: bool | None = None,
    ) -> Surrogate:
        """The surrogate that stands for this circuit, with shared weights; this very one where it already does.

        Values that are None stay as they are. ``binary`` says that inputs are 0 or ``v_max`` only, which some
        surrogates read faster.

        Raises:
            CheckpointError: the surrogate does not stand for this circuit.
        """
        self.check(crossbar, window, v_max)
        return self

    def read_circuits(self, circuits: TileCircuits, conductances: Tensor, voltages: Tensor) -> Tensor:
        """Currents (tiles, vectors, cols) [A] of tiles that each have a circuit, a window and a drive of their own.

        ``conductances`` are (tiles, rows, cols) [S], ``voltages`` (tiles, vectors, rows) [V].

        Raises:
            CheckpointError: the surrogate does not stand for one of the circuits.
        """
        currents = []
        for k, (tile, inputs) in enumerate(zip(conductances, voltages, strict=True)):
            window = ConductanceWindow(circuits.r_on[k].item(), circuits.on_off[k].item())
            bound = self.bound(circuits.crossbar(k), window, circuits.v_max[k].item())
            currents.append(bound.read(bound.program(tile), inputs))
        return torch.stack(currents)

    def with_outside(self, outside: Outside) -> Surrogate:
        """The surrogate with another answer to circuits outside its range, "raise" or "warn".

        Raises:
            InputError: the surrogate is for one circuit only, so that there is nothing to choose.
        """
        allowed = (
            f"{self.label} has no such choice, because it knows only the circuit that it was trained on: omit outside"
        )
        raise InputError("outside", repr(outside), allowed)

    def check(self, crossbar: Crossbar, window: ConductanceWindow | None = None, v_max: float | None = None) -> None:
        """Raise ``CheckpointError`` unless this surrogate was trained for exactly this circuit and drive."""
        asked, trained = read_circuit_values(crossbar), read_circuit_values(self.crossbar)
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


_S = TypeVar("_S", bound=Surrogate)


def register_surrogate(kind: type[_S]) -> type[_S]:
    """``kind`` itself, a surrogate class of your own that checkpoints may name from now on; use it as a decorator.

    Checkpoints and converted models with such a surrogate load in every process that has imported the class' module.

    Raises:
        InputError: ``kind`` is no complete surrogate class, or its name is that of another one.
    """
    check_complete_class(kind, Surrogate)
    return register_emulator(kind)


def find_surrogate_class(name: object) -> type[Surrogate]:
    """The surrogate class that checkpoints call ``name``.

    Raises:
        CheckpointError: no surrogate class has that name.
    """
    with suppress(ConversionError):
        kind = find_class(name)
        if issubclass(kind, Surrogate):
            return kind
    own = (kind.__name__ for kind in list_registered_emulators() if issubclass(kind, Surrogate))
    known = ", ".join(sorted(["GeniexMLP", "PhysicsSurrogate", *own]))
    raise CheckpointError(
        f"a surrogate of class {str(name).rpartition('.')[2]!r}: known classes are {known}; import the module of"
        " your own class, in which geniex.surrogate.register_surrogate must decorate it"
    )


def _short(value: object) -> object:
    return value.short if isinstance(value, Cell) else value


def read_circuit_values(crossbar: Crossbar) -> dict[str, Any]:
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
