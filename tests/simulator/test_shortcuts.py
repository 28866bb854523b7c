"""Shorter ways to a product against reading tile by tile; gradients in the weights."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from geniex.circuit import Crossbar
from geniex.emulator import CircuitEmulator, Emulator, IdealEmulator, LinearEmulator, SurrogateEmulator
from geniex.errors import InputError
from geniex.mapping import OFFSETS, Architecture
from geniex.simulator import CrossbarMatrix
from geniex.variation import NoisyEmulator, ReadNoise

BASE = Architecture(tile=(16, 16), weight_bits=7, input_bits=6, weight_frac_bits=5, input_frac_bits=4, slice_bits=3)


class ReadIdeal(IdealEmulator):
    """Insists on being read."""

    def response(self, array: Any) -> None:
        """None."""


class ReadLinear(LinearEmulator):
    """Insists on being read."""

    def response(self, array: Any) -> None:
        """None."""


def inputs(signed: bool) -> Tensor:
    x = torch.randn(9, 40, generator=torch.Generator().manual_seed(1)).double()
    return x if signed else x.abs()


def work(matrix: CrossbarMatrix) -> int:
    """Floating-point operations of the products that a read of signed inputs takes."""
    with FlopCounterMode(display=False) as counter:
        matrix(inputs(True))
    return counter.get_total_flops()


WEIGHT = torch.randn(11, 40, generator=torch.Generator().manual_seed(2)).double()


@pytest.mark.parametrize("offset", OFFSETS)
@pytest.mark.parametrize("stream_bits", [1, 2])
@pytest.mark.parametrize("adc_bits", [None, 4, 12])
@pytest.mark.parametrize("accumulator", [None, (10, 4), (32, 24)])
def test_ideal_products_are_those_that_are_read(
    offset: str, stream_bits: int, adc_bits: int | None, accumulator: tuple[int, int] | None
) -> None:
    bits, frac_bits = accumulator or (None, 24)
    arch = BASE.replace(
        offset=offset,
        stream_bits=stream_bits,
        adc_bits=adc_bits,
        accumulator_bits=bits,
        accumulator_frac_bits=frac_bits,
    )
    short, read = (CrossbarMatrix(WEIGHT, arch, emulator) for emulator in (IdealEmulator(), ReadIdeal()))
    for signed in (True, False):
        assert torch.equal(short(inputs(signed)), read(inputs(signed)))
    # A count of up to 16 x 7 x 3 clips 4 bits and not 12. Without clipping, all slices and streams are one product.
    assert (work(short) < work(read) / 4) == (adc_bits != 4)


@pytest.mark.parametrize("scheme", ["offset", "twos_complement"])
@pytest.mark.parametrize("offset", ["analog_difference", "reference_column", "ideal_before"])
def test_products_of_one_array_are_those_that_are_read(scheme: str, offset: str) -> None:
    if (scheme, offset) == ("twos_complement", "analog_difference"):
        pytest.skip("there is nothing to take the difference with")
    arch = BASE.replace(weight_scheme=scheme, offset=offset, input_scheme="passes", weight_scale="channel")
    short, read = (CrossbarMatrix(WEIGHT, arch, emulator) for emulator in (IdealEmulator(), ReadIdeal()))
    assert torch.equal(short(inputs(True)), read(inputs(True)))
    assert work(short) < work(read) / 4


@pytest.mark.parametrize("offset", ["analog_difference", "reference_column", "ideal_after"])
def test_linear_tiles_without_an_adc_are_one_product(offset: str) -> None:
    crossbar = Crossbar(16, 16, r_wire=20.0)
    arch = BASE.replace(offset=offset, adc_bits=None, adc_rounding="none", accumulator_bits=None)
    short, read = (CrossbarMatrix(WEIGHT, arch, kind(crossbar)) for kind in (LinearEmulator, ReadLinear))
    assert torch.allclose(short(inputs(True)), read(inputs(True)), rtol=1e-9, atol=1e-9)
    assert work(short) < work(read) / 4
    rounded = CrossbarMatrix(WEIGHT, arch.replace(adc_bits=10, adc_rounding="nearest"), LinearEmulator(crossbar))
    again = CrossbarMatrix(WEIGHT, rounded.architecture, ReadLinear(crossbar))
    assert torch.allclose(rounded(inputs(True)), again(inputs(True)), atol=1e-9)


def test_measured_conductances_are_not_taken_for_levels() -> None:
    arch = BASE.replace(accumulator_bits=None)
    short, read = (CrossbarMatrix(WEIGHT, arch, emulator) for emulator in (IdealEmulator(), ReadIdeal()))
    measured = short.conductances * (1 + 0.05 * torch.rand_like(short.conductances))
    for matrix in (short, read):
        matrix.program(measured)
    assert torch.equal(short(inputs(True)), read(inputs(True)))


class Tracking(LinearEmulator):
    """Remembers how many rows of tiles each read took."""

    read_tiles: list[int]

    def __init__(self, crossbar: Crossbar) -> None:
        super().__init__(crossbar)
        self.read_tiles = []

    def response(self, array: Any) -> None:
        """None: it wants to be read."""

    def read(self, array: Any, voltages: Tensor) -> Tensor:
        """Currents."""
        self.read_tiles.append(array.effective.shape[0])
        return super().read(array, voltages)


def test_tiles_without_weights_and_tiles_without_inputs_are_not_read() -> None:
    weight, x = WEIGHT.clone(), inputs(True)
    weight[:, 16:32] = 0  # the second of three row tiles
    emulator = Tracking(Crossbar(16, 16, r_wire=10.0))
    for offset in OFFSETS:
        matrix = CrossbarMatrix(weight, BASE.replace(offset=offset), emulator)
        whole = CrossbarMatrix(WEIGHT, matrix.architecture, emulator)
        full = whole(x)
        emulator.read_tiles = []
        got = matrix(x)
        assert emulator.read_tiles == [1, 1]
        # What the second row tile adds is what is missing, and nothing where its inputs are 0.
        without = x.clone()
        without[:, 16:32] = 0
        emulator.read_tiles = []
        assert torch.equal(whole(without), got)
        assert emulator.read_tiles == [1, 1]
        assert not torch.equal(full, got)


def test_noise_is_read_where_nothing_else_is() -> None:
    """Tiles without weights and word lines without drive still have what their read-out adds."""
    noisy = NoisyEmulator(IdealEmulator(), ReadNoise(current=2e-6))
    matrix = CrossbarMatrix(torch.zeros(3, 40), BASE, noisy)
    assert matrix(torch.ones(5, 40)).abs().max() > 0
    driven = CrossbarMatrix(WEIGHT, BASE, noisy)
    assert driven(torch.zeros(5, 40).double()).abs().max() > 0


def test_the_graph_goes_on_where_nothing_is_read() -> None:
    emulator = CircuitEmulator(Crossbar(16, 16))
    matrix = CrossbarMatrix(torch.zeros(3, 40), BASE, emulator)
    for count in (4, 0):
        x = torch.rand(count, 40, requires_grad=True)
        matrix(x).sum().backward()
        assert x.grad.shape == x.shape


def test_moving_keeps_products_exact() -> None:
    matrix = CrossbarMatrix(WEIGHT.float(), Architecture(tile=(16, 16), input_frac_bits=13), IdealEmulator())
    x = inputs(True)
    exact = matrix(x)
    assert torch.equal(matrix.half().float()(x), exact)


FINE = Architecture(
    tile=(8, 12), weight_bits=13, weight_frac_bits=12, slice_bits=12, input_bits=12, input_frac_bits=12, stream_bits=12,
    adc_bits=None, adc_rounding="none", accumulator_bits=None,
)  # fmt: skip
"""So fine that the output is as good as a smooth function of the weights, in one slice and one stream."""


@pytest.mark.parametrize(
    "emulator",
    [
        LinearEmulator(Crossbar(8, 12, r_wire=10.0)),
        SurrogateEmulator("physics", Crossbar(8, 12, r_wire=10.0)),
        CircuitEmulator(Crossbar(8, 12, r_wire=10.0), tol=1e-10),
    ],
    ids=["linear", "physics", "circuit"],
)
def test_weight_gradients_are_slopes_of_the_emulated_output(emulator: Emulator) -> None:
    generator = torch.Generator().manual_seed(3)
    weight = 0.8 * torch.rand(5, 11, dtype=torch.float64, generator=generator) + 0.1
    x = torch.rand(3, 11, dtype=torch.float64, generator=generator)
    direction = torch.randn(5, 11, dtype=torch.float64, generator=generator)
    matrix = CrossbarMatrix(weight, FINE, emulator, trainable=True)
    (gradient,) = torch.autograd.grad(matrix(x).square().sum(), matrix.weight)
    step, ends = 0.02, []
    for sign in (1, -1):
        with torch.no_grad():
            matrix.weight.copy_(weight + sign * step * direction)
            ends.append(float(matrix(x).square().sum()))
    slope = (ends[0] - ends[1]) / (2 * step)
    # Steps of 2^-12 in the weights against one of 0.02.
    assert float((gradient * direction).sum()) == pytest.approx(slope, rel=5e-3)
    plain = 2 * (x @ weight.T).T @ x
    assert float((plain * direction).sum()) != pytest.approx(slope, rel=2e-2), "the wires must be felt"


def test_slices_on_neighbouring_bit_lines_do_not_amplify_the_weights_gradient() -> None:
    """Four slices: what the last one does to the first through the wires weighs 4096 times its own part."""
    weight, x = 0.3 * torch.randn(5, 20).double(), torch.rand(7, 20).double()
    arch = Architecture(tile=(16, 16))
    matrix = CrossbarMatrix(weight, arch, LinearEmulator(Crossbar(16, 16, r_wire=5.0)), inputs=1.0, trainable=True)
    (gradient,) = torch.autograd.grad(matrix(x).sum(), matrix.weight)
    assert torch.allclose(gradient, x.sum(0).expand_as(gradient), rtol=0.2)


def test_writes_to_data_are_seen_and_conductances_of_a_trainable_matrix_are_its_own() -> None:
    matrix = CrossbarMatrix(WEIGHT, BASE, IdealEmulator(), trainable=True)
    with torch.no_grad():
        before = matrix(inputs(True))
        matrix.weight.data.mul_(-1)
        assert torch.equal(matrix(inputs(True)), -before)
    with pytest.raises(InputError, match="a trainable matrix programs its own weight"):
        matrix.program(matrix.conductances)


def test_a_changed_weight_is_programmed_again() -> None:
    matrix = CrossbarMatrix(WEIGHT, BASE.replace(offset="ideal_before"), IdealEmulator(), trainable=True)
    with torch.no_grad():
        before = matrix(inputs(True))
        matrix.weight.mul_(-1)
        assert torch.equal(matrix(inputs(True)), -before)
    fresh = CrossbarMatrix(-WEIGHT, matrix.architecture, IdealEmulator())
    assert torch.equal(matrix.conductances, fresh.conductances)


def test_counts_below_the_lowest_code_are_read_too() -> None:
    arch = BASE.replace(adc_bits=4)
    short, read = (CrossbarMatrix(-WEIGHT.abs(), arch, emulator) for emulator in (IdealEmulator(), ReadIdeal()))
    assert torch.equal(short(inputs(False)), read(inputs(False)))
