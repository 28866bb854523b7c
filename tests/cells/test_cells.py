"""The cells that ship, each through the conformance suite, and what is particular to one."""

import math
import re

import pytest
import torch
from conformance import CellConformance

from geniex.cells import LinearCell, SinhCell, spice_number
from geniex.errors import InputError


class TestLinearCell(CellConformance):
    cell = LinearCell()


class TestSinhCell(CellConformance):
    cell = SinhCell()


class TestSinhCellOfOddVoltageScale(CellConformance):
    cell = SinhCell(v0=1 / 3)
    v_max = 0.5


def test_sinh_cell_is_the_published_law() -> None:
    current = SinhCell(v0=0.2).current(torch.tensor(0.5), torch.tensor(3e-6))
    assert current.item() == pytest.approx(3e-6 * 0.2 * math.sinh(0.5 / 0.2), rel=1e-6)


@pytest.mark.parametrize("v0", [0.0, -0.1, math.nan, math.inf, "0.25", None, True])
def test_sinh_cell_refuses_a_bad_voltage_scale(v0: object) -> None:
    with pytest.raises(InputError, match=r"v0: got .*greater than 0 V"):
        SinhCell(v0=v0)  # type: ignore[arg-type]


def test_sinh_cell_refuses_many_voltage_scales() -> None:
    with pytest.raises(InputError, match=r"v0: got shape \(2,\)"):
        SinhCell(v0=torch.tensor([0.1, 0.2]))  # type: ignore[arg-type]


@pytest.mark.parametrize("value", [0.25, 1 / 3, -1 / 7, math.pi * 1e-7, 1e-300, 2.5e-06, 1 - 1e-12])
def test_spice_number_keeps_every_digit_in_terms_of_eleven(value: float) -> None:
    text = spice_number(value)
    terms = re.findall(r"[+-]?[\d.]+(?:e[+-]\d+)?", text)
    assert "".join(terms) == text.strip("()")
    # ngspice rounds each number to 11 digits: what it loses of the second is below the last bit of the first.
    read = [float(f"{float(term):.10e}") for term in terms]
    assert sum(read) == pytest.approx(value, rel=3e-16)
