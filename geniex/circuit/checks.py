"""Checks of the tensors that enter a circuit: shape, dtype, device, range."""

from __future__ import annotations

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor

from geniex.cells.base import MAX_CONDUCTANCE, MAX_VOLTAGE, USUAL_VOLTAGE
from geniex.config import warn_unit
from geniex.errors import InputError

USUAL_CONDUCTANCE = 0.01
"""Largest usual conductance, siemens; cells of less than 100 ohm are rare, conductances in millisiemens are not."""


def has_values(tensor: Tensor) -> bool:
    """Whether the numbers of ``tensor`` can be looked at: not if it is fake, on the meta device, or being compiled."""
    return not (isinstance(tensor, FakeTensor) or tensor.is_meta or torch.compiler.is_compiling())


def check_voltages(voltages: Tensor, rows: int) -> None:
    """Raise ``InputError`` unless ``voltages`` is (..., rows), floating, finite and plausible in volt."""
    _check_tensor("voltages", voltages)
    if voltages.dim() < 1 or voltages.shape[-1] != rows:
        raise InputError(
            "voltages",
            f"shape {tuple(voltages.shape)}",
            f"the last dimension must have {rows} entries, one for each row of the crossbar",
        )
    if not has_values(voltages):
        return
    _check_finite("voltages", voltages)
    top = voltages.abs().max().item() if voltages.numel() else 0.0
    if top > MAX_VOLTAGE:
        raise InputError(
            "voltages",
            f"up to {top:g}",
            f"volts are expected, at most {MAX_VOLTAGE:g}; is this in millivolt?",
        )
    if top > USUAL_VOLTAGE:
        warn_unit("voltages", top, "V", "arrays are read with less than 1 V; is this in millivolt?")


def check_conductances(conductances: Tensor, rows: int, cols: int, like: Tensor | None = None) -> None:
    """Raise ``InputError`` unless ``conductances`` is (..., rows, cols), floating, in [0, 1] siemens.

    ``like`` is the tensor of voltages, whose dtype and device it must have, and with which it must broadcast.
    """
    _check_tensor("conductances", conductances)
    if conductances.dim() < 2 or conductances.shape[-2:] != (rows, cols):
        raise InputError(
            "conductances",
            f"shape {tuple(conductances.shape)}",
            f"the last two dimensions must be the crossbar's (rows, cols) = ({rows}, {cols})",
        )
    if has_values(conductances) and conductances.numel():
        _check_finite("conductances", conductances)
        low, high = conductances.min().item(), conductances.max().item()
        if low < 0:
            raise InputError("conductances", f"down to {low:g}", "a passive cell has at least 0 S")
        if high > MAX_CONDUCTANCE:
            raise InputError(
                "conductances",
                f"up to {high:g}",
                "siemens are expected, at most 1; is this in microsiemens?",
            )
        if high > USUAL_CONDUCTANCE:
            warn_unit("conductances", high, "S", "memristive cells have microsiemens; is this in millisiemens?")
    if like is None:
        return
    if conductances.dtype != like.dtype:
        raise InputError(
            "conductances",
            conductances.dtype,
            f"the voltages are {like.dtype}; both must have one dtype",
        )
    if conductances.device != like.device:
        raise InputError(
            "conductances",
            f"device {conductances.device}",
            f"the voltages are on {like.device}; both must be on one device",
        )
    try:
        torch.broadcast_shapes(like.shape[:-1], conductances.shape[:-2])
    except RuntimeError:
        raise InputError(
            "conductances",
            f"leading dimensions {tuple(conductances.shape[:-2])}",
            f"they must broadcast with the voltages' leading dimensions {tuple(like.shape[:-1])}",
        ) from None


def _check_tensor(name: str, value: object) -> None:
    if not isinstance(value, Tensor):
        raise InputError(name, type(value).__name__, "it must be a torch tensor")
    if value.dtype not in (torch.float32, torch.float64):
        raise InputError(name, value.dtype, "it must be float32 or float64")


def _check_finite(name: str, value: Tensor) -> None:
    bad = ~torch.isfinite(value)
    if bad.any():
        where = tuple(bad.nonzero()[0].tolist())
        raise InputError(name, f"{value[where].item()} at index {where}", "every value must be a finite number")
