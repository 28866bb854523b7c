"""The identity of an emulator, from which a converted model's file makes it again or recognises it."""

from __future__ import annotations

import importlib
from typing import Any

from torch import Tensor

from geniex.emulator.base import Emulator
from geniex.errors import ConversionError

Identity = tuple[dict[str, Any], dict[str, Tensor]]

_SHIPPED = {
    "IdealEmulator": "geniex.emulator.ideal",
    "LinearEmulator": "geniex.emulator.linear",
    "CircuitEmulator": "geniex.emulator.circuit",
    "SurrogateEmulator": "geniex.surrogate.emulator",
    "StoredEmulator": "geniex.emulator.cached",
    "NoisyEmulator": "geniex.variation.noise",
}
"""Modules of geniex's own emulators by class name; one is imported when its emulator is made again."""
_BOUND = ("window", "v_max", "binary")
"""Settings of a surrogate that an architecture decides."""


def identity(emulator: Emulator) -> Identity:
    """The type and settings of ``emulator``, JSON-ready, and its weights.

    The wrapped emulator's identity stands under "emulator". The type is the class' name, with module if the class is
    not geniex's own.
    """
    told = {"type": _type(type(emulator)), **emulator.settings()}
    if emulator.inner is None:
        return told, emulator.weights()
    told["emulator"], weights = identity(emulator.inner)
    return told, weights


def same_worker(told: dict[str, Any], emulator: Emulator) -> bool:
    """Whether ``emulator`` has the innermost emulator of the identity ``told``, regardless of wrappers and binding."""
    given, _ = identity(emulator.worker)

    def kept(of: dict[str, Any]) -> dict[str, Any]:
        surrogate = {name: value for name, value in of.get("surrogate", {}).items() if name not in _BOUND}
        return of | {"surrogate": surrogate}

    return kept(given) == kept(worker_told(told))


def worker_told(told: dict[str, Any]) -> dict[str, Any]:
    """The identity of the innermost emulator within the identity ``told``."""
    return worker_told(told["emulator"]) if "emulator" in told else told


def emulator_of(told: dict[str, Any], weights: dict[str, Tensor], worker: Emulator | None = None) -> Emulator:
    """The emulator of the identity ``told``, or its wrappers around ``worker`` where that is given.

    Raises:
        ConversionError: the class of an emulator is not geniex's own, so that the emulator has to be given.
        CheckpointError: the class of the surrogate is neither geniex's own nor registered.
    """
    inner = None
    if "emulator" in told:
        inner = emulator_of(told["emulator"], weights, worker)
    elif worker is not None:
        return worker
    return _class(told["type"]).from_settings(told, weights, inner)


def _type(kind: type[Emulator]) -> str:
    own = _SHIPPED.get(kind.__name__) == kind.__module__
    return kind.__name__ if own else f"{kind.__module__}.{kind.__qualname__}"


def _class(name: str) -> type[Emulator]:
    if name not in _SHIPPED:
        last = name.rpartition(".")[2]
        raise ConversionError(f"emulator: it was a {name}, which is not geniex' own: give it, emulator={last}(...)")
    return getattr(importlib.import_module(_SHIPPED[name]), name)
