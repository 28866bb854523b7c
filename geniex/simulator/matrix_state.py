"""The saved state of a matrix on crossbars beside its tensors (binary points, signs, places), and moves of tensors."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from geniex.errors import InputError
from geniex.mapping import Architecture, TileLayout

_FREE = (
    "weight_frac_bits",
    "input_frac_bits",
    "input_calibration",
    "input_percentile",
    "rounding",
    "accumulator_bits",
    "accumulator_frac_bits",
    "accumulator_overflow",
)
"""Fields of an architecture that a saved state knows better, or that change no meaning of what is saved."""


class MatrixState(NamedTuple):
    """The numbers of a saved matrix."""

    weight_frac_bits: int
    input_frac_bits: int
    non_negative: bool
    """Whether inputs have no sign."""
    held: int
    """Fraction bits that the accumulator keeps."""
    varied: bool
    """Whether the conductances were varied."""


def write_state(architecture: Architecture, own: MatrixState, layout: TileLayout) -> Tensor:
    """The numbers of a matrix and the places of its weights, as one int64 tensor."""
    return torch.tensor([_number_of(architecture), *own, *layout.to_numbers()])


def read_state(state: Tensor, layout: TileLayout) -> tuple[MatrixState, TileLayout]:
    """The numbers and the layout, on the CPU, that ``write_state`` wrote for a matrix like that of ``layout``.

    Raises:
        InputError: the state is of another architecture.
    """
    number, weight_frac_bits, input_frac_bits, non_negative, held, varied, *places = state.tolist()
    if number != _number_of(layout.architecture):
        allowed = "the same conductances mean other weights here: convert the model with the saved architecture"
        raise InputError("state_dict", "the state of a matrix of another architecture", allowed)
    own = MatrixState(weight_frac_bits, input_frac_bits, bool(non_negative), held, bool(varied))
    return own, layout.from_numbers(places)


def move_once(function: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """``function`` applied once to each tensor, so that arrays go on sharing tensors; never to less than float32."""
    moved: dict[int, Tensor] = {}

    def move(tensor: Tensor) -> Tensor:
        if id(tensor) not in moved:
            new, wide = function(tensor), (torch.float32, torch.float64)
            kept = new.dtype in wide and tensor.dtype in wide
            moved[id(tensor)] = new if kept else tensor.to(new.device)
        return moved[id(tensor)]

    return move


def _number_of(architecture: Architecture) -> int:
    """A number that differs between architectures for which a saved state means different products."""
    told = {name: value for name, value in architecture.to_dict().items() if name not in _FREE}
    return int.from_bytes(hashlib.sha256(json.dumps(told, sort_keys=True).encode()).digest()[:7])
