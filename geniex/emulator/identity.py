"""Which emulator a model was converted with, such that it can be made again, or known again."""

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
    "SurrogateEmulator": "geniex.emulator.surrogate",
    "StoredEmulator": "geniex.emulator.stored",
    "NoisyEmulator": "geniex.variation.noise",
}
"""Module of each emulator of geniex, by the class' name; it is imported when one is made again."""
_BOUND = ("window", "v_max", "binary")
"""What an architecture decides about a surrogate."""


def identity(emulator: Emulator) -> Identity:
    """What makes ``emulator``, JSON-ready, and its weights; what it wraps is told under "emulator".

    Of a class that is not geniex's own its full name is told, and what its ``settings`` and ``weights`` say.
    """
    told = {"type": _type(type(emulator)), **emulator.settings()}
    if emulator.inner is None:
        return told, emulator.weights()
    told["emulator"], weights = identity(emulator.inner)
    return told, weights


def same_worker(told: dict[str, Any], emulator: Emulator) -> bool:
    """Whether ``emulator`` does the work that was ``told`` of, whatever wraps it and whatever it is bound to."""
    given, _ = identity(emulator.worker)

    def kept(of: dict[str, Any]) -> dict[str, Any]:
        surrogate = {name: value for name, value in of.get("surrogate", {}).items() if name not in _BOUND}
        return of | {"surrogate": surrogate}

    return kept(given) == kept(worker_told(told))


def worker_told(told: dict[str, Any]) -> dict[str, Any]:
    """What was ``told`` of the innermost emulator."""
    return worker_told(told["emulator"]) if "emulator" in told else told


def emulator_of(told: dict[str, Any], weights: dict[str, Tensor], worker: Emulator | None = None) -> Emulator:
    """The emulator that ``identity`` told of, or its wrappers around ``worker`` where that is given.

    Raises:
        ConversionError: an emulator of a class that is not geniex's own, which has to be given.
        CheckpointError: a surrogate of a class that is neither geniex's own nor registered.
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
