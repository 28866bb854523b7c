"""A user's own cell: the recipe of ``geniex.cells.base``, through the suite that the shipped cells pass."""

from dataclasses import dataclass

import torch
from conformance import CellConformance
from torch import Tensor

from geniex.cells import Cell, OneTransistorOneResistor, spice_number
from geniex.circuit import Crossbar
from geniex.config import register_config


@register_config
@dataclass(frozen=True)
class OwnCubicCell(Cell):
    vs: float = 0.5

    def current(self, u: Tensor, g: Tensor) -> Tensor:
        return g * u * (1 + (u / self.vs) ** 2)

    def spice(self, name: str, plus: str, minus: str, g: float) -> str:
        u, vs = f"V({plus},{minus})", spice_number(self.vs)
        return f"B{name} {plus} {minus} I={spice_number(g)}*{u}*(1+({u}/{vs})*({u}/{vs}))"


class TestOwnCell(CellConformance):
    cell = OwnCubicCell(vs=0.3)
    fake_device = "cpu"


class TestOwnCellBehindAResistance(CellConformance):
    cell = OneTransistorOneResistor(OwnCubicCell(vs=0.3), r_access=6800.0)
    fake_device = "cpu"


def test_own_cell_solves_and_differentiates(generator: torch.Generator) -> None:
    xbar = Crossbar(3, 2, cell=OwnCubicCell())
    v = torch.rand(2, 3, dtype=torch.float64, generator=generator, requires_grad=True)
    g_us = (10 * torch.rand(3, 2, dtype=torch.float64, generator=generator)).requires_grad_()
    assert torch.autograd.gradcheck(lambda v, g: xbar.solve(v, g * 1e-6, tol=1e-13) * 1e6, (v, g_us))
