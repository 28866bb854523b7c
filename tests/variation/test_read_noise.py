"""Noise of reads: the emulator's laws, its moments, its seed, no look at values."""

from __future__ import annotations

import copy

import pytest
import torch
from scipy import stats
from torch._subclasses.fake_tensor import FakeTensorMode

from geniex.circuit import Crossbar
from geniex.emulator import IdealEmulator, LinearEmulator
from geniex.errors import ConversionError, InputError
from geniex.mapping import Architecture
from geniex.variation import NoisyEmulator, ReadNoise

NOISE = ReadNoise(relative=0.1, current=5e-7)
"""The sensing's noise is about as large as that of the cells, so that their sum tells how they are added."""


@pytest.fixture
def g(generator: torch.Generator) -> torch.Tensor:
    return 1e-5 * torch.rand(3, 6, 4, generator=generator, dtype=torch.float64)


def test_noise_is_what_noisy_cells_add_up_to(g: torch.Tensor, generator: torch.Generator) -> None:
    """Against conductances drawn one by one: sum_i V_i G_ij (1 + 0.1 z_ij), and the sensing's noise."""
    v = torch.rand(6, generator=generator, dtype=torch.float64)
    noisy = NoisyEmulator(IdealEmulator(), NOISE)
    array = noisy.program(g)
    reads = noisy.read(array, v.expand(20000, 1, 6))
    cells = torch.randn(20000, 3, 6, 4, generator=generator, dtype=torch.float64)
    drawn = torch.einsum("i,ktij->ktj", v, g * (1 + 0.1 * cells))
    drawn = drawn + NOISE.current * torch.randn(drawn.shape, generator=generator, dtype=torch.float64)
    for tile in range(3):
        for col in range(4):
            assert stats.ks_2samp(reads[:, tile, col].numpy(), drawn[:, tile, col].numpy()).pvalue > 1e-4
    residue = (reads - reads.mean(0)).flatten(1)
    assert torch.corrcoef(residue.T).fill_diagonal_(0).abs().max() < 0.04  # columns are independent, 20 000 reads


def test_no_voltage_has_the_sensings_noise_alone(g: torch.Tensor) -> None:
    silent = torch.zeros(1000, 1, 6, dtype=torch.float64)
    cells = NoisyEmulator(IdealEmulator(), ReadNoise(relative=0.1))
    assert torch.all(cells.read(cells.program(g), silent) == 0)
    sensing = NoisyEmulator(IdealEmulator(), NOISE)
    currents = sensing.read(sensing.program(g), silent)
    assert stats.kstest(currents.flatten().numpy(), stats.norm(0, NOISE.current).cdf).pvalue > 1e-4


def test_off_is_the_emulator_itself(g: torch.Tensor) -> None:
    plain, off = IdealEmulator(), NoisyEmulator(IdealEmulator(), ReadNoise())
    v = torch.rand(6, dtype=torch.float64)
    assert torch.equal(off.read(off.program(g), v), plain.read(plain.program(g), v))
    assert off.response(off.program(g)) is g
    noisy = NoisyEmulator(IdealEmulator(), NOISE)
    assert noisy.response(noisy.program(g)) is None


def test_reads_differ_and_seeds_repeat(g: torch.Tensor) -> None:
    v = torch.rand(6, dtype=torch.float64)
    noisy = NoisyEmulator(IdealEmulator(), NOISE, seed=3)
    array = noisy.program(g)
    first, second = noisy.read(array, v), noisy.read(array, v)
    assert not torch.equal(first, second)
    went_on = copy.deepcopy(noisy)
    assert torch.equal(went_on.read(array, v), noisy.read(array, v))
    noisy.restart()
    assert torch.equal(noisy.read(array, v), first)
    other = NoisyEmulator(IdealEmulator(), NOISE, seed=4)
    assert not torch.equal(other.read(array, v), first)


def test_gradients_are_the_emulators(g: torch.Tensor) -> None:
    v = torch.zeros(6, dtype=torch.float64, requires_grad=True)
    # Where the cells' noise is 0, its own derivative would be infinite.
    noisy = NoisyEmulator(IdealEmulator(), ReadNoise(relative=0.1))
    noisy.read(noisy.program(g[0]), v).sum().backward()
    assert v.grad is not None
    assert torch.equal(v.grad, g[0].sum(-1))


def test_reads_without_a_look_at_values(g: torch.Tensor) -> None:
    """Anything that waits for a number fails on tensors that have none."""
    noisy = NoisyEmulator(LinearEmulator(Crossbar(6, 4)), NOISE)
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        array = noisy.program(mode.from_tensor(g))
        currents = noisy.read(array, mode.from_tensor(torch.rand(5, 1, 6, dtype=torch.float64)))
    assert currents.shape == (5, 3, 4)


def test_bad_values_are_named() -> None:
    with pytest.raises(InputError, match="relative"):
        ReadNoise(relative=-1.0)
    with pytest.raises(InputError, match="noise"):
        NoisyEmulator(IdealEmulator(), 0.1)  # type: ignore[arg-type]
    with pytest.raises(ConversionError, match="tile"):
        NoisyEmulator(LinearEmulator(Crossbar(6, 4)), NOISE).bind(Architecture(tile=(8, 8)))
