"""Other models made from a converted one, and the weights that its conductances represent.

A converted model can be read by another emulator, varied as devices are, arranged anew on its tiles, or made digital
again. Each of these functions returns a copy and leaves the model as it is.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from geniex.config import check_seed
from geniex.emulator import Emulator, IdealEmulator
from geniex.errors import InputError
from geniex.mapping import Arrangement
from geniex.mapping.slicing import slice_weights
from geniex.simulator.build import OwnEmulators, check_fit
from geniex.simulator.layers.attention import PROJECTIONS, ProjectedAttention
from geniex.simulator.layers.crossbar import find_crossbar_layers, find_crossbar_matrices
from geniex.simulator.matrix import CrossbarMatrix
from geniex.simulator.replace import take_place
from geniex.variation import NoisyEmulator, Variations, derive_seed, vary_tiles


def check_converted(model: nn.Module) -> None:
    """Raise ``InputError`` unless ``model`` has a matrix on crossbars."""
    if not isinstance(model, nn.Module) or not find_crossbar_matrices(model):
        raise InputError(
            "model", type(model).__name__, "it has no layer on crossbars: give a model that convert returned"
        )


def replace_emulator(model: nn.Module, emulator: Emulator) -> nn.Module:
    """A copy of a converted ``model`` whose programmed arrays are read by ``emulator``.

    Arrangements, scales and ADC ranges stay; the original is untouched.
    """
    check_converted(model)
    copied, own = copy.deepcopy(model), OwnEmulators(emulator)
    for matrix in find_crossbar_matrices(copied).values():
        check_fit(emulator, matrix.architecture)
        matrix.set_emulator(own.own(matrix.architecture, matrix.conductances.device))
        matrix.reprogram()
    return copied


def replace_by_ideal(model: nn.Module) -> nn.Module:
    """A copy of a converted ``model`` on ideal crossbars: the same conductances, no wires, linear cells."""
    return replace_emulator(model, IdealEmulator())


def vary(model: nn.Module, variations: Variations, seed: int = 0) -> nn.Module:
    """A copy of a converted ``model`` whose arrays are programmed with varied conductances.

    The original is untouched. Each tile's draws depend only on ``seed``, the layer's name and the tile's index. Read
    noise begins anew, including noise that the model had before: each matrix has its own generator, which advances with
    each read. The copy cannot be trained, because a weight that is programmed again would lose its variation.
    Calibrated ADC ranges stay. Each matrix of the copy keeps its conductances from before the first variation as
    ``target_conductances``; see ``undo_variation``.

    >>> from geniex import Architecture, IdealEmulator, convert
    >>> from geniex.variation import StuckCells
    >>> arch = Architecture(input_frac_bits=13)
    >>> model = convert(nn.Linear(3, 2), arch, IdealEmulator())
    >>> stuck = vary(model, Variations((StuckCells(off=0.0, on=1.0),)))  # W+ and W- alike: only the bias is left
    >>> torch.equal(stuck(torch.rand(3)), stuck(torch.zeros(3)))
    True
    """
    check_seed(seed)
    if not isinstance(variations, Variations):
        raise InputError("variations", type(variations).__name__, "it must be Variations((...,))")
    copied = copy.deepcopy(model)
    matrices = find_crossbar_matrices(copied)
    if not matrices:
        raise InputError(
            "model", type(model).__name__, "it has no layer on crossbars: give a model that convert returned"
        )
    for layer in find_crossbar_layers(copied).values():
        layer._torch_layer = ()
    for name, matrix in matrices.items():
        _fix(matrix)
        varied = vary_tiles(matrix.conductances, matrix.architecture.window, variations, seed, name)
        emulator = matrix.emulator.with_noise_seed(derive_seed(seed, "reads", name, "before"))
        if variations.read_noise is not None:
            noise = variations.read_noise
            emulator = NoisyEmulator(emulator, noise, derive_seed(seed, "reads", name))
        matrix.set_emulator(emulator.bind(matrix.architecture))
        changed = matrix.varied or not torch.equal(varied, matrix.conductances)
        target = matrix.target_conductances if matrix.varied else matrix.conductances
        matrix.program(varied)
        if changed:
            matrix.varied, matrix.target_conductances = True, target
    return copied


def undo_variation(model: nn.Module) -> nn.Module:
    """A copy of a converted ``model`` on ideal crossbars with the conductances from before ``vary``.

    Crossbars that were never varied keep their present conductances.

    Raises:
        InputError: the model was varied, and its earlier conductances are not known, because it was saved and loaded
            or other conductances were programmed since.
    """
    check_converted(model)
    for name, matrix in find_crossbar_matrices(model).items():
        if matrix.varied and matrix.target_conductances is None:
            allowed = (
                "its earlier conductances are unknown, because it was loaded or programmed since: vary the model again"
            )
            raise InputError("model", f"varied matrix {name!r}", allowed)
    ideal = replace_by_ideal(model)
    for matrix in find_crossbar_matrices(ideal).values():
        if matrix.target_conductances is not None:
            matrix.program(matrix.target_conductances)
            matrix.varied = False
    return ideal


def read_arrangements(model: nn.Module) -> dict[str, Arrangement]:
    """The arrangement of every matrix of a converted ``model``, by name."""
    check_converted(model)
    return {name: matrix.layout.arrangement for name, matrix in find_crossbar_matrices(model).items()}


def arrange(model: nn.Module, places: Mapping[str, Arrangement]) -> nn.Module:
    """A copy of a converted ``model`` whose matrices have the arrangements of ``places``, by name.

    Matrices that are not named stay as they are. ADC ranges that were calibrated by tile or column cannot be moved this
    way: use ``CrossbarMatrix.arrange`` with the inputs that they need.
    """
    check_converted(model)
    copied = copy.deepcopy(model)
    matrices = find_crossbar_matrices(copied)
    for name, arrangement in places.items():
        if name not in matrices:
            raise InputError("places", repr(name), f"matrices are {', '.join(map(repr, matrices))}")
        if matrices[name].layout.arrangement != arrangement:
            matrices[name].arrange(arrangement)
    return copied


def to_digital(converted: nn.Module) -> nn.Module:
    """A fully digital copy, in evaluation mode, of a model that was converted with ``trainable=True``.

    Its layers are torch's, and attention has its weights under torch's names again. Folded batch norms stay folded.
    The weights are the trained ones, before rounding.

    Raises:
        InputError: a layer has no trainable weights, because the model was not converted with ``trainable=True``.
    """
    layers: dict[int, Any] = {}
    for name, layer in find_crossbar_layers(converted).items():
        if not layer.trainable:
            allowed = "it has no trainable weights: convert the model with trainable=True"
            raise InputError("converted", f"layer {name!r}", allowed)
        layers[id(layer)] = layer.digital()
        take_place(layer, layers[id(layer)])
    # deepcopy treats the modules in its memo as copied already.
    memo = dict(layers)
    for module in converted.modules():
        if isinstance(module, ProjectedAttention):
            parts: list[Any] = [getattr(module, name) for name in PROJECTIONS]
            memo[id(module)] = module.joined(*(layers.get(id(p)) or copy.deepcopy(p) for p in parts))
            take_place(module, memo[id(module)])
    copied = copy.deepcopy(converted, memo)
    vars(copied).pop("conversion", None)
    return copied


def read_weight(matrix: CrossbarMatrix) -> Tensor:
    """The weight (outputs, inputs), float64, that the conductances of ``matrix`` represent on ideal crossbars."""
    layout, parts = matrix.layout, matrix.layout.join_weights(read_integers(matrix))  # (arrays, outputs, inputs)
    whole = parts[0] - parts[1] if len(parts) == 2 else parts[0]
    weight = whole * 2.0**-matrix.weight_frac_bits
    return (
        weight if matrix.weight_gain is None else weight * layout.by_output(matrix.weight_gain).double().reshape(-1, 1)
    )


def read_integers(matrix: CrossbarMatrix) -> Tensor:
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


def _fix(matrix: CrossbarMatrix) -> None:
    """Drop the weight of a trainable matrix, which keeps its conductances only."""
    if matrix.weight is None:
        return
    with torch.no_grad():
        matrix(matrix.weight.new_zeros(1, matrix.layout.inputs))  # a read programs the present weight
    matrix.weight = None
