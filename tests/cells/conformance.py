"""What every cell must obey: subclass ``CellConformance`` and set ``cell``."""

import json
import math

import pytest
import torch
from torch import Tensor

from geniex.cells import Cell
from geniex.circuit import Crossbar
from geniex.circuit.spice import ngspice_version
from geniex.config import Config

G_US = torch.tensor([0.5, 1.7, 10.0, 100.0], dtype=torch.float64)
"""Conductances in microsiemens."""


class CellConformance:
    """The laws of ``geniex.cells.Cell``; voltages up to ``v_max`` volt."""

    cell: Cell
    v_max = 1.0

    @pytest.fixture
    def u(self) -> Tensor:
        return torch.linspace(-self.v_max, self.v_max, 41, dtype=torch.float64)[:, None]

    def test_passive(self, u: Tensor) -> None:
        current = self.cell.current(u, G_US * 1e-6)
        assert not self.cell.current(torch.zeros(1, dtype=torch.float64), G_US * 1e-6).any()
        assert (current * u)[u[:, 0] != 0].gt(0).all()

    def test_monotone(self, u: Tensor) -> None:
        assert self.cell.current(u, G_US * 1e-6).diff(dim=0).gt(0).all()
        assert self.cell.derivative(u, G_US * 1e-6).gt(0).all()

    def test_derivative_is_autograds(self, u: Tensor) -> None:
        expected = Cell.derivative(self.cell, u, G_US * 1e-6)
        torch.testing.assert_close(self.cell.derivative(u, G_US * 1e-6), expected, rtol=1e-12, atol=0)

    def test_derivatives_match_finite_differences(self, u: Tensor) -> None:
        # In microampere, so that gradcheck's absolute step and tolerance suit.
        u, g = u.clone().requires_grad_(), G_US.clone().requires_grad_()
        assert torch.autograd.gradcheck(lambda u, g: self.cell.current(u, g), (u, g))
        step = 1e-6
        difference = (self.cell.current(u + step, g) - self.cell.current(u - step, g)) / (2 * step)
        torch.testing.assert_close(self.cell.derivative(u, g), difference, rtol=1e-8, atol=0)

    def test_both_at_once_are_the_same(self, u: Tensor) -> None:
        current, slope = self.cell.current_and_derivative(u, G_US * 1e-6)
        torch.testing.assert_close(current, self.cell.current(u, G_US * 1e-6), rtol=1e-14, atol=0)
        torch.testing.assert_close(slope, self.cell.derivative(u, G_US * 1e-6), rtol=1e-14, atol=0)

    def test_conductance_is_the_small_signal_one(self) -> None:
        tiny = torch.tensor(1e-9, dtype=torch.float64)
        torch.testing.assert_close(self.cell.current(tiny, G_US) / tiny, G_US, rtol=1e-9, atol=0)
        torch.testing.assert_close(self.cell.derivative(0 * tiny, G_US), G_US, rtol=1e-14, atol=0)

    def test_zero_conductance_is_open(self, u: Tensor) -> None:
        zero = torch.zeros(1, dtype=torch.float64)
        assert not self.cell.current(u, zero).any()
        assert not self.cell.derivative(u, zero).any()

    def test_linear_only_if_it_says_so(self, u: Tensor) -> None:
        ohmic = torch.allclose(self.cell.current(u, G_US), G_US * u, rtol=1e-12, atol=0)
        assert self.cell.is_linear == ohmic

    @pytest.mark.parametrize(("shape_u", "shape_g"), [((), (2, 3)), ((2, 3), ()), ((4, 1, 3), (2, 1)), ((3,), (3,))])
    def test_shapes_broadcast_and_dtype_stays(self, shape_u: tuple[int, ...], shape_g: tuple[int, ...]) -> None:
        for dtype in (torch.float32, torch.float64):
            u, g = torch.full(shape_u, 0.1, dtype=dtype), torch.full(shape_g, 1e-5, dtype=dtype)
            shape = torch.broadcast_shapes(shape_u, shape_g)
            both = self.cell.current_and_derivative(u, g)
            for out in (self.cell.current(u, g), self.cell.derivative(u, g), Cell.derivative(self.cell, u, g), *both):
                assert (out.shape, out.dtype) == (shape, dtype)

    def test_survives_json(self) -> None:
        assert Config.from_dict(json.loads(json.dumps(self.cell.to_dict()))) == self.cell

    @pytest.mark.ngspice
    def test_spice_card_is_the_same_cell(self) -> None:
        if ngspice_version() is None:
            pytest.skip("PySpice or libngspice is missing")
        xbar = Crossbar(1, 1, r_source=0.0, r_sink=0.0, r_wire=0.0, cell=self.cell)
        u = torch.tensor([-1.0, -0.3, 0.01, 0.7, 1.0], dtype=torch.float64)[:, None] * self.v_max
        g = (math.pi / 3 * G_US * 1e-6)[:, None, None, None]
        expected = self.cell.current(u, g[..., 0])
        torch.testing.assert_close(xbar.solve(u, g, method="ngspice"), expected, rtol=1e-12, atol=0)
        # Behind 1300 Ohm, Kirchhoff's law: what the resistors leave of the drive is the cell's voltage.
        loaded = Crossbar(1, 1, r_source=900.0, r_sink=400.0, cell=self.cell).solve(u, g, method="ngspice")
        across = u - 1300 * loaded
        torch.testing.assert_close(loaded, self.cell.current(across, g[..., 0]), rtol=1e-9, atol=0)
