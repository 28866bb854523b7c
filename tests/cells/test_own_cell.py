"""A user's own cell: the recipe of ``geniex.cells.base``, through the suite that the shipped cells pass."""

from dataclasses import dataclass, field

import torch
from conformance import CellConformance
from torch import Tensor

from geniex.cells import (
    Cell,
    Level1Mosfet,
    LinearCell,
    OneTransistorOneResistor,
    SinhCell,
    TabulatedCell,
    spice_number,
)
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


@dataclass(frozen=True)
class ManyPoints(OwnCubicCell):
    points: tuple[float, ...] = tuple(k / 7 for k in range(1000))
    inner: Cell = field(default_factory=SinhCell)
    scale: float | Tensor = 1.0


def test_every_cell_has_a_short_name_for_messages() -> None:
    """Of tensors the shape: their values would have to be waited for."""
    mosfet = Level1Mosfet(gate_voltage=2.0, width_over_length=4.0, threshold=0.5, transconductance=1e-4)
    sinh = SinhCell(torch.rand(3), reference_voltage=0.1)
    names = {
        LinearCell(): ("LinearCell", "linear cells"),
        SinhCell(): ("SinhCell(v0 = 0.25 V)", "sinh cells (v0 = 0.25 V)"),
        sinh: ("SinhCell(v0 = a tensor (3,) V, G at 0.1 V)", "sinh cells (v0 = a tensor (3,) V, G at 0.1 V)"),
        OneTransistorOneResistor(LinearCell(), r_access=1e4): (
            "OneTransistorOneResistor(LinearCell behind 10000 ohm)",
            "1T1R cells (LinearCell behind 10000 ohm)",
        ),
        OneTransistorOneResistor(SinhCell(), mosfet=mosfet, reference_voltage=0.2): (
            "OneTransistorOneResistor(SinhCell(v0 = 0.25 V) behind a transistor of 1667 ohm, G at 0.2 V)",
            "1T1R cells (SinhCell(v0 = 0.25 V) behind a transistor of 1667 ohm, G at 0.2 V)",
        ),
        TabulatedCell((0.0, 0.1, 0.5), (0.0, 1e-6, 8e-6)): (
            "TabulatedCell(1 state, 0 to 0.5 V)",
            "tabulated cells (1 state, 0 to 0.5 V)",
        ),
        OwnCubicCell(): ("OwnCubicCell(vs = 0.5)", "OwnCubicCell cells (vs = 0.5)"),
    }
    for cell, (short, description) in names.items():
        assert (cell.short, cell.description) == (short, description)
    many = ManyPoints(scale=torch.rand(2, 2))
    assert many.short == (
        "ManyPoints(vs = 0.5, points = (0.0, 0.14285714285714285, 0....,"
        " inner = SinhCell(v0 = 0.25 V), scale = a tensor (2, 2))"
    )
