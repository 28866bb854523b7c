"""Tasks that worker processes of another interpreter can import."""

from __future__ import annotations

import os
import signal
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from geniex.config import Config, register_config
from geniex.emulator import IdealEmulator
from geniex.emulator.identity import find_class
from geniex.errors import InputError
from geniex.mapping import Architecture, Packing, TileLayout
from geniex.mapping.layout.grouped import check_layout
from geniex.mitigation import REMAPPINGS, Remapping
from geniex.simulator import CrossbarLinear
from geniex.simulator.layers.crossbar import find_crossbar_kind
from geniex.study.grid.fields import GROUPS
from geniex.variation import Drift


@register_config
@dataclass(frozen=True)
class WorkerGuard(Config):
    """A configuration class of a user."""

    rings: int = 1


@dataclass(frozen=True)
class Seen:
    """What a worker saw of itself, of its task and of an item."""

    process: int
    threads: int
    loads: int
    rings: int
    item: torch.Tensor


@dataclass(frozen=True)
class Look:
    """A task that looks around; ``guard`` is the dictionary of a ``WorkerGuard``."""

    guard: dict[str, Any]

    def __setstate__(self, state: dict[str, Any]) -> None:
        global loads
        loads += 1
        vars(self).update(state)

    def __call__(self, item: torch.Tensor) -> Seen:
        kind = Config.from_dict(self.guard)
        return Seen(os.getpid(), torch.get_num_threads(), loads, vars(kind)["rings"], item.cumsum(0))


loads = 0
"""Number of times that this process has unpickled a ``Look``."""


class OwnLayer(nn.Linear):
    """A layer of a user, which computes otherwise than ``nn.Linear``."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return 2 * super().forward(input)


class CrossbarOwnLayer(CrossbarLinear):
    """The form of ``OwnLayer`` on crossbars."""


class OwnEmulator(IdealEmulator):
    """An emulator of a user."""


@dataclass(frozen=True)
class OwnVariation(Drift):
    """A step of variation of a user."""


def on_one_tile(matrix: torch.Tensor, architecture: Architecture, packing: Packing) -> TileLayout:
    return TileLayout(architecture, matrix.shape[1], matrix.shape[0])


def own_measure(*_: object) -> dict[str, torch.Tensor]:
    """A measure of a user, for remapping."""
    return {}


def look_up(name: str) -> tuple[str, str, bool, bool, bool]:
    """What this process finds of a user's layer, emulator, layout, variation and remapping."""
    kind = find_crossbar_kind(OwnLayer(2, 2))
    with suppress(InputError):
        check_layout("on_one_tile")
        remaps = REMAPPINGS.get("own") == Remapping(method="srs", measure="own_measure")
        return str(kind), find_class(name).__name__, True, "own_variation" in GROUPS["variation"], remaps
    return str(kind), "", False, False, False


def square(x: int) -> int:
    return x * x


def refuse(x: int) -> int:
    if x == 2:
        raise InputError("x", x, "anything but 2")
    return x


@dataclass(frozen=True)
class Deadly:
    """Item 2 kills every worker; item 3 kills one worker only, as a passing shortage of memory would."""

    flag: Path

    def __call__(self, x: int) -> int:
        if x == 2 or (x == 3 and not self.flag.exists()):
            self.flag.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return x * x


def always_die(x: int) -> None:
    os.kill(os.getpid(), signal.SIGKILL)
