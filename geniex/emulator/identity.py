"""Which emulator a model was converted with, such that it can be made again, or known again."""

from __future__ import annotations

import hashlib
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from geniex.circuit import Crossbar
from geniex.emulator.base import Emulator
from geniex.emulator.circuit import CircuitEmulator
from geniex.emulator.ideal import IdealEmulator
from geniex.emulator.linear import LinearEmulator
from geniex.emulator.surrogate import SurrogateEmulator
from geniex.errors import ConversionError
from geniex.mapping import ConductanceWindow
from geniex.surrogate import Surrogate

Identity = tuple[dict[str, Any], dict[str, Tensor]]


def identity(emulator: Emulator) -> Identity:
    """What makes ``emulator``, JSON-ready, and its weights; of a user's own kind the class' name only."""
    emulator = emulator.worker
    told: dict[str, Any] = {"type": type(emulator).__name__}
    if isinstance(emulator, LinearEmulator | CircuitEmulator | SurrogateEmulator):
        told["crossbar"] = emulator.crossbar.to_dict()
    if isinstance(emulator, CircuitEmulator):
        told["tol"] = emulator.tol
    if not isinstance(emulator, SurrogateEmulator):
        return told, {}
    surrogate = emulator.surrogate
    weights = {name: tensor.detach().cpu().contiguous() for name, tensor in surrogate.state_dict().items()}
    told["surrogate"] = {
        "type": type(surrogate).__name__,
        "window": surrogate.window.to_dict(),
        "v_max": surrogate.v_max,
        "settings": surrogate.settings(),
        "weights_sha256": hashlib.sha256(safetensors.torch.save(weights)).hexdigest(),
    }
    return told, weights


def same_emulator(told: dict[str, Any], emulator: Emulator) -> bool:
    """Whether ``emulator`` could have been what ``identity`` told of, before it was bound to an architecture."""
    given, _ = identity(emulator)

    def kept(of: dict[str, Any]) -> dict[str, Any]:
        surrogate = {k: v for k, v in of.get("surrogate", {}).items() if k not in ("window", "v_max")}
        return of | {"surrogate": surrogate}

    return kept(given) == kept(told)


def emulator_of(told: dict[str, Any], weights: dict[str, Tensor]) -> Emulator:
    """The emulator that ``identity`` told of.

    Raises:
        ConversionError: of a user's own kind, which has to be given.
    """
    kind = told["type"]
    if kind == IdealEmulator.__name__:
        return IdealEmulator()
    if kind == LinearEmulator.__name__:
        return LinearEmulator(Crossbar.from_dict(told["crossbar"]))
    if kind == CircuitEmulator.__name__:
        return CircuitEmulator(Crossbar.from_dict(told["crossbar"]), tol=told["tol"])
    if kind == SurrogateEmulator.__name__:
        crossbar = Crossbar.from_dict(told["crossbar"])
        return SurrogateEmulator(_surrogate(told["surrogate"], crossbar, weights), crossbar)
    raise ConversionError(f"emulator: it was a {kind}, which is not geniex' own: give it, emulator={kind}(...)")


def _surrogate(told: dict[str, Any], crossbar: Crossbar, weights: dict[str, Tensor]) -> Surrogate:
    kind = Surrogate._classes.get(told["type"])
    if kind is None:
        raise ConversionError(f"emulator: import the class of its surrogate, {told['type']}, first")
    window = ConductanceWindow.from_dict(told["window"])
    with torch.device("meta"):  # no initial weights are drawn
        surrogate = kind(crossbar, window, told["v_max"], **told["settings"])
    surrogate.load_state_dict(weights, assign=True)
    return surrogate.eval().requires_grad_(False)
