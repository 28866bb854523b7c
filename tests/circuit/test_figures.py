"""Figures of merit against their definitions."""

import math

import pytest
import torch

from geniex.circuit import nf_rmse, non_ideality_factor
from geniex.circuit.metrics import relative_error


def test_non_ideality_factor_is_the_lost_share() -> None:
    nf = non_ideality_factor(torch.tensor([2.0, 2.0, -2.0, 0.0]), torch.tensor([1.5, 2.2, -1.0, 1.0]))
    torch.testing.assert_close(nf, torch.tensor([0.25, -0.1, 0.5, torch.nan]), equal_nan=True)


def test_nf_rmse_is_in_percent_points_and_leaves_out_columns_without_ideal_current() -> None:
    ideal = torch.tensor([[1.0, 2.0], [0.0, 4.0]])
    reference = torch.tensor([[0.9, 1.8], [0.1, 3.0]])
    predicted = torch.tensor([[0.91, 1.8], [7.0, 3.0]])
    assert nf_rmse(ideal, reference, predicted).item() == pytest.approx(100 * 0.01 / math.sqrt(3), rel=1e-5)
    assert nf_rmse(ideal, reference, reference) == 0


def test_error_is_relative_to_the_current_or_a_thousandth_of_the_largest() -> None:
    exact = torch.tensor([1.0, 1e-6, 0.0]).double()
    assert relative_error(exact, exact + torch.tensor([1e-6, 0.0, 0.0])).max().item() == pytest.approx(1e-6)
    assert relative_error(exact, exact + torch.tensor([0.0, 1e-6, 0.0])).max().item() == pytest.approx(1e-3)
    assert relative_error(torch.zeros(2), torch.zeros(2)).tolist() == [0, 0]
    assert relative_error(torch.zeros(2), torch.ones(2)).tolist() == [math.inf] * 2
