"""Tiled, bit-sliced products against integer arithmetic, torch, and tile-by-tile circuit solves."""

from __future__ import annotations

import copy

import pytest
import torch

from geniex.cells import LinearCell
from geniex.circuit import Crossbar
from geniex.emulator import CircuitEmulator, IdealEmulator, LinearEmulator
from geniex.errors import ConversionError, InputError
from geniex.mapping import OFFSETS, Architecture, ConductanceWindow
from geniex.simulator import CrossbarMatrix
from geniex.workspace import workspace_limit


@pytest.mark.parametrize("stream_bits", [1, 2, 4])
def test_float32_is_as_exact_as_float64(stream_bits: int) -> None:
    weight, x = torch.randn(20, 150), torch.randn(9, 150)
    arch = Architecture.puma(stream_bits=stream_bits)
    exact = CrossbarMatrix(weight.double(), arch, IdealEmulator())(x.double())
    assert torch.equal(CrossbarMatrix(weight, arch, IdealEmulator())(x), exact.float())


def test_puma_fixed_point_of_known_numbers() -> None:
    """By hand: 0.3 and -0.7 floor to 2457 and -5734 of 2^13; their product is cut to 24 fraction bits."""
    arch = Architecture.puma()
    got = CrossbarMatrix(torch.tensor([[0.3]]), arch, IdealEmulator())(torch.tensor([-0.7]))
    assert got.item() == pytest.approx(-(2457 * 5734 // 4) / 2**24, abs=0)
    two_complement = CrossbarMatrix(torch.tensor([[0.3]]), arch.replace(stream_bits=1), IdealEmulator())
    assert two_complement(torch.tensor([-0.7])).item() == pytest.approx(-(2457 * 5735 // 4) / 2**24, abs=0)


@pytest.mark.parametrize("offset", OFFSETS)
def test_circuit_in_the_loop_equals_tile_by_tile_solves(offset: str) -> None:
    """One-digit weights and inputs, so that each output is one read-out of currents we solve apart."""
    crossbar = Crossbar(5, 7, r_wire=20.0, r_source=300.0)
    arch = Architecture(
        tile=(5, 7), weight_bits=4, weight_frac_bits=0, input_bits=4, input_frac_bits=0, slice_bits=3,
        stream_bits=3, adc_bits=None, accumulator_bits=None, offset=offset,
    )  # fmt: skip
    generator = torch.Generator().manual_seed(0)
    weight = torch.randint(-7, 8, (9, 8), generator=generator).double()
    x = torch.randint(0, 8, (3, 8), generator=generator).double()
    matrix = CrossbarMatrix(weight, arch, CircuitEmulator(crossbar))
    window, step_g, step_v = arch.window, arch.window.step(8), arch.v_max / 7
    cols = 6 if offset == "reference_column" else 7
    expected = torch.zeros(3, 9, dtype=torch.float64)
    for r, rows in enumerate((slice(0, 5), slice(5, 8))):
        volts = torch.zeros(3, 5, dtype=torch.float64)
        volts[:, : rows.stop - rows.start] = x[:, rows] * step_v
        for c in range(-(-9 // cols)):
            outputs = range(c * cols, min(9, (c + 1) * cols))
            currents = []
            for sign in (1, -1):
                codes = torch.zeros(5, 7, dtype=torch.float64)
                for k, o in enumerate(outputs):
                    codes[: rows.stop - rows.start, k] = (sign * weight[o, rows]).clamp(min=0)
                assert torch.allclose(
                    matrix.conductances[r, (1 - sign) // 2, c], window.g_off + codes * step_g, rtol=1e-12
                )
                measured = crossbar.solve(volts, window.g_off + codes * step_g)
                background = window.g_off * volts.sum(-1, keepdim=True)
                ideal = volts @ (window.g_off + codes * step_g)
                removed = {
                    "analog_difference": measured,
                    "reference_column": measured - measured[:, -1:],
                    "ideal_before": (ideal - background) * measured / ideal,
                    "ideal_after": measured - background,
                }[offset]
                currents.append(removed / (step_g * step_v))
            if offset == "analog_difference":
                counts = (currents[0] - currents[1]).round()
            else:
                counts = currents[0].round().clamp(min=0) - currents[1].round().clamp(min=0)
            for k, o in enumerate(outputs):
                expected[:, o] += counts[:, k]
                assert matrix.locate(o, rows.start) == (r, c, 0, (k,))
    assert torch.equal(matrix(x), expected)
    assert not torch.equal(expected, x @ weight.T), "the wires must be felt, or this test says nothing"


def test_zero_wires_and_linear_cells_are_ideal_in_every_offset_scheme() -> None:
    crossbar = Crossbar(8, 9, r_source=0.0, r_sink=0.0, r_wire=0.0, cell=LinearCell())
    weight, x = torch.randn(6, 20).double(), torch.randn(4, 20).double()
    for offset in OFFSETS:
        arch = Architecture(tile=(8, 9), offset=offset, input_frac_bits=12)
        ideal = CrossbarMatrix(weight, arch, IdealEmulator())(x)
        for emulator in (LinearEmulator(crossbar), CircuitEmulator(crossbar)):
            assert torch.equal(CrossbarMatrix(weight, arch, emulator)(x), ideal)


def test_gradient_is_the_linear_response_of_the_tiles() -> None:
    """Straight through the quantisers, the derivative of a linear array's output is its transfer matrix."""
    crossbar = Crossbar(8, 12, r_wire=30.0)
    arch = Architecture(tile=(8, 12), input_frac_bits=12, adc_bits=None, accumulator_bits=None)
    matrix = CrossbarMatrix(torch.randn(5, 14).double(), arch, LinearEmulator(crossbar))
    x = torch.rand(14).double().requires_grad_()
    jacobian = torch.autograd.functional.jacobian(matrix, x.detach())
    effective = matrix.array.effective[:, 0] - matrix.array.effective[:, 1]
    slices = matrix.layout.slices_of(effective.movedim(-2, 0))  # (rows, row_tiles, col_tiles, outputs, slices)
    weights = (slices @ (16.0 ** torch.arange(3, -1, -1).double())).movedim(0, 1).flatten(0, 1).flatten(1)
    weights = weights * arch.current_scale * arch.v_max / 15 * 2.0**-matrix.weight_frac_bits
    # The conductance of one input unit is felt through volts per level.
    assert torch.allclose(jacobian, weights[:14, :5].T, rtol=1e-9)


def test_gradient_through_the_exact_circuit_is_finite_and_near_the_weights() -> None:
    weight = torch.randn(3, 6).double()
    arch = Architecture(tile=(6, 12), input_frac_bits=12)
    x = torch.rand(6).double().requires_grad_()
    matrix = CrossbarMatrix(weight, arch, CircuitEmulator(Crossbar(6, 12)))
    jacobian = torch.autograd.functional.jacobian(matrix, x)
    assert torch.allclose(jacobian, weight, rtol=0.2, atol=0.1)
    assert not torch.allclose(jacobian, weight, rtol=1e-4)


def test_adc_clips_where_it_is_too_narrow() -> None:
    arch = Architecture(tile=(16, 16), weight_frac_bits=12, input_frac_bits=12)
    weight, x = torch.full((1, 16), 7.0), torch.full((16,), 7.0)
    wide, narrow = (
        CrossbarMatrix(weight, arch.replace(adc_bits=bits, adc_range="unit"), IdealEmulator())(x) for bits in (None, 8)
    )
    assert wide.item() == pytest.approx(16 * 49)
    assert narrow.item() < wide.item() / 2


def test_programming_measured_conductances_moves_the_output_and_round_trips() -> None:
    arch = Architecture(tile=(8, 8), input_frac_bits=12)
    matrix, x = CrossbarMatrix(torch.randn(4, 10), arch, IdealEmulator()), torch.rand(10)
    before, exported = matrix(x), matrix.conductances.clone()
    matrix.program(exported * 0.9)
    assert not torch.equal(matrix(x), before)
    clone = CrossbarMatrix(torch.zeros(4, 10), arch.replace(weight_frac_bits=matrix.weight_frac_bits), IdealEmulator())
    clone.load_state_dict(matrix.state_dict())
    assert torch.equal(clone(x), matrix(x))
    matrix.program(exported)
    assert torch.equal(matrix(x), before)
    assert torch.equal(copy.deepcopy(matrix)(x), before)
    with pytest.raises(InputError, match="conductances"):
        matrix.program(exported[:1])


def test_chunks_do_not_change_the_result() -> None:
    matrix = CrossbarMatrix(torch.randn(4, 10), Architecture(tile=(8, 8), input_frac_bits=12), IdealEmulator())
    x = torch.randn(2, 9, 10)
    whole = matrix(x)
    with workspace_limit(1):
        assert torch.equal(matrix(x), whole)
        assert matrix(x[:, :0]).shape == (2, 0, 4)


def test_bad_input_is_named() -> None:
    good, ideal = Architecture(input_frac_bits=12), IdealEmulator()
    with pytest.raises(InputError, match=r"weight: .*finite"):
        CrossbarMatrix(torch.tensor([[float("nan")]]), good, ideal)
    with pytest.raises(InputError, match="weight"):
        CrossbarMatrix(torch.ones(3), good, ideal)
    with pytest.raises(InputError, match=r"input_frac_bits.*calibrat"):
        CrossbarMatrix(torch.ones(3, 3), Architecture(), ideal)
    with pytest.raises(ConversionError, match=r"tile.*\(64, 64\).*\(32, 32\)"):
        CrossbarMatrix(torch.ones(3, 3), good, LinearEmulator(Crossbar(32, 32)))
    with pytest.raises(InputError, match="slices must fit"):
        Architecture(tile=(4, 3))
    with pytest.raises(InputError, match="on_off"):
        ConductanceWindow(1e5, 0.5)
    with pytest.raises(InputError, match="r_on"):
        ConductanceWindow(10e-6, 6.0)
    matrix = CrossbarMatrix(torch.ones(3, 5), good, ideal)
    with pytest.raises(InputError, match="output: got 3"):
        matrix.locate(3, 0)
