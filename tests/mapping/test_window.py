"""The conductance window against its published equation, and its inverse."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from geniex.errors import InputError
from geniex.mapping.window import ConductanceWindow

WINDOW = ConductanceWindow(r_on=100e3, on_off=6.0)


def test_ends_of_the_window() -> None:
    assert pytest.approx(1e-5, rel=1e-15) == WINDOW.g_on
    assert pytest.approx(1e-5 / 6, rel=1e-15) == WINDOW.g_off
    g = WINDOW.to_conductance(torch.tensor([0, 15]), levels=16, dtype=torch.float64)
    torch.testing.assert_close(g, torch.tensor([WINDOW.g_off, WINDOW.g_on], dtype=torch.float64), rtol=1e-15, atol=0)


def test_levels_are_equally_spaced() -> None:
    g = WINDOW.to_conductance(torch.arange(16), levels=16, dtype=torch.float64)
    torch.testing.assert_close(g.diff(), torch.full((15,), (1e-5 - 1e-5 / 6) / 15).double(), rtol=1e-6, atol=0)
    assert WINDOW.step(16) == pytest.approx((1e-5 - 1e-5 / 6) / 15, rel=1e-15)


@given(
    r_on=st.floats(1e3, 1e7),
    on_off=st.floats(1.01, 9e3),
    levels=st.integers(2, 256),
    dtype=st.sampled_from([torch.float32, torch.float64]),
)
def test_codes_survive(r_on: float, on_off: float, levels: int, dtype: torch.dtype) -> None:
    window = ConductanceWindow(r_on, on_off)
    codes = torch.arange(levels).reshape(1, -1)
    g = window.to_conductance(codes, levels, dtype=dtype)
    assert g.dtype == dtype
    assert torch.equal(window.to_code(g, levels), codes)


def test_floating_codes_keep_their_dtype() -> None:
    assert WINDOW.to_conductance(torch.tensor([1.5], dtype=torch.float64), levels=4).dtype == torch.float64


def test_conductance_is_differentiable_in_the_code() -> None:
    code = torch.tensor(2.0, dtype=torch.float64, requires_grad=True)
    WINDOW.to_conductance(code, levels=16).backward()
    assert code.grad is not None
    assert code.grad.item() == pytest.approx(WINDOW.step(16))


@pytest.mark.parametrize("g", [0.0, 0.9e-6, 1.2e-5])
def test_conductances_outside_have_no_code(g: float) -> None:
    with pytest.raises(InputError, match=r"must lie in the window, 1\.66667e-06 to 1e-05 S"):
        WINDOW.to_code(torch.tensor([5e-6, g]), levels=16)


@pytest.mark.parametrize(
    ("r_on", "on_off", "name"),
    [
        (0.5, 6.0, "r_on"),
        (-1e5, 6.0, "r_on"),
        (1e5, 1.0, "on_off"),
        (1e5, 0.5, "on_off"),
        (1e5, float("nan"), "on_off"),
    ],
)
def test_bad_windows(r_on: float, on_off: float, name: str) -> None:
    with pytest.raises(InputError, match=f"^{name}: got "):
        ConductanceWindow(r_on, on_off)


@pytest.mark.parametrize("levels", [0, 1, 2.0])
def test_bad_levels(levels: int) -> None:
    with pytest.raises(InputError, match=r"levels: got .*at least 2"):
        WINDOW.step(levels)


def test_a_conductance_that_is_no_number_has_no_level() -> None:
    with pytest.raises(InputError, match="g: got nan"):
        ConductanceWindow(1e5, 6.0).to_code(torch.tensor([torch.nan]), 16)
