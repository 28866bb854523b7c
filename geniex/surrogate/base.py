"""The contract of a surrogate: a trained network in place of one crossbar's circuit."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor, nn

from geniex.circuit import Crossbar
from geniex.errors import CheckpointError
from geniex.mapping import ConductanceWindow


@dataclass(frozen=True)
class SurrogateArray:
    """What a surrogate keeps of programmed tiles; every tensor has the tiles' leading dimensions."""

    conductances: Tensor
    """(..., rows, cols), siemens: what the ideal product reads."""


class Surrogate(nn.Module, ABC):
    """A network that gives one crossbar's column currents, for V in [0, v_max] and G in the window.

    Laws: ``program`` does all work that depends on the conductances alone; ``read`` broadcasts the leading
    dimensions of voltages and array without expanding either, checks no values and never waits for the
    device; V = 0 gives exactly 0; ``read`` is differentiable in V, ``program`` and ``read`` in G. Inputs set
    the dtype and device of the work: move the surrogate to the device first (``.to``), or its weights travel
    with every read.
    """

    _classes: ClassVar[dict[str, type[Surrogate]]] = {}

    crossbar: Crossbar
    """The circuit that it stands for."""
    window: ConductanceWindow
    """Range of the conductances it was trained on."""
    v_max: float
    """Highest voltage it was trained on, volt."""
    info: dict[str, Any]
    """Where it comes from: data digest, split, training settings, held-out errors; JSON-ready."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        Surrogate._classes[cls.__name__] = cls

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

    @abstractmethod
    def settings(self) -> dict[str, Any]:
        """The constructor's arguments beyond crossbar, window and v_max, JSON-ready."""

    def forward(self, voltages: Tensor, conductances: Tensor) -> Tensor:
        """Column currents (..., cols) [A]: ``program`` and ``read`` in one, the arguments as ``Crossbar.solve``'s."""
        return self.read(self.program(conductances), voltages)

    def bound(
        self,
        crossbar: Crossbar,
        window: ConductanceWindow | None = None,
        v_max: float | None = None,
        binary: bool = False,
    ) -> Surrogate:
        """The surrogate that stands for this circuit, sharing all weights: itself, unless it knows more than one.

        ``binary`` says that inputs are 0 or ``v_max`` only, which some read faster.

        Raises:
            CheckpointError: it does not stand for this circuit.
        """
        self.check(crossbar, window, v_max)
        return self

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
            told = ", ".join(f"{name}={trained[name]} and not {asked[name]}" for name in wrong)
            raise CheckpointError(
                f"this surrogate was trained for {told}: train one for this crossbar (geniex sweep, geniex train)"
            )


def circuit_values(crossbar: Crossbar) -> dict[str, Any]:
    """What makes a crossbar's circuit, by name."""
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
