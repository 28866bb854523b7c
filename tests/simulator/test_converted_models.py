"""What users do to a converted model: copy, pickle, save, load, cast, and feed it odd batches."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from geniex.circuit import Crossbar
from geniex.emulator import IdealEmulator, LinearEmulator, SurrogateEmulator
from geniex.errors import InputError
from geniex.mapping import OFFSETS, Architecture, ConductanceWindow
from geniex.simulator import CrossbarMatrix, convert
from geniex.surrogate import GeniexMLP
from geniex.workspace import workspace_limit

CROSSBAR = Crossbar(16, 16, r_wire=20.0)
ARCH = Architecture(tile=(16, 16), weight_bits=8, input_bits=8)


def network(scale: float = 1.0) -> nn.Module:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 10)).eval()
    for parameter in model.parameters():
        parameter.data *= scale
    return model


@pytest.fixture
def images() -> Tensor:
    return torch.rand(3, 1, 8, 8, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def converted(images: Tensor) -> nn.Module:
    mlp = GeniexMLP(CROSSBAR, ConductanceWindow(100e3, 6.0), 0.25, hidden=8, r_min=0.9, r_max=1.3)
    return convert(network(), ARCH, SurrogateEmulator(mlp, CROSSBAR), calibration=images)


def test_copies_and_pickles_compute_the_same(converted: nn.Module, images: Tensor) -> None:
    for other in copy.deepcopy(converted), pickle.loads(pickle.dumps(converted)):
        assert torch.equal(other(images), converted(images))
        assert other.conversion == converted.conversion


def test_saved_state_brings_its_binary_points(images: Tensor) -> None:
    """Weights and inputs of another magnitude have other fraction bits: the levels alone say nothing."""
    emulator = LinearEmulator(CROSSBAR)
    saved = convert(network(), ARCH, emulator, calibration=images)
    other = convert(network(scale=5.0), ARCH, emulator, calibration=3 * images)
    assert other[0].matrix.weight_frac_bits != saved[0].matrix.weight_frac_bits
    assert other[0].matrix.input_frac_bits != saved[0].matrix.input_frac_bits
    other.load_state_dict(saved.state_dict())
    assert torch.equal(other(images), saved(images))


def test_gradients_reach_the_inputs_again_and_again(converted: nn.Module, images: Tensor) -> None:
    """Also through a surrogate that is still trainable: what is programmed is a constant, no graph hangs on it."""
    assert not converted[0].matrix.array.hidden.requires_grad
    for _ in range(2):
        images.grad = None
        converted(images.requires_grad_()).sum().backward()
        assert images.grad.isfinite().all()
        assert images.grad.abs().max() > 0


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_models_keep_their_physics_in_single(
    converted: nn.Module, images: Tensor, dtype: torch.dtype
) -> None:
    images = images.to(dtype).float()
    exact = converted(images)
    half = copy.deepcopy(converted).to(dtype)
    assert half[0].matrix.conductances.dtype == half[0].matrix.array.hidden.dtype == torch.float32
    # Activations between the layers are rounded to 8 bits, biases too.
    assert torch.allclose(half(images.to(dtype)).float(), exact, atol=0.05)
    with torch.autocast("cpu", dtype=dtype):
        assert torch.equal(converted(images), exact)
    made = convert(network().to(dtype), ARCH, IdealEmulator(), calibration=images.to(dtype))
    assert made[0].matrix.conductances.dtype == torch.float32
    assert made(images.to(dtype)).dtype == dtype


def test_moving_a_matrix_keeps_one_copy_of_its_conductances() -> None:
    moved = CrossbarMatrix(torch.randn(4, 20), ARCH, IdealEmulator(), inputs=1.0).double()
    assert moved.array.conductances.dtype == torch.float64
    assert moved.array.conductances.data_ptr() == moved.conductances.data_ptr()


def test_an_empty_batch_gives_an_empty_result(converted: nn.Module, images: Tensor) -> None:
    assert converted(images[:0]).shape == (0, 10)


def test_inputs_of_a_wrong_shape_or_kind_are_named(converted: nn.Module) -> None:
    linear = converted[3]
    # 2 x 72 numbers would fill one vector of 144.
    for wrong in torch.rand(2, 72), torch.rand(()), torch.ones(2, 144, dtype=torch.int64):
        with pytest.raises(InputError, match=r"\(\.\.\., 144\)"):
            linear(wrong)
    with pytest.raises(InputError, match=r"\(\.\.\., 9\)"):
        converted(torch.rand(1, 2, 8, 8))


@pytest.mark.parametrize("bad", [torch.full((1, 1, 8, 8), torch.nan), ["images"], []])
def test_useless_calibration_is_named(bad: Any) -> None:
    with pytest.raises(InputError, match="calibration"):
        convert(network(), ARCH, IdealEmulator(), calibration=bad)


def test_no_input_gives_the_bias(converted: nn.Module) -> None:
    linear = converted[3]
    assert torch.equal(linear(torch.zeros(2, 144)), linear.bias.expand(2, 10))


class Watched(IdealEmulator):
    """Remembers how often it was read, and the most currents that one read gave."""

    most = 0
    reads = 0

    def response(self, array: Any) -> None:
        """None: it wants to be read."""

    def read(self, array: Any, voltages: Tensor) -> Tensor:
        currents = super().read(array, voltages)
        self.most, self.reads = max(self.most, currents.numel()), self.reads + 1
        return currents


def test_what_carries_no_current_is_not_read() -> None:
    """One pass where no input is negative, and no stream that is zero for all inputs."""
    emulator = Watched()
    one = CrossbarMatrix(torch.randn(2, 16), ARCH, emulator, inputs=1.0)
    currents_per_stream = 2 * 16
    for x, streams in ((0.9, 2), (-0.9, 2), (2 / 128, 1), (0.0, 0)):
        emulator.most = 0
        one(torch.full((1, 16), x))
        assert emulator.most == streams * currents_per_stream, x
    emulator.most = 0
    one(torch.tensor([[0.9, -0.9] * 8]))
    assert emulator.most == 4 * currents_per_stream


@pytest.mark.parametrize("offset", OFFSETS)
@pytest.mark.parametrize("budget", [1, 200_000, 2_000_000])
def test_memory_is_bounded_and_the_result_does_not_depend_on_it(offset: str, budget: int) -> None:
    emulator, arch = Watched(), ARCH.replace(offset=offset)
    one = CrossbarMatrix(torch.randn(70, 90), arch, emulator, inputs=3.0)
    x = torch.randn(50, 90)
    whole = one(x)
    assert emulator.reads == 1
    emulator.most = emulator.reads = 0
    with workspace_limit(budget):
        assert torch.equal(one(x), whole)
    assert emulator.reads > 1
    # One input on one row of tiles is the least that is done at once.
    least = arch.passes * arch.streams * 2 * one.layout.col_tiles * 16
    assert emulator.most <= max(least, budget / 4)
