"""``vary``: a converted model on devices whose conductances are not those that were asked for."""

from __future__ import annotations

import copy

import torch
from torch import nn

from geniex.config import check_seed
from geniex.errors import InputError
from geniex.simulator.exchange import check_converted, on_ideal
from geniex.simulator.layers.crossbar import crossbar_layers, crossbar_matrices
from geniex.simulator.matrix import CrossbarMatrix
from geniex.variation import NoisyEmulator, Variations, derive_seed, vary_tiles


def vary(model: nn.Module, variations: Variations, seed: int = 0) -> nn.Module:
    """A copy of a converted ``model`` whose arrays are programmed with varied conductances.

    The original is untouched. Each tile's draws depend only on ``seed``, the layer's name and the tile's index. Read
    noise begins anew, including noise that the model had before: each matrix has a generator that goes on from read to
    read. The copy cannot be trained, because a weight that is programmed again would lose its variation. Calibrated ADC
    ranges stay. Each matrix of the copy keeps its conductances from before the first variation as
    ``target_conductances``; see ``before_variation``.

    >>> from geniex import Architecture, IdealEmulator, convert
    >>> from geniex.variation import StuckCells
    >>> arch = Architecture(input_frac_bits=13)
    >>> model = convert(nn.Linear(3, 2), arch, IdealEmulator())
    >>> stuck = vary(model, Variations((StuckCells(off=0.0, on=1.0),)))  # W+ and W- alike: nothing but the bias is left
    >>> torch.equal(stuck(torch.rand(3)), stuck(torch.zeros(3)))
    True
    """
    check_seed(seed)
    if not isinstance(variations, Variations):
        raise InputError("variations", type(variations).__name__, "it must be Variations((...,))")
    copied = copy.deepcopy(model)
    matrices = crossbar_matrices(copied)
    if not matrices:
        raise InputError("model", type(model).__name__, "it has nothing on crossbars: it must be what convert returned")
    for layer in crossbar_layers(copied).values():
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


def before_variation(model: nn.Module) -> nn.Module:
    """A copy of a converted ``model`` on ideal crossbars with the conductances from before ``vary``.

    Crossbars that were never varied keep their present conductances.

    Raises:
        InputError: the model was varied, and its earlier conductances are not known, because it was saved and loaded
            or other conductances were programmed since.
    """
    check_converted(model)
    for name, matrix in crossbar_matrices(model).items():
        if matrix.varied and matrix.target_conductances is None:
            allowed = "its conductances before variation are not known, as it was loaded or programmed since"
            raise InputError("model", f"varied matrix {name!r}", allowed)
    ideal = on_ideal(model)
    for matrix in crossbar_matrices(ideal).values():
        if matrix.target_conductances is not None:
            matrix.program(matrix.target_conductances)
            matrix.varied = False
    return ideal


def _fix(matrix: CrossbarMatrix) -> None:
    """Drop the weight of a trainable matrix, which keeps its conductances only."""
    if matrix.weight is None:
        return
    with torch.no_grad():
        matrix(matrix.weight.new_zeros(1, matrix.layout.inputs))  # a read programs the weight as it is now
    matrix.weight = None
