"""The arrangement of a converted model's weights on tiles, to keep and to restore."""

from __future__ import annotations

import copy
from collections.abc import Mapping

from torch import nn

from geniex.errors import InputError
from geniex.mapping import Arrangement
from geniex.simulator.exchange import check_converted
from geniex.simulator.layers.crossbar import crossbar_matrices


def arrangements(model: nn.Module) -> dict[str, Arrangement]:
    """The arrangement of every matrix of a converted ``model``, by name."""
    check_converted(model)
    return {name: matrix.layout.arrangement for name, matrix in crossbar_matrices(model).items()}


def arranged(model: nn.Module, places: Mapping[str, Arrangement]) -> nn.Module:
    """A copy of a converted ``model`` whose matrices have the arrangements of ``places``, by name.

    Matrices that are not named stay as they are. ADC ranges that were calibrated by tile or column cannot be moved this
    way: use ``CrossbarMatrix.arrange`` with the inputs that they need.
    """
    check_converted(model)
    copied = copy.deepcopy(model)
    matrices = crossbar_matrices(copied)
    for name, arrangement in places.items():
        if name not in matrices:
            raise InputError("places", repr(name), f"matrices are {', '.join(map(repr, matrices))}")
        if matrices[name].layout.arrangement != arrangement:
            matrices[name].arrange(arrangement)
    return copied
