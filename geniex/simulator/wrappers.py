"""Modules that take the places of others: layers on crossbars, and models inside of torch's wrappers."""

from __future__ import annotations

import sys

from torch import nn
from torch.nn.parallel import DataParallel, DistributedDataParallel

from geniex.simulator.hooks import exchange_references, take_place


def unwrapped(model: nn.Module) -> nn.Module:
    """The module inside of ``torch.compile``, ``DataParallel`` and ``DistributedDataParallel``, or ``model`` itself."""
    while True:
        if is_compiled(model):
            model = model._orig_mod  # type: ignore[assignment]
        elif isinstance(model, (DataParallel, DistributedDataParallel)):
            model = model.module
        else:
            return model


def without_wrappers(model: nn.Module) -> nn.Module:
    """``model``, changed in place, with every wrapper at any depth replaced by the module inside of it."""
    made = {id(module): unwrapped(module) for module in model.modules() if unwrapped(module) is not module}
    return replaced(model, made) if made else model


def replaced(model: nn.Module, made: dict[int, nn.Module]) -> nn.Module:
    """``model`` with modules exchanged for those in ``made``, by id, also where one is used twice.

    A module that takes another's place gets its hooks.
    """
    for module in list(model.modules()):
        if id(module) in made:
            take_place(module, made[id(module)])
    if id(model) in made:
        return replaced(made[id(model)], {key: new for key, new in made.items() if key != id(model)})
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
