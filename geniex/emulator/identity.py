"""The identity of an emulator, from which a file makes it again or recognises it, and the classes that files name."""

from __future__ import annotations

import hashlib
import importlib
import inspect
from typing import Any, TypeVar

import safetensors.torch
from torch import Tensor

from geniex.emulator.base import Emulator
from geniex.errors import ConversionError, InputError
from geniex.jobs import share_registry

Identity = tuple[dict[str, Any], dict[str, Tensor]]

_SHIPPED = {
    "IdealEmulator": "geniex.emulator.ideal",
    "LinearEmulator": "geniex.emulator.linear",
    "CircuitEmulator": "geniex.emulator.circuit",
    "StoredEmulator": "geniex.emulator.cached",
    "NoisyEmulator": "geniex.variation.noise",
    "SurrogateEmulator": "geniex.surrogate.emulator",
    "GeniexMLP": "geniex.surrogate.mlp.network",
    "PhysicsSurrogate": "geniex.surrogate.physics.surrogate",
}
"""Modules of geniex' own emulators by class name; one is imported when its emulator is made again."""
_registered: dict[str, type[Emulator]] = {}
"""Emulators that users registered, by class name."""
_E = TypeVar("_E", bound=Emulator)


def register_emulator(kind: type[_E]) -> type[_E]:
    """``kind`` itself, an emulator class of your own that files may name from now on; use it as a decorator.

    Checkpoints and converted models with such an emulator load in every process that has imported the class' module.

    Raises:
        InputError: ``kind`` is no complete emulator class, or its name is that of another one.
    """
    check_complete_class(kind, Emulator)
    name = kind.__name__
    name_class(kind)
    other = _registered.get(name, kind)
    # A class of the same qualified name in the same module is the same one defined again, as by rerunning a notebook.
    if _where(other) != _where(kind):
        raise InputError("kind", _where(kind), f"{_where(other)} is registered under that name: rename one of the two")
    if name not in _SHIPPED:
        _registered[name] = kind
    return kind


def check_complete_class(kind: object, base: type) -> None:
    """Raise ``InputError`` unless ``kind`` is a class that derives from ``base`` and has all its methods."""
    if not (isinstance(kind, type) and issubclass(kind, base)) or inspect.isabstract(kind):
        got = kind.__name__ if isinstance(kind, type) else f"an object of type {type(kind).__name__}"
        raise InputError("kind", got, f"it must be a class that derives from {base.__name__} and has all its methods")


share_registry(lambda: [(register_emulator, (kind,)) for kind in _registered.values()])


def list_registered_emulators() -> tuple[type[Emulator], ...]:
    """The classes that users registered."""
    return tuple(_registered.values())


def name_class(kind: type[Emulator]) -> str:
    """The name of the class ``kind`` in files; it has the module in it unless the class is geniex' own or registered.

    Raises:
        InputError: the class is not geniex' own but has the name of one that is.
    """
    name = kind.__name__
    if name in _SHIPPED and kind.__module__ != _SHIPPED[name]:
        allowed = f"files would take it for geniex' own {_SHIPPED[name]}.{name}: give your class another name"
        raise InputError("emulator", _where(kind), allowed)
    return name if name in _SHIPPED or _registered.get(name) is kind else _where(kind)


def find_class(name: object) -> type[Emulator]:
    """The class that files call ``name``: geniex' own, regardless of what was imported before, or a registered one.

    Raises:
        ConversionError: no class has that name.
    """
    if isinstance(name, str) and name in _SHIPPED:
        kind: type[Emulator] = getattr(importlib.import_module(_SHIPPED[name]), name)
        return kind
    last = str(name).rpartition(".")[2]  # a class may be registered after a file has named it with its module
    if last in _registered:
        return _registered[last]
    raise ConversionError(
        f"emulator: it was a {name}, which is not geniex' own: pass emulator={last}(...), or import its module, in"
        " which geniex.emulator.register_emulator must decorate the class"
    )


def identify(emulator: Emulator) -> Identity:
    """The class and settings of ``emulator``, JSON-ready, and the state of all its parts, on the CPU.

    The wrapped emulator's identity stands under "emulator". A wrapper's own tensors are told apart from those of the
    emulator that it wraps: each part has its ``weights_sha256``, which precedes the names of its tensors in the state.
    """
    told: dict[str, Any] = {"type": name_class(type(emulator)), **emulator.settings()}
    inner, weights = emulator.inner, dict[str, Tensor]()
    own = {name: tensor.detach().cpu().contiguous() for name, tensor in emulator.state_dict().items()}
    if inner is not None:
        told["emulator"], weights = identify(inner)
        wrapped = next((f"{name}." for name, module in emulator.named_children() if module is inner), None)
        own = {name: tensor for name, tensor in own.items() if wrapped is None or not name.startswith(wrapped)}
    if own:
        told["weights_sha256"] = hashlib.sha256(safetensors.torch.save(own)).hexdigest()
        weights = weights | {f"{told['weights_sha256']}.{name}": tensor for name, tensor in own.items()}
    return told, weights


def is_same_worker(told: dict[str, Any], emulator: Emulator) -> bool:
    """Whether ``emulator`` and the identity ``told`` have the same innermost emulator, wrappers and binding apart."""
    worker = emulator.worker
    given, _ = identify(worker)
    wanted = identify_worker(told)
    names = {*given, *wanted} - {"type", *worker.set_by_architecture}
    return is_named(wanted["type"], type(worker)) and all(given.get(name) == wanted.get(name) for name in names)


def is_named(name: str, kind: type[Emulator]) -> bool:
    """Whether files call the class ``kind`` by ``name``, with its module or, once it is registered, without."""
    return name in (name_class(kind), kind.__name__ if name not in _SHIPPED else None, _where(kind))


def identify_worker(told: dict[str, Any]) -> dict[str, Any]:
    """The identity of the innermost emulator within the identity ``told``."""
    return identify_worker(told["emulator"]) if "emulator" in told else told


def make_emulator(told: dict[str, Any], weights: dict[str, Tensor], worker: Emulator | None = None) -> Emulator:
    """The emulator of the identity ``told``, or its wrappers around ``worker`` if that is given.

    Raises:
        ConversionError: the class of an emulator is neither geniex' own nor registered, or does not say how it is
            made again, so that the emulator has to be given.
    """
    inner = None
    if "emulator" in told:
        inner = make_emulator(told["emulator"], weights, worker)
    elif worker is not None:
        return worker
    return make_part(told, weights, inner)


def make_part(told: dict[str, Any], weights: dict[str, Tensor], inner: Emulator | None) -> Emulator:
    """The outermost emulator of the identity ``told``, around ``inner`` if it wraps one; raises ``ConversionError``."""
    prefix = f"{told.get('weights_sha256', '')}."
    own = {name.removeprefix(prefix): tensor for name, tensor in weights.items() if name.startswith(prefix)}
    return find_class(told["type"]).from_settings(told, own, inner)


def _where(kind: type) -> str:
    return f"{kind.__module__}.{kind.__qualname__}"
