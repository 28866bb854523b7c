"""Arrangements of a whole model, taken off one and put onto another."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from geniex.circuit import Crossbar
from geniex.emulator import IdealEmulator, LinearEmulator
from geniex.errors import InputError
from geniex.mapping import Architecture, Arrangement
from geniex.simulator import arrange, convert, read_arrangements

ARCH = Architecture(tile=(8, 8), weight_bits=6, input_bits=6, slice_bits=5, stream_bits=5)
FIRST, SECOND = "0.matrices.0", "2.matrices.0"
PLACES = {
    FIRST: Arrangement(torch.tensor([2, 0, 1, 4, 3])),
    SECOND: Arrangement(None, torch.tensor([4, 3, 2, 1, 0])),
}


@pytest.fixture
def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(9, 5), nn.ReLU(), nn.Linear(5, 3)).eval()


@pytest.fixture
def x() -> torch.Tensor:
    return torch.rand(7, 9, generator=torch.Generator().manual_seed(1))


def test_what_was_put_on_is_what_is_taken_off(network: nn.Module, x: torch.Tensor) -> None:
    base = convert(network, ARCH, IdealEmulator(), calibration=x)
    natural = read_arrangements(base)
    moved = arrange(base, PLACES)
    assert read_arrangements(moved) == PLACES
    assert read_arrangements(base) == natural == {FIRST: Arrangement(), SECOND: Arrangement()}
    assert torch.equal(moved(x), base(x))
    assert read_arrangements(arrange(moved, natural)) == natural


def test_arrays_move_with_their_weights(network: nn.Module, x: torch.Tensor) -> None:
    emulator = LinearEmulator(Crossbar(8, 8, r_wire=20.0))
    base = convert(network, ARCH, emulator, calibration=x)
    moved = arrange(base, PLACES)
    assert not torch.equal(moved(x), base(x))
    back = arrange(moved, read_arrangements(base))
    assert torch.equal(back(x), base(x))


def test_matrices_that_are_not_named_stay(network: nn.Module, x: torch.Tensor) -> None:
    base = convert(network, ARCH, IdealEmulator(), calibration=x)
    assert read_arrangements(arrange(base, {SECOND: PLACES[SECOND]})) == {
        FIRST: Arrangement(),
        SECOND: PLACES[SECOND],
    }


def test_trainable_models_can_be_arranged(network: nn.Module, x: torch.Tensor) -> None:
    base = convert(network, ARCH, IdealEmulator(), calibration=x, trainable=True)
    moved = arrange(base, PLACES)
    assert torch.equal(moved(x), base(x))
    moved(x).sum().backward()
    base(x).sum().backward()
    assert torch.allclose(moved[0].matrices[0].weight.grad, base[0].matrices[0].weight.grad, atol=1e-6)


def test_unknown_names_and_unconverted_models_are_told(network: nn.Module, x: torch.Tensor) -> None:
    base = convert(network, ARCH, IdealEmulator(), calibration=x)
    with pytest.raises(InputError, match=r"places: got '1'; matrices are '0\.matrices\.0', '2\.matrices\.0'"):
        arrange(base, {"1": Arrangement()})
    for call in (read_arrangements, lambda model: arrange(model, {})):
        with pytest.raises(InputError, match="no layer on crossbars"):
            call(network)
