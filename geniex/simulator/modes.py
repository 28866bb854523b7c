"""Refusals, each in one line, of the ways in which torch runs modules that crossbars cannot follow."""

from __future__ import annotations

from typing import NoReturn

import torch
from torch import Tensor

from geniex.errors import ConversionError, InputError


def check_mode(x: Tensor) -> None:
    """Raise ``InputError`` where ``torch.jit.trace`` or ``torch.vmap`` runs the module on ``x``; no value is read."""
    if torch.compiler.is_compiling():
        return
    if not isinstance(x, Tensor):
        raise InputError("x", type(x).__name__, "it must be a tensor")
    if torch.jit.is_tracing():
        allowed = "a read depends on values, which tracing fixes: use the model as it is, and save_converted to save it"
        raise InputError("x", "a tensor that torch.jit.trace records", allowed)
    functions = torch._C._functorch
    while functions.is_functorch_wrapped_tensor(x):
        if functions.is_batchedtensor(x):
            allowed = "vmap is not needed, as all dimensions but the last are batch dimensions: give the whole batch"
            raise InputError("x", "a tensor that torch.vmap batches", allowed)
        x = functions.get_unwrapped(x)


def refuse_script() -> NoReturn:
    """Raise ``ConversionError``, because ``torch.jit.script`` cannot compile layers on crossbars."""
    raise ConversionError("model: torch.jit.script cannot compile layers on crossbars; save_converted saves the model")
