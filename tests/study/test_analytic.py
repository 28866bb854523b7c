"""The field's closed-form models against their formulas written out, and the limits that they must meet."""

import numpy as np
import pytest
import torch

from geniex.cells import LinearCell, OneTransistorOneResistor, SinhCell
from geniex.circuit import Crossbar, Wires, shared_matmul
from geniex.study.analytic import calibrate_affine, compute_distance_conductance, fit_affine

WIRES = Wires(700.0, 300.0, 11.0, 7.0)


def random_tiles(generator: torch.Generator, *shape: int) -> torch.Tensor:
    return 1e-5 * torch.rand(*shape, dtype=torch.float64, generator=generator)


def test_distance_puts_each_cell_in_series_with_its_own_path(generator: torch.Generator) -> None:
    g = random_tiles(generator, 5, 3)
    g[2, 1] = 0
    found = compute_distance_conductance(g, WIRES)
    for i in range(5):
        for j in range(3):
            path = 700 + 11 * j + 7 * (5 - 1 - i) + 300
            expected = 0.0 if g[i, j] == 0 else 1 / (1 / g[i, j].item() + path)
            assert found[i, j].item() == pytest.approx(expected, rel=1e-12)


def test_distance_is_exact_where_no_other_cell_loads_the_lines(generator: torch.Generator) -> None:
    # One closed cell anywhere: its path is the whole circuit.
    crossbar = Crossbar(4, 6, r_source=700.0, r_sink=300.0, r_wire_row=11.0, r_wire_col=7.0, cell=LinearCell())
    for place in ((0, 0), (3, 5), (1, 4)):
        g = torch.zeros(4, 6, dtype=torch.float64)
        g[place] = 1e-4
        torch.testing.assert_close(
            compute_distance_conductance(g, WIRES), crossbar.effective_conductance(g), rtol=1e-9, atol=0
        )


def test_distance_underrates_the_drop_of_loaded_lines(generator: torch.Generator) -> None:
    g = random_tiles(generator, 6, 6) + 1e-6
    exact = Crossbar(6, 6, cell=LinearCell()).effective_conductance(g)
    found = compute_distance_conductance(g, Crossbar(6, 6).wires)
    assert found.sum() > exact.sum()
    assert (found < g).all()


def test_distance_takes_each_tiles_own_wires(generator: torch.Generator) -> None:
    g = random_tiles(generator, 2, 1, 3, 4)
    scalars = [torch.tensor([[a], [b]], dtype=torch.float64) for a, b in ((1, 5), (2, 6), (3, 7), (4, 8))]
    found = compute_distance_conductance(g, Wires(*scalars))
    for k, wires in enumerate((Wires(1.0, 2.0, 3.0, 4.0), Wires(5.0, 6.0, 7.0, 8.0))):
        torch.testing.assert_close(found[k, 0], compute_distance_conductance(g[k, 0], wires))


def test_affine_fit_is_numpys_least_squares_line_in_the_nf(generator: torch.Generator) -> None:
    g = random_tiles(generator, 2, 1, 4, 3)
    v = torch.rand(2, 6, 4, dtype=torch.float64, generator=generator)
    v[:, 0] = 0  # no ideal current, no NF: it does not count
    ideal = torch.einsum("tvi,tij->tvj", v, g[:, 0])
    currents = ideal * 0.9 - ideal**2 * 1e3
    fit = fit_affine(v, g, currents)
    for tile in range(2):
        for j in range(3):
            x, y = 1e6 * ideal[tile, 1:, j].numpy(), 1e6 * currents[tile, 1:, j].numpy()
            slope, offset = np.polyfit(x, y, 1, w=1 / x)
            assert fit.alpha[tile, 0, j].item() == pytest.approx(slope, rel=1e-9)
            assert fit.beta[tile, 0, j].item() == pytest.approx(1e-6 * offset, rel=1e-6)


def test_affine_read_is_alpha_ideal_plus_beta(generator: torch.Generator) -> None:
    g, v = random_tiles(generator, 1, 4, 3), torch.rand(6, 4, dtype=torch.float64, generator=generator)
    fit = fit_affine(v, g, 0.8 * shared_matmul(v, g) + 2e-7)
    new = torch.rand(5, 4, dtype=torch.float64, generator=generator)
    torch.testing.assert_close(fit.read(new), 0.8 * (new @ g[0]) + 2e-7, rtol=1e-9, atol=0)


def test_columns_of_one_ideal_current_or_none_are_shifted() -> None:
    v = torch.full((4, 3), 0.1, dtype=torch.float64)
    g = torch.tensor([[[1e-5, 0.0]] * 3], dtype=torch.float64)
    fit = fit_affine(v, g, torch.tensor([[2.5e-6, 0.0]] * 4, dtype=torch.float64))
    assert fit.alpha.tolist() == [[1.0, 1.0]]
    np.testing.assert_allclose(fit.beta, [[-0.5e-6, 0.0]], rtol=1e-9)


@pytest.mark.parametrize("cell", [SinhCell(v0=0.2), OneTransistorOneResistor(SinhCell(v0=0.3), r_access=5e3)])
def test_calibration_solves_each_tiles_own_circuit(cell: SinhCell, generator: torch.Generator) -> None:
    g = random_tiles(generator, 3, 1, 5, 4) + 1e-6
    crossbar = Crossbar(5, 4, cell=cell)
    together = calibrate_affine(g, cell, crossbar.wires, 0.25, solutions=6)
    drops = torch.tensor([[2.5], [2.5], [90.0]], dtype=torch.float64)
    wires = Wires(drops * 200, drops * 40, drops, drops)
    apart = calibrate_affine(g, cell, wires, torch.full((3, 1), 0.25, dtype=torch.float64), solutions=6)
    torch.testing.assert_close(apart.alpha[:2], together.alpha[:2], rtol=1e-5, atol=0)
    assert (apart.alpha[2] < together.alpha[2]).all()
    # Where wires take much of the current, better than no correction, on inputs that the fit has not seen.
    lossy = Crossbar(5, 4, r_source=18e3, r_sink=3.6e3, r_wire=90.0, cell=cell)
    v = 0.25 * torch.rand(3, 20, 5, dtype=torch.float64, generator=generator)
    exact = lossy.solve(v[2], g[2])
    assert (apart.read(v)[2] - exact).norm() < 0.2 * (shared_matmul(v, g)[2] - exact).norm()


def test_calibration_drives_each_tile_up_to_its_own_v_max(generator: torch.Generator) -> None:
    # A linear array: twice the drive has the same slope and twice the offset.
    g = (random_tiles(generator, 1, 1, 5, 4) + 1e-6).expand(2, -1, -1, -1)
    wires = Crossbar(5, 4, r_source=18e3, r_wire=90.0).wires
    fit = calibrate_affine(g, LinearCell(), wires, torch.tensor([[0.25], [0.5]], dtype=torch.float64), solutions=6)
    torch.testing.assert_close(fit.alpha[1], fit.alpha[0], rtol=1e-5, atol=0)
    torch.testing.assert_close(fit.beta[1], 2 * fit.beta[0], rtol=1e-3, atol=1e-14)
    assert fit.beta.abs().min() > 1e-11
