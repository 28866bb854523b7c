"""Emulators of a crossbar's transfer function with one protocol: ideal, linear, surrogate, circuit."""

from geniex.emulator.base import Emulator, map_tensors
from geniex.emulator.circuit import CircuitEmulator
from geniex.emulator.ideal import IdealEmulator
from geniex.emulator.linear import LinearEmulator
from geniex.emulator.stored import StoredEmulator
from geniex.emulator.surrogate import SurrogateEmulator
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
]
