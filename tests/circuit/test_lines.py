"""Linear cell voltages against the wires' operator, and their gradients against finite differences."""

from __future__ import annotations

import pytest
import torch
from torch.autograd import gradcheck

from geniex.circuit import Wires
from geniex.circuit.solve.elimination import solve_linear_array
from geniex.circuit.solve.ladder import solve_word_lines

NAMES = ("r_source", "r_sink", "r_row", "r_col")


def draw(tiles: int, rows: int, cols: int, zero: str | None = None) -> tuple[torch.Tensor, Wires, torch.Tensor]:
    generator = torch.Generator().manual_seed(rows + cols)
    g = 1e-3 * torch.rand(tiles, rows, cols, generator=generator, dtype=torch.float64)
    g[:, 0, 0] = 0
    ohm = {name: 100 * torch.rand(tiles, generator=generator, dtype=torch.float64) for name in NAMES}
    if zero is not None:
        ohm[zero] = torch.zeros(tiles, dtype=torch.float64)
    return g, Wires(**ohm), torch.randn(2, tiles, rows, cols, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize(("rows", "cols"), [(1, 1), (1, 6), (7, 1), (4, 9), (9, 4)])
@pytest.mark.parametrize("zero", [None, *NAMES])
def test_both_solve_their_equation(rows: int, cols: int, zero: str | None) -> None:
    g, wires, drives = draw(3, rows, cols, zero)
    u = solve_linear_array(g, wires, drives)
    torch.testing.assert_close(u + wires.drop(g * u), drives, rtol=0, atol=1e-12)
    lines = Wires(wires.r_source, 0.0, wires.r_row, 0.0)
    u = solve_word_lines(g.expand_as(drives), lines, drives)
    torch.testing.assert_close(u + lines.row_drop(g * u), drives, rtol=0, atol=1e-12)


def test_gradients_in_slopes_drives_and_resistances() -> None:
    g, wires, drives = draw(2, 2, 3)
    milli = (1e3 * g + 0.1).requires_grad_()
    ohm = [r.requires_grad_() for r in vars(wires).values()]

    def array(milli: torch.Tensor, drives: torch.Tensor, *ohm: torch.Tensor) -> torch.Tensor:
        return solve_linear_array(1e-3 * milli, Wires(*ohm), drives)

    def lines(milli: torch.Tensor, drives: torch.Tensor, source: torch.Tensor, row: torch.Tensor) -> torch.Tensor:
        return solve_word_lines(1e-3 * milli, Wires(source, 0.0, row, 0.0), drives)

    drives.requires_grad_()
    assert gradcheck(array, (milli, drives, *ohm))
    assert gradcheck(lines, (milli, drives[0], ohm[0], ohm[2]))
