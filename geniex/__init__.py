"""geniex: exact, differentiable, GPU-accelerated emulation of memristive crossbars, from circuit to accuracy.

Names are loaded on first use, so that ``import geniex`` and ``geniex --help`` cost no torch import.
"""

from __future__ import annotations

import importlib
from typing import Any

from geniex.distribution import NAME, check_import

__version__ = "0.1.0"
__distribution__ = NAME

_HOME = {
    "Architecture": "mapping",
    "Cell": "cells",
    "CircuitEmulator": "emulator",
    "ConductanceWindow": "mapping",
    "Crossbar": "circuit",
    "CrossbarMatrix": "simulator",
    "IdealEmulator": "emulator",
    "LayerRule": "simulator",
    "Level1Mosfet": "cells",
    "LinearCell": "cells",
    "LinearEmulator": "emulator",
    "OneTransistorOneResistor": "cells",
    "OperatingPoint": "circuit",
    "Preset": "preset",
    "SinhCell": "cells",
    "StoredEmulator": "emulator",
    "SurrogateEmulator": "surrogate",
    "TabulatedCell": "cells",
    "Variations": "variation",
    "convert": "simulator",
    "costs": "simulator",
    "to_digital": "simulator",
    "dry_run": "simulator",
    "fine_tune": "mitigation",
    "fold_batch_norm": "simulator",
    "load_converted": "simulator",
    "load_images": "networks",
    "load_network": "networks",
    "load_surrogate": "surrogate",
    "monte_carlo": "study.monte_carlo",
    "nf_rmse": "circuit",
    "non_ideality_factor": "circuit",
    "predict_accuracy": "study.accuracy",
    "presets": "preset",
    "save_converted": "simulator",
    "variation_presets": "variation",
    "vary": "simulator",
}

__all__ = ["__version__", *_HOME]

check_import()


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'geniex' has no attribute {name!r}")
    return getattr(importlib.import_module(f"geniex.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
