"""What runs on a GPU, checked without one: fake tensors on "cuda" fail on any host copy or mixed device."""

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from geniex.cells import Cell, LinearCell, SinhCell
from geniex.circuit import Crossbar, Wires, nf_rmse, shared_matmul, solve_cells


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("cell", [LinearCell(), SinhCell()], ids=str)
def test_fixed_iterations_never_wait_for_the_device(cell: Cell, dtype: torch.dtype) -> None:
    with FakeTensorMode():
        v = torch.empty(7, 1, 5, dtype=dtype, device="cuda", requires_grad=True)
        g = torch.empty(2, 5, 6, dtype=dtype, device="cuda", requires_grad=True)
        source = torch.empty(2, dtype=dtype, device="cuda")
        solution = solve_cells(v, g, cell, Wires(source, 100.0, 2.5, 0.0), iterations=6)
        assert (solution.currents.shape, solution.cell_voltages.shape) == ((7, 2, 6), (7, 2, 5, 6))
        for out in solution:
            assert out.requires_grad
            assert (out.device.type, out.dtype) == ("cuda", dtype)


@pytest.mark.parametrize("vectors", [1, 7, 40])
def test_solutions_of_tensors_without_values_have_none_either(vectors: int) -> None:
    with FakeTensorMode():
        v, g = torch.empty(vectors, 1, 5, requires_grad=True), torch.empty(2, 5, 6)
        solution = solve_cells(v, g, SinhCell(), Wires(500.0, 100.0, 2.5, 2.5))
        assert (solution.currents.shape, solution.cell_voltages.shape) == ((vectors, 2, 6), (vectors, 2, 5, 6))
        (gradient,) = torch.autograd.grad(solution.currents.sum(), v)
    assert gradient.shape == v.shape


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_linear_path_stays_on_the_device(dtype: torch.dtype) -> None:
    with FakeTensorMode():
        v, g = torch.empty(7, 1, 5, dtype=dtype, device="cuda"), torch.empty(2, 5, 6, dtype=dtype, device="cuda")
        response = Crossbar(5, 6).effective_conductance(g)
        current = shared_matmul(v, response)
        assert (response.shape, current.shape) == ((2, 5, 6), (7, 2, 6))
        assert nf_rmse(current, current, current).shape == ()
        for out in (response, current):
            assert (out.device.type, out.dtype) == ("cuda", dtype)


def test_a_fixed_number_of_iterations_is_enough(generator: torch.Generator) -> None:
    xbar = Crossbar(16, 16)
    v = 0.25 * torch.rand(3, 16, dtype=torch.float64, generator=generator)
    g = 1e-5 * torch.rand(16, 16, dtype=torch.float64, generator=generator)
    blind = solve_cells(v, g, xbar.cell, xbar.wires, iterations=12).currents
    torch.testing.assert_close(blind, xbar.solve(v, g, tol=1e-12), rtol=1e-9, atol=0)
