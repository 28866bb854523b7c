"""A converted model on another emulator: the same conductances, other physics."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from geniex.emulator import Emulator, IdealEmulator
from geniex.errors import InputError
from geniex.mapping.slicing import slice_weights
from geniex.simulator.build import OwnEmulators, check_fit
from geniex.simulator.layers.crossbar import crossbar_matrices
from geniex.simulator.matrix import CrossbarMatrix


def emulated_by(model: nn.Module, emulator: Emulator) -> nn.Module:
    """A copy of a converted ``model`` whose programmed arrays are read by ``emulator``.

    Arrangements, scales and ADC ranges stay; the original is untouched.
    """
    check_converted(model)
    copied, own = copy.deepcopy(model), OwnEmulators(emulator)
    for matrix in crossbar_matrices(copied).values():
        check_fit(emulator, matrix.architecture)
        matrix.set_emulator(own.own(matrix.architecture, matrix.conductances.device))
        matrix.reprogram()
    return copied


def on_ideal(model: nn.Module) -> nn.Module:
    """A copy of a converted ``model`` on ideal crossbars: the same conductances, no wires, linear cells."""
    return emulated_by(model, IdealEmulator())


def check_converted(model: nn.Module) -> None:
    """Raise ``InputError`` unless ``model`` has a matrix on crossbars."""
    if not isinstance(model, nn.Module) or not crossbar_matrices(model):
        raise InputError("model", type(model).__name__, "it has nothing on crossbars: it must be what convert returned")


def programmed_weight(matrix: CrossbarMatrix) -> Tensor:
    """The weight (outputs, inputs), float64, that the conductances of ``matrix`` represent on ideal crossbars."""
    layout, parts = matrix.layout, matrix.layout.join_weights(programmed_integers(matrix))  # (arrays, outputs, inputs)
    whole = parts[0] - parts[1] if len(parts) == 2 else parts[0]
    weight = whole * 2.0**-matrix.weight_frac_bits
    return (
        weight if matrix.weight_gain is None else weight * layout.by_output(matrix.weight_gain).double().reshape(-1, 1)
    )


def programmed_integers(matrix: CrossbarMatrix) -> Tensor:
    """The integers, float64, that the cells represent on ideal crossbars, at the places of the cells.

    Their shape is (row_tiles, arrays, col_tiles, rows, outputs per tile), in the order of the arrangement. They are not
    whole numbers where conductances were measured or varied.
    """
    arch, layout, window = matrix.architecture, matrix.layout, matrix.architecture.window
    with torch.no_grad():
        programmed = matrix._current()[0].example  # a trainable matrix programs its present weight
    cells = layout.off_lines(programmed).double()
    level_0 = cells[..., -1:] if arch.offset == "reference_column" else window.g_off
    levels = (cells - level_0) / window.step(2**arch.slice_bits)
    slices = layout.slices_of(levels)  # (row_tiles, arrays, col_tiles, rows, outputs per tile, slices)
    if arch.bias_cols:
        slices = slices - layout.bias_of(levels)[..., None, :]
    return slices @ slice_weights(arch, slices)
