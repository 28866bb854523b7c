"""Modules that take the places of others: layers on crossbars, and models inside of torch's wrappers.

Hooks, sizes and references from elsewhere belong to a layer's place in a model, not to its computation, and go to the
module that takes the place.
"""

from __future__ import annotations

import sys
from collections import OrderedDict
from functools import partial
from types import MethodType
from typing import Any

from torch import nn
from torch.nn.parallel import DataParallel, DistributedDataParallel

_BEFORE = ("_forward_pre_hooks", "_forward_pre_hooks_with_kwargs", "_backward_pre_hooks")
_AFTER = ("_forward_hooks", "_forward_hooks_with_kwargs", "_forward_hooks_always_called", "_backward_hooks")
"""Names of torch's dictionaries of hooks by number; the numbers are unique among all modules."""
_INTERNAL = frozenset(vars(nn.Module()))
"""Attributes that every module has."""


def take_place(old: nn.Module, new: nn.Module) -> None:
    """Give ``new`` the hooks of ``old``, whose place in a model it takes, and sizes of ``old`` such as ``in_features``.

    Hooks run in the order in which they were registered. The hooks of ``new`` itself stay next to it.
    """
    for name in (*_BEFORE, *_AFTER):
        hooks = getattr(old, name)
        if hooks:
            own = getattr(new, name)
            setattr(new, name, OrderedDict({**hooks, **own} if name in _BEFORE else {**own, **hooks}))
    if old._is_full_backward_hook is not None:
        new._is_full_backward_hook = old._is_full_backward_hook
    for name, value in vars(old).items():
        if name not in _INTERNAL and not name.startswith("_") and _plain(value) and not hasattr(new, name):
            setattr(new, name, value)


def remove_hooks(module: nn.Module) -> nn.Module:
    """``module`` itself, with all its hooks removed."""
    for name in (*_BEFORE, *_AFTER):
        setattr(module, name, OrderedDict())
    module._is_full_backward_hook = None
    return module


def has_hooks(module: nn.Module, *, before: bool = True) -> bool:
    """Whether ``module`` has hooks of the forward or the backward pass; without ``before``, pre-hooks do not count."""
    names = (*_BEFORE, *_AFTER) if before else _AFTER
    return any(getattr(module, name) for name in names)


def find_outside_hooks(model: nn.Module) -> list[Any]:
    """The hooks in ``model`` that belong to none of its modules: a copy of the model calls them, not copies of them.

    A recorder whose method is a hook goes on recording, for example. A hook that is a method of a module in ``model``
    becomes a method of the copied module.
    """
    inside = {id(module) for module in model.modules()}
    hooks = [hook for m in model.modules() for name in (*_BEFORE, *_AFTER) for hook in getattr(m, name).values()]
    return [hook for hook in hooks if not _belongs(hook, inside)]


def exchange_references(module: nn.Module, made: dict[int, nn.Module]) -> None:
    """Exchange modules for those in ``made``, by id, wherever ``module`` refers to them other than as submodules."""
    for name, value in vars(module).items():
        if name not in _INTERNAL:
            vars(module)[name] = _exchanged(value, made)


def find_kept_aside(module: nn.Module) -> list[tuple[str, nn.Module]]:
    """The modules that ``module`` keeps in lists, tuples and dictionaries instead of as submodules, by name."""
    found: list[tuple[str, nn.Module]] = []

    def look(value: Any, name: str) -> None:
        if isinstance(value, nn.Module):
            found.append((name, value))
        elif isinstance(value, (list, tuple)):
            for k, item in enumerate(value):
                look(item, f"{name}[{k}]")
        elif isinstance(value, dict):
            for key, item in value.items():
                look(item, f"{name}[{key!r}]")

    for name, value in vars(module).items():
        if name not in _INTERNAL:
            look(value, name)
    return found


def unwrap(model: nn.Module) -> nn.Module:
    """The module inside of ``torch.compile``, ``DataParallel`` and ``DistributedDataParallel``, or ``model`` itself."""
    while True:
        if is_compiled(model):
            model = model._orig_mod  # type: ignore[assignment]
        elif isinstance(model, (DataParallel, DistributedDataParallel)):
            model = model.module
        else:
            return model


def remove_wrappers(model: nn.Module) -> nn.Module:
    """``model``, changed in place, with every wrapper at any depth replaced by the module inside of it."""
    made = {id(module): unwrap(module) for module in model.modules() if unwrap(module) is not module}
    return replace_modules(model, made) if made else model


def replace_modules(model: nn.Module, made: dict[int, nn.Module]) -> nn.Module:
    """``model`` with modules exchanged for those in ``made``, by id, also where one is used twice.

    A module that takes another's place gets its hooks.
    """
    for module in list(model.modules()):
        if id(module) in made:
            take_place(module, made[id(module)])
    if id(model) in made:
        return replace_modules(made[id(model)], {key: new for key, new in made.items() if key != id(model)})
    for parent in list(model.modules()):
        for name, child in parent._modules.items():
            if child is not None and id(child) in made:
                parent._modules[name] = made[id(child)]
        exchange_references(parent, made)
    return model


def is_compiled(model: nn.Module) -> bool:
    """Whether ``model`` is what ``torch.compile`` returned."""
    # Importing the compiler takes seconds; whoever has a compiled module has imported it already.
    compiler = sys.modules.get("torch._dynamo.eval_frame")
    return compiler is not None and isinstance(model, compiler.OptimizedModule)


def _exchanged(value: Any, made: dict[int, nn.Module]) -> Any:
    if isinstance(value, nn.Module):
        return made.get(id(value), value)
    if isinstance(value, MethodType) and id(value.__self__) in made:
        return getattr(made[id(value.__self__)], value.__name__)
    if isinstance(value, list):
        value[:] = [_exchanged(item, made) for item in value]
    elif isinstance(value, dict):
        value.update({key: _exchanged(item, made) for key, item in value.items()})
    elif type(value) is tuple:
        return tuple(_exchanged(item, made) for item in value)
    return value


def _belongs(hook: Any, inside: set[int]) -> bool:
    """Whether a hook is one of the modules ``inside`` (by id), a method of one, or a function with one bound to it."""
    if isinstance(hook, partial):
        return any(_belongs(part, inside) for part in (hook.func, *hook.args, *hook.keywords.values()))
    return id(hook) in inside or id(getattr(hook, "__self__", None)) in inside


def _plain(value: Any) -> bool:
    if isinstance(value, tuple):
        return all(map(_plain, value))
    return value is None or isinstance(value, (bool, int, float, str))
