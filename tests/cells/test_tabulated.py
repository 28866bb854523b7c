"""Measured I-V curves: the interpolant, the file format, and tables that are none."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from scipy.interpolate import PchipInterpolator

from geniex.cells import SinhCell, TabulatedCell
from geniex.errors import FileFormatError, InputError

VOLTS = (-0.5, -0.3, -0.1, 0.0, 0.05, 0.2, 0.45)
CURVE = (-9e-6, -3.5e-6, -8e-7, 0.0, 3e-7, 1.9e-6, 7e-6)
STEEP = (-9e-5, -4.5e-5, -1.3e-5, 0.0, 5e-6, 2.4e-5, 6.6e-5)


def test_one_curve_is_scipys_monotone_cubic() -> None:
    cell = TabulatedCell(VOLTS, CURVE)
    (g,) = cell.state_conductances
    u = torch.linspace(-0.5, 0.45, 200, dtype=torch.float64)
    oracle = PchipInterpolator(VOLTS, CURVE)
    current, slope = cell.current_and_derivative(u, torch.tensor(g, dtype=torch.float64))
    torch.testing.assert_close(current, torch.from_numpy(oracle(u.numpy())), rtol=1e-12, atol=1e-18)
    torch.testing.assert_close(slope, torch.from_numpy(oracle.derivative()(u.numpy())), rtol=1e-11, atol=0)
    assert g == pytest.approx(float(oracle.derivative()(0.0)), rel=1e-14)


@pytest.mark.parametrize("between", ["log", "linear"])
@pytest.mark.parametrize("reference_voltage", [None, 0.13])
def test_at_the_states_the_curves_are_the_measured_ones(between: Any, reference_voltage: float | None) -> None:
    cell = TabulatedCell(VOLTS, (STEEP, CURVE), reference_voltage, between)
    g = torch.tensor(cell.state_conductances, dtype=torch.float64)[:, None]
    measured = torch.tensor((CURVE, STEEP), dtype=torch.float64)
    torch.testing.assert_close(cell.current(torch.tensor(VOLTS, dtype=torch.float64), g), measured, rtol=1e-13, atol=0)


def test_between_states_currents_or_shapes_are_mixed() -> None:
    u = torch.tensor([-0.4, 0.3], dtype=torch.float64)
    by_log, by_current = (TabulatedCell(VOLTS, (CURVE, STEEP), between_states=way) for way in ("log", "linear"))  # type: ignore[arg-type]
    low, high = (torch.tensor(g, dtype=torch.float64) for g in by_log.state_conductances)
    ends = by_log.current(u, low), by_log.current(u, high)
    torch.testing.assert_close(by_current.current(u, (low + high) / 2), (ends[0] + ends[1]) / 2)
    middle = (low * high).sqrt()
    torch.testing.assert_close(by_log.current(u, middle), middle * (ends[0] / low + ends[1] / high) / 2)


def test_a_finely_measured_sinh_cell_is_that_cell() -> None:
    volts = torch.linspace(0, 0.5, 101, dtype=torch.float64)
    u, g = torch.linspace(-0.5, 0.5, 77, dtype=torch.float64), torch.tensor(4e-6, dtype=torch.float64)
    sinh = SinhCell(reference_voltage=0.2)
    table = TabulatedCell(volts, sinh.current(volts, g), reference_voltage=0.2)  # type: ignore[arg-type]
    # A monotone cubic through points h apart is off by some h^2.
    torch.testing.assert_close(table.current(u, g), sinh.current(u, g), rtol=1e-3, atol=1e-11)
    assert table.state_conductances == pytest.approx((4e-6,), rel=1e-14)


def test_a_flat_end_still_climbs() -> None:
    cell = TabulatedCell((0.0, 0.1, 0.2, 0.3), (0.0, 1e-6, 2e-6, 2.0001e-6), extrapolation="linear")
    u = torch.linspace(0, 2, 500, dtype=torch.float64)
    assert cell.current(u, torch.tensor(1e-5, dtype=torch.float64)).diff().gt(0).all()


def test_straight_on_beyond_the_table() -> None:
    cell = TabulatedCell(VOLTS, CURVE, extrapolation="linear")
    u = torch.tensor([0.45, 0.75, 1.05, -0.5, -1.0, -1.5], dtype=torch.float64)
    current, slope = cell.current_and_derivative(u, torch.tensor(1e-5, dtype=torch.float64))
    torch.testing.assert_close(current[2] - current[1], current[1] - current[0])
    torch.testing.assert_close(current[5] - current[4], current[4] - current[3])
    torch.testing.assert_close(slope[:3], slope[0].expand(3), rtol=1e-12, atol=0)
    cell.check_range(torch.tensor([1.0]), span=50.0)


def test_range_is_checked_unless_asked_to_go_on() -> None:
    cell = TabulatedCell(VOLTS, (CURVE, STEEP))
    low, high = cell.state_conductances
    inside = torch.tensor([0.0, low, (low + high) / 2, high], dtype=torch.float64)
    cell.check_range(inside, span=0.45)
    with pytest.raises(
        InputError, match=r"voltages: got up to 0\.46 V across a cell; the table covers -0\.5 to 0\.45 V"
    ):
        cell.check_range(inside, span=0.46)
    for outside in (0.99 * low, 1.01 * high):
        with pytest.raises(InputError, match=f"conductances: got {outside:g} S; the curves cover"):
            cell.check_range(torch.tensor([low, outside], dtype=torch.float64), span=0.1)


def test_csv_is_the_same_cell(tmp_path: Path) -> None:
    lines = ["# device 7", "voltage_V, low_A, high_A"]
    lines += [f"{v}, {a}, {b}" for v, a, b in zip(VOLTS, CURVE, STEEP, strict=True)]
    path = tmp_path / "curves.csv"
    path.write_text("\n".join([*lines, ""]))
    assert TabulatedCell.from_csv(path, reference_voltage=0.2) == TabulatedCell(VOLTS, (CURVE, STEEP), 0.2)


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        ("v,i\n0,0\n0.1,x\n0.2,2\n", FileFormatError, r"line 3: '0\.1,x' is not a row of numbers"),
        ("v,i\n0,0\n0.1,1,2\n0.2,2\n", FileFormatError, "line 3: the line has 3 columns; the first line has 2"),
        ("v\n0\n0.1\n0.2\n", FileFormatError, "line 2: the line has 1 columns; a voltage and a current are needed"),
        ("v,i\n0,0\n0.1,2\n0.2,1\n", InputError, r"bad\.csv: currents, state 0, row 2: got 1 A"),
        ("0,0\n0.1,1\n0.2,2\n0.3,3\n", FileFormatError, r"no header that names .* columns=\(.V., .I.\)"),
        ("v,i\n", InputError, r"bad\.csv: voltages: got 0 points"),
        ("", FileFormatError, "no header that names"),
        ("Voltage,Current\n0,0\n", FileFormatError, r"the column 'Voltage' has no unit; .*units=\(.mV., .uA.\)"),
        ("Voltage (mV),I\n0,0\n", FileFormatError, "'I' has no unit"),
        ("x,y\n0,0\n", FileFormatError, "the header 'x' does not name a voltage or a current"),
        ("V (V),R (ohm)\n0,0\n", FileFormatError, r"'R \(ohm\)' does not name"),
        ("V (kV),I (A)\n0,0\n", FileFormatError, r"'V \(kV\)' does not name"),
        ("V (A),I (A)\n0,0\n", FileFormatError, r"'V \(A\)' does not name"),
        ("I (A),I (uA)\n0,0\n", FileFormatError, "0 voltage columns and 2 current columns"),
        ("V (V),V (mV)\n0,0\n", FileFormatError, "2 voltage columns and 0 current columns"),
        (
            "V,I\n0,0\n0.1,1\n0.2,2\n",
            InputError,
            "currents: got a curve of 10 S; it must be at most 1 S; .*microampere",
        ),
        ("V,I\n0,0\n100,1\n200,2\n", InputError, "voltages: got up to 200 V; .*millivolt"),
    ],
)
def test_bad_files_are_refused_by_line(text: str, error: type[Exception], message: str, tmp_path: Path) -> None:
    path = tmp_path / "bad.csv"
    path.write_text(text)
    with pytest.raises(error, match=message):
        TabulatedCell.from_csv(path)


VALUES = ((0.0, 0.1, 0.2), (0.0, 1.1e-6, 2.7e-6))


@pytest.mark.parametrize(
    ("header", "rows"),
    [
        ("V,I", "0,0 0.1,1.1e-6 0.2,2.7e-6"),
        ("i , v", "0,0 1.1e-6,0.1 2.7e-6,0.2"),
        ("Voltage (mV),Current (uA)", "0,0 100,1.1 200,2.7"),
        ("I (A),V (V)", "0,0 1.1e-6,0.1 2.7e-6,0.2"),
        ("I [µA], V [mV]", "0,0 1.1,100 2.7,200"),
        ("CURRENT (NA),VOLTAGE (V)", "0,0 1100,0.1 2700,0.2"),
        ("Current/pA,Voltage/uV", "0,0 1100000,100000 2700000,200000"),
        ("voltage_V, low_A", "0,0 0.1,1.1e-6 0.2,2.7e-6"),
        ("V_read [V],I_d [mA]", "0,0 0.1,0.0011 0.2,0.0027"),
        ("mV,uA", "0,0 100,1.1 200,2.7"),
        ("Voltage (volts),Current (microamperes)", "0,0 0.1,1.1 0.2,2.7"),
    ],
)
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_columns_and_units_are_read_from_the_header(header: str, rows: str, mark: str, tmp_path: Path) -> None:
    path = tmp_path / "iv.csv"
    path.write_text(mark + "\n".join(["# of a probe station", header, *rows.split()]), encoding="utf-8")
    assert TabulatedCell.from_csv(path) == TabulatedCell(*VALUES)


@pytest.mark.parametrize(
    ("header", "rows", "said"),
    [
        ("", "0,0 100,1.1 200,2.7", {"units": ("mV", "uA")}),
        ("", "0,0 1.1,100 2.7,200", {"units": ("uA", "mV")}),
        ("", "0,0 0.1,1.1e-6 0.2,2.7e-6", {"columns": ("V", "I")}),
        ("", "0,0 1.1e-6,0.1 2.7e-6,0.2", {"columns": ("I", "V")}),
        ("x,y,z", "0,7,0 1.1,8,100 2.7,9,200", {"columns": ("I", None, "V"), "units": ("mV", "uA")}),
        ("x,y,z", "0,7,0 1.1,8,100 2.7,9,200", {"columns": ("I (uA)", None, "mV")}),
        ("Voltage,Current", "0,0 100,1.1 200,2.7", {"units": ("mV", "uA")}),
        ("Voltage,Current", "0,0 100,1.1 200,2.7", {"units": ("uA", "mV")}),
        ("Voltage (mV),x", "0,0 100,1.1 200,2.7", {"columns": ("V", "I [uA]")}),
        ("Voltage (V),Current (A)", "0,0 100,1.1 200,2.7", {"units": ("mV", "uA")}),
    ],
)
def test_what_the_header_does_not_tell_is_said(header: str, rows: str, said: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "iv.csv"
    path.write_text("\n".join([*([header] if header else []), *rows.split()]))
    assert TabulatedCell.from_csv(path, **said) == TabulatedCell(*VALUES)


def test_several_states_have_units_of_their_own(tmp_path: Path) -> None:
    path = tmp_path / "iv.csv"
    path.write_text("low (nA),V (mV),high (uA)\n0,0,0\n100,100,1.1\n210,200,2.7\n")
    assert TabulatedCell.from_csv(path) == TabulatedCell(VALUES[0], ((0.0, 1e-7, 2.1e-7), VALUES[1]))
    path.write_text("0,0,0\n0.1,100,1.1\n0.21,200,2.7\n")
    both = TabulatedCell.from_csv(path, columns=("I", "V", "I"), units=("mV", "uA"))
    assert both == TabulatedCell(VALUES[0], ((0.0, 1e-7, 2.1e-7), VALUES[1]))


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ({"columns": ("V",)}, r"columns: got \('V',\); the file has 2 columns"),
        ({"columns": ("V", "R")}, "columns: got 'R'"),
        ({"columns": "VI"}, "columns: got 'VI'"),
        ({"units": ("mV", "kohm")}, "units: got 'kohm'; it must be one of V, mV, uV, A"),
        ({"units": ("mV", "uA", "uA")}, "units: got .* one for each of the 2 columns"),
        ({"units": ("mV", "mV")}, "units: got .*; column 2 holds currents"),
    ],
)
def test_what_is_said_must_fit_the_file(said: dict[str, Any], message: str, tmp_path: Path) -> None:
    path = tmp_path / "iv.csv"
    path.write_text("V,I\n0,0\n0.1,1.1e-6\n0.2,2.7e-6\n")
    with pytest.raises(InputError, match=message):
        TabulatedCell.from_csv(path, **said)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileFormatError, match=r"none\.csv: it cannot be read as text"):
        TabulatedCell.from_csv(tmp_path / "none.csv")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"voltages": (0.0, 0.1)}, "voltages: got 2 points; a curve needs at least 3"),
        ({"voltages": (0.0, 0.2, 0.1)}, r"voltages, row 2: got 0\.1 V; it must exceed the 0\.2 V"),
        ({"voltages": (0.1, 0.2, 0.3)}, r"voltages: got 0\.1 to 0\.3 V; the points must include 0 V"),
        ({"voltages": (-0.2, -0.1, 0.0)}, "the points must include 0 V and a voltage above it"),
        ({"voltages": (0.0, math.nan, 0.3)}, "voltages, row 1: got nan V; every value must be finite"),
        ({"voltages": None}, "voltages: got None; it must be a sequence"),
        ({"currents": (0.0, 2e-6, 2e-6)}, r"currents, state 0, row 2: got 2e-06 A; it must exceed"),
        ({"currents": ((0.0, 1e-6, 2e-6), (0.0, 3e-6, 2e-6))}, "currents, state 1, row 2: got 2e-06 A"),
        ({"currents": (1e-9, 1e-6, 2e-6)}, r"currents, state 0, row 0: got 1e-09 A at 0 V; .* subtract"),
        ({"currents": (0.0, 1e-6)}, "currents, state 0: got 2 points; it must have 3"),
        ({"currents": ()}, "currents: got no curves"),
        ({"currents": "curve"}, "currents: got 'curve'; it must be a sequence"),
        ({"currents": ((0.0, 1e-6, 2e-6), (0.0, 1e-6, 2e-6))}, "currents: got two curves of"),
        ({"reference_voltage": 0.4}, r"reference_voltage: got 0\.4; it must lie in the table, which ends at 0\.2 V"),
        ({"between_states": "cubic"}, "between_states: got 'cubic'; it must be one of log, linear"),
        ({"extrapolation": "nan"}, "extrapolation: got 'nan'"),
    ],
)
def test_bad_tables_are_refused(arguments: dict[str, Any], message: str) -> None:
    good = {"voltages": (0.0, 0.1, 0.2), "currents": (0.0, 1e-6, 3e-6)}
    with pytest.raises(InputError, match=message):
        TabulatedCell(**(good | arguments))
