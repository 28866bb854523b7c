"""What is particular to the sinh cell, and to numbers in netlists."""

import math
import re

import pytest
import torch

from geniex.cells import SinhCell, spice_number
from geniex.errors import InputError


def test_sinh_cell_is_the_published_law() -> None:
    current = SinhCell(v0=0.2).current(torch.tensor(0.5), torch.tensor(3e-6))
    assert current.item() == pytest.approx(3e-6 * 0.2 * math.sinh(0.5 / 0.2), rel=1e-6)


def test_small_signal_of_a_cell_programmed_at_a_voltage() -> None:
    # sinh(x) > x: a cell that shows G at 0.5 V shows less at 0 V.
    at_zero = SinhCell(v0=0.25, reference_voltage=0.5).small_signal(torch.tensor(1e-6, dtype=torch.float64))
    assert at_zero.item() == pytest.approx(1e-6 * 2 / math.sinh(2), rel=1e-14)


@pytest.mark.parametrize("reference_voltage", [None, 0.3])
def test_voltage_scale_per_tile_is_each_tile_on_its_own(reference_voltage: float | None) -> None:
    scales = [0.2, 0.25, 0.4]
    u = torch.linspace(-0.5, 0.5, 30, dtype=torch.float64).reshape(1, 5, 6)
    g = torch.linspace(1e-6, 1e-5, 90, dtype=torch.float64).reshape(3, 5, 6)
    v0 = torch.tensor(scales, dtype=torch.float64)
    together = SinhCell(v0, reference_voltage).current_and_derivative(u, g)
    for k, scale in enumerate(scales):
        alone = SinhCell(scale, reference_voltage).current_and_derivative(u[0], g[k])
        for all_tiles, one in zip(together, alone, strict=True):
            torch.testing.assert_close(all_tiles[k], one, rtol=1e-15, atol=0)


def test_older_files_name_the_same_cell() -> None:
    assert SinhCell(v0=0.3).to_dict() == {"_type": "SinhCell", "_version": 1, "v0": 0.3}


@pytest.mark.parametrize("v0", [0.0, -0.1, math.nan, math.inf, "0.25", None, True])
def test_sinh_cell_refuses_a_bad_voltage_scale(v0: object) -> None:
    with pytest.raises(InputError, match=r"v0: got .*greater than 0 V"):
        SinhCell(v0=v0)  # type: ignore[arg-type]


def test_sinh_cell_refuses_a_bad_reference_voltage() -> None:
    with pytest.raises(InputError, match=r"reference_voltage: got 0\.0; .*greater than 0 V"):
        SinhCell(reference_voltage=0.0)


@pytest.mark.parametrize("value", [0.25, 1 / 3, -1 / 7, math.pi * 1e-7, 1e-300, 2.5e-06, 1 - 1e-12])
def test_spice_number_keeps_every_digit_in_terms_of_eleven(value: float) -> None:
    text = spice_number(value)
    terms = re.findall(r"[+-]?[\d.]+(?:e[+-]\d+)?", text)
    assert "".join(terms) == text.strip("()")
    # ngspice rounds each number to 11 digits: what it loses of the second is below the last bit of the first.
    read = [float(f"{float(term):.10e}") for term in terms]
    assert sum(read) == pytest.approx(value, rel=3e-16)
