"""Surrogates, which take the place of a crossbar's circuit: physics expansions and trained networks."""

from __future__ import annotations

import importlib
from typing import Any

from geniex.surrogate.base import Surrogate, SurrogateArray, register_surrogate
from geniex.surrogate.checkpoint import list_shipped_surrogates, load_surrogate, save_surrogate
from geniex.surrogate.emulator import SurrogateEmulator
from geniex.surrogate.mlp.network import GeniexMLP, MLPArray
from geniex.surrogate.mlp.scalers import Scalers
from geniex.surrogate.mlp.tiles import TileSplit, split_tiles
from geniex.surrogate.physics.calibrate import calibrate_on_circuit, calibrate_on_sweep
from geniex.surrogate.physics.circuit import Circuit
from geniex.surrogate.physics.surrogate import PhysicsArray, PhysicsSurrogate, physics_member

_LIGHTNING = {"SweepDataModule": "mlp.data", "TrainConfig": "mlp.train", "train_surrogate": "mlp.train"}
"""Names whose modules import lightning; that takes seconds, so they are loaded on first use."""

__all__ = [
    "Circuit",
    "GeniexMLP",
    "MLPArray",
    "PhysicsArray",
    "PhysicsSurrogate",
    "Scalers",
    "Surrogate",
    "SurrogateArray",
    "SurrogateEmulator",
    "SweepDataModule",
    "TileSplit",
    "TrainConfig",
    "calibrate_on_circuit",
    "calibrate_on_sweep",
    "list_shipped_surrogates",
    "load_surrogate",
    "physics_member",
    "register_surrogate",
    "save_surrogate",
    "split_tiles",
    "train_surrogate",
]


def __getattr__(name: str) -> Any:
    if name not in _LIGHTNING:
        raise AttributeError(f"module 'geniex.surrogate' has no attribute {name!r}")
    return getattr(importlib.import_module(f"geniex.surrogate.{_LIGHTNING[name]}"), name)
