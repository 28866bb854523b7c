"""Emulators of a crossbar's transfer function with one protocol: ideal, linear, surrogate, circuit."""

import importlib
from typing import Any

from geniex.emulator.base import Emulator, map_tensors
from geniex.emulator.cached import StoredEmulator
from geniex.emulator.circuit import CircuitEmulator
from geniex.emulator.ideal import IdealEmulator
from geniex.emulator.identity import register_emulator
from geniex.emulator.linear import LinearEmulator
from geniex.emulator.wrapper import EmulatorWrapper

__all__ = [
    "CircuitEmulator",
    "Emulator",
    "EmulatorWrapper",
    "IdealEmulator",
    "LinearEmulator",
    "StoredEmulator",
    "SurrogateEmulator",
    "map_tensors",
    "register_emulator",
]


def __getattr__(name: str) -> Any:
    if name != "SurrogateEmulator":  # the room of surrogates imports this one, so it is loaded on first use
        raise AttributeError(f"module 'geniex.emulator' has no attribute {name!r}")
    return importlib.import_module("geniex.surrogate").SurrogateEmulator
