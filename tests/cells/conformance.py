"""What every cell must obey: subclass ``CellConformance`` and set ``cell``."""

import json
import math

import pytest
import torch
from nodal import nodal_currents
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from geniex.cells import Cell
from geniex.circuit import Crossbar
from geniex.circuit.spice import ngspice_version
from geniex.config import Config

MICRO = 1e-6
"""gradcheck's steps and tolerances suit numbers of order one: conductances in uS and currents in uA are."""


class CellConformance:
    """The laws of ``geniex.cells.Cell``; voltages up to ``v_max`` volt, conductances ``g_us`` in microsiemens."""

    cell: Cell
    v_max = 1.0
    g_us = torch.tensor([0.5, 1.7, 10.0, 100.0], dtype=torch.float64)
    kink = 1e-8
    """Relative error of a central difference of 1 uV; where the second derivative jumps it is that step's."""
    fake_device = "cuda"
    """Autograd's derivative of a fake tensor needs a real device: there it is "cpu"."""

    @pytest.fixture
    def u(self) -> Tensor:
        return torch.linspace(-self.v_max, self.v_max, 41, dtype=torch.float64)[:, None]

    @pytest.fixture
    def g(self) -> Tensor:
        return self.g_us * MICRO

    def test_passive(self, u: Tensor, g: Tensor) -> None:
        current = self.cell.current(u, g)
        assert not self.cell.current(torch.zeros(1, dtype=torch.float64), g).any()
        assert (current * u)[u[:, 0] != 0].gt(0).all()

    def test_monotone(self, u: Tensor, g: Tensor) -> None:
        assert self.cell.current(u, g).diff(dim=0).gt(0).all()
        assert self.cell.derivative(u, g).gt(0).all()

    def test_derivative_is_autograds(self, u: Tensor, g: Tensor) -> None:
        expected = Cell.derivative(self.cell, u, g)
        torch.testing.assert_close(self.cell.derivative(u, g), expected, rtol=1e-12, atol=0)

    def test_derivatives_match_finite_differences(self, u: Tensor, g: Tensor) -> None:
        ends = u[::8].clone().requires_grad_(), self.g_us.clone().requires_grad_()
        assert torch.autograd.gradcheck(lambda u, g: self.cell.current(u, g * MICRO) / MICRO, ends)
        step = 1e-6
        difference = (self.cell.current(u + step, g) - self.cell.current(u - step, g)) / (2 * step)
        torch.testing.assert_close(self.cell.derivative(u, g), difference, rtol=self.kink, atol=0)

    def test_both_at_once_are_the_same(self, u: Tensor, g: Tensor) -> None:
        current, slope = self.cell.current_and_derivative(u, g)
        torch.testing.assert_close(current, self.cell.current(u, g), rtol=1e-14, atol=0)
        torch.testing.assert_close(slope, self.cell.derivative(u, g), rtol=1e-14, atol=0)

    def test_small_signal_is_the_slope_at_zero(self, g: Tensor) -> None:
        zero, tiny = torch.zeros((), dtype=torch.float64), torch.tensor(1e-9, dtype=torch.float64)
        torch.testing.assert_close(self.cell.derivative(zero, g), self.cell.small_signal(g), rtol=1e-13, atol=0)
        torch.testing.assert_close(self.cell.current(tiny, g) / tiny, self.cell.small_signal(g), rtol=1e-7, atol=0)

    def test_reference_voltage_says_what_conductance_means(self, g: Tensor) -> None:
        volt = getattr(self.cell, "reference_voltage", None)
        if volt is not None:
            at = torch.tensor(volt, dtype=torch.float64)
            torch.testing.assert_close(self.cell.current(at, g), g * volt, rtol=1e-12, atol=0)

    def test_zero_conductance_is_open(self, u: Tensor) -> None:
        zero = torch.zeros(1, dtype=torch.float64)
        assert not self.cell.current(u, zero).any()
        assert not self.cell.derivative(u, zero).any()
        assert not self.cell.small_signal(zero).any()

    def test_linear_only_if_it_says_so(self, u: Tensor, g: Tensor) -> None:
        ohmic = torch.allclose(self.cell.current(u, g), self.cell.small_signal(g) * u, rtol=1e-12, atol=0)
        assert self.cell.is_linear == ohmic

    def test_scales_with_conductance_only_if_it_says_so(self, u: Tensor, g: Tensor) -> None:
        if self.cell.scales_with_conductance:
            unit = g[0] * self.cell.current(u, g) / g
            torch.testing.assert_close(unit, self.cell.current(u, g[0]).expand_as(unit), rtol=1e-12, atol=0)

    @pytest.mark.parametrize(("shape_u", "shape_g"), [((), (2, 3)), ((2, 3), ()), ((4, 1, 3), (2, 1)), ((3,), (3,))])
    def test_shapes_broadcast_and_dtype_stays(self, shape_u: tuple[int, ...], shape_g: tuple[int, ...]) -> None:
        for dtype in (torch.float32, torch.float64):
            u, g = torch.full(shape_u, 0.1, dtype=dtype), torch.full(shape_g, 1e-5, dtype=dtype)
            shape = torch.broadcast_shapes(shape_u, shape_g)
            both = self.cell.current_and_derivative(u, g)
            for out in (self.cell.current(u, g), self.cell.derivative(u, g), Cell.derivative(self.cell, u, g), *both):
                assert (out.shape, out.dtype) == (shape, dtype)
            assert (self.cell.small_signal(g).shape, self.cell.small_signal(g).dtype) == (shape_g, dtype)

    def test_single_precision_is_as_good_as_its_numbers(self, u: Tensor, g: Tensor) -> None:
        for single, double in zip(
            self.cell.current_and_derivative(u.float(), g.float()),
            self.cell.current_and_derivative(u.float().double(), g.float().double()),
            strict=True,
        ):
            torch.testing.assert_close(single.double(), double, rtol=2e-5, atol=0)

    def test_never_waits_for_the_device(self) -> None:
        with FakeTensorMode():
            u = torch.empty(7, 1, 5, device=self.fake_device, requires_grad=True)
            g = torch.empty(2, 5, device=self.fake_device, requires_grad=True)
            outputs = [self.cell.current(u, g), *self.cell.current_and_derivative(u, g), self.cell.small_signal(g)]
            assert {(out.device.type, out.dtype) for out in outputs} == {(self.fake_device, torch.float32)}
            assert outputs[0].requires_grad

    def test_survives_json_and_hashes(self) -> None:
        again = Config.from_dict(json.loads(json.dumps(self.cell.to_dict())))
        assert again == self.cell
        assert hash(again) == hash(self.cell)

    @pytest.mark.slow
    @pytest.mark.ngspice
    def test_spice_card_is_the_same_cell(self, g: Tensor) -> None:
        if ngspice_version() is None:
            pytest.skip("PySpice or libngspice is missing")
        xbar = Crossbar(1, 1, r_source=0.0, r_sink=0.0, r_wire=0.0, cell=self.cell)
        u = torch.tensor([-1.0, -0.3, 0.01, 0.7, 1.0], dtype=torch.float64)[:, None] * self.v_max
        g = (math.pi / 3 * g)[:, None, None, None]
        expected = self.cell.current(u, g[..., 0])
        torch.testing.assert_close(xbar.solve(u, g, method="ngspice"), expected, rtol=1e-11, atol=0)
        # Behind 1300 Ohm, Kirchhoff's law: what the resistors leave of the drive is the cell's voltage.
        loaded = Crossbar(1, 1, r_source=900.0, r_sink=400.0, cell=self.cell).solve(u, g, method="ngspice")
        across = u - 1300 * loaded
        torch.testing.assert_close(loaded, self.cell.current(across, g[..., 0]), rtol=1e-9, atol=0)

    @pytest.fixture
    def array(self, generator: torch.Generator) -> tuple[Crossbar, Tensor, Tensor]:
        """6 x 5 cells, one of them open, with drives of both signs."""
        xbar = Crossbar(6, 5, r_source=300.0, r_sink=150.0, r_wire_row=9.0, r_wire_col=4.0, cell=self.cell)
        v = self.v_max * (torch.rand(2, 6, dtype=torch.float64, generator=generator) - 0.5)
        low, high = self.g_us.min() * MICRO, self.g_us.max() * MICRO
        g = low + (high - low) * torch.rand(6, 5, dtype=torch.float64, generator=generator)
        g[2, 3] = 0
        return xbar, v, g

    def test_in_an_array(self, array: tuple[Crossbar, Tensor, Tensor]) -> None:
        xbar, v, g = array
        torch.testing.assert_close(xbar.solve(v, g, tol=1e-12), nodal_currents(xbar, v, g), rtol=1e-9, atol=1e-18)

    @pytest.mark.slow
    @pytest.mark.ngspice
    def test_in_an_array_in_ngspice(self, array: tuple[Crossbar, Tensor, Tensor]) -> None:
        if ngspice_version() is None:
            pytest.skip("PySpice or libngspice is missing")
        xbar, v, g = array
        expected = nodal_currents(xbar, v, g)
        # A column current is a sum that cancels: its errors are those of the largest.
        torch.testing.assert_close(
            xbar.solve(v, g, method="ngspice"), expected, rtol=1e-9, atol=1e-10 * expected.abs().max().item()
        )
