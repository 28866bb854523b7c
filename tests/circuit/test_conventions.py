"""Which way round: rows drive, columns are read, column 0 is nearest the drivers, the last row the sense side."""

from typing import Literal

import pytest
import torch
from kirchhoff import kirchhoff_currents

from geniex.cells import LinearCell
from geniex.circuit import Crossbar

METHODS: list[Literal["native", "linear"]] = ["native", "linear"]


def one_cell(row: int, col: int) -> torch.Tensor:
    g = torch.zeros(3, 4, dtype=torch.float64)
    g[row, col] = 1e-4
    return g


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("col", range(4))
@pytest.mark.parametrize("row", range(3))
def test_a_cell_sees_the_wires_of_its_place(row: int, col: int, method: Literal["native", "linear"]) -> None:
    # One closed cell: the current passes R_source, ``col`` row wires, and the column wires below ``row``.
    xbar = Crossbar(3, 4, r_source=1e3, r_sink=2e3, r_wire_row=300.0, r_wire_col=50.0, cell=LinearCell())
    v = torch.tensor([0.1, 0.2, 0.3], dtype=torch.float64)
    current = xbar.solve(v, one_cell(row, col), method=method)
    path = 1e3 + 300 * col + 1e4 + 50 * (3 - 1 - row) + 2e3
    assert current[col].item() == pytest.approx(v[row].item() / path, rel=1e-9)
    assert current.count_nonzero() == 1


@pytest.mark.parametrize("method", METHODS)
def test_non_reciprocal_array(method: Literal["native", "linear"]) -> None:
    # Nothing in it is symmetric: any exchange of rows, columns, wires or terminals shows.
    xbar = Crossbar(2, 3, r_source=700.0, r_sink=150.0, r_wire_row=90.0, r_wire_col=20.0, cell=LinearCell())
    v = torch.tensor([0.25, 0.1], dtype=torch.float64)
    g = torch.tensor([[1e-5, 2e-5, 3e-5], [9e-5, 5e-5, 7e-5]], dtype=torch.float64)
    expected = torch.from_numpy(kirchhoff_currents(xbar, v.numpy(), g.numpy()))
    torch.testing.assert_close(xbar.solve(v, g, method=method), expected, rtol=1e-9, atol=0)
    wrong = [
        (xbar.replace(r_wire_row=20.0, r_wire_col=90.0), v, g),
        (xbar.replace(r_source=150.0, r_sink=700.0), v, g),
        (xbar, v.flip(0), g.flip(0)),
        (xbar, v, g.flip(1)),
    ]
    for other, drive, tile in wrong:
        assert not torch.allclose(other.solve(drive, tile, method=method), expected, rtol=1e-4)


def test_far_columns_and_rows_get_less() -> None:
    v = torch.full((16,), 0.2, dtype=torch.float64)
    g = torch.full((16, 16), 1e-5, dtype=torch.float64)
    rows_only = Crossbar(16, 16, r_wire_col=0.0).solve(v, g)
    assert (rows_only.diff() < 0).all(), "column 0 is nearest the drivers and gets most"
    response = Crossbar(16, 16, r_wire_row=0.0, cell=LinearCell()).effective_conductance(g)
    assert (response.diff(dim=0) > 0).all(), "the last row is nearest the sense side and loses least"
