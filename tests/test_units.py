"""Values in another unit than the one that is expected: refused where that is sure, else a warning that says so."""

import warnings
from typing import Any

import pytest
import torch

from geniex.cells import Level1Mosfet, LinearCell, OneTransistorOneResistor, SinhCell, TabulatedCell
from geniex.circuit import Crossbar
from geniex.errors import InputError, UnitWarning
from geniex.mapping import Architecture, ConductanceWindow
from geniex.preset import presets
from geniex.variation import Drift, ReadNoise

MOSFET = {"gate_voltage": 1.0, "width_over_length": 2.0, "threshold": 0.4, "transconductance": 2e-4}
VOLTS, AMPERES = (0.0, 0.1, 0.2), (0.0, 1e-6, 3e-6)


def _solved(v: float, g: float) -> Any:
    return Crossbar(1, 1, cell=LinearCell()).solve(torch.tensor([v]), torch.tensor([[g]]))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ConductanceWindow(20, 20), "r_on: got 20 ohm; .*is this in kohm"),
        (lambda: ConductanceWindow(20e3, 200e3), r"on_off: got 200000 .*is this R_off in ohm"),
        (lambda: Architecture(v_max=25.0), "v_max: got 25 V; .*millivolt"),
        (lambda: Crossbar(4, 4, r_wire=2500.0), "r_wire: got 2500 ohm; .*milliohm"),
        (lambda: Crossbar(4, 4, r_wire_col=1e4), "r_wire_col: got 10000 ohm"),
        (lambda: Crossbar(4, 4, r_sink=2e6), r"r_sink: got 2e\+06 ohm; .*milliohm"),
        (lambda: SinhCell(v0=250), "v0: got 250 V; .*millivolt"),
        (lambda: SinhCell(reference_voltage=200.0), "reference_voltage: got 200 V; .*millivolt"),
        (lambda: OneTransistorOneResistor(LinearCell(), r_access=1e3, reference_voltage=200.0), "reference_voltage"),
        (lambda: Level1Mosfet(**MOSFET | {"gate_voltage": 1200.0}), "gate_voltage: got 1200 V; .*millivolt"),
        (lambda: Level1Mosfet(**MOSFET | {"transconductance": 200.0}), "transconductance: got 200 A/V.2"),
        (lambda: TabulatedCell((0.0, 10.0, 20.0), AMPERES), "voltages: got 20 V; .*millivolt"),
        (lambda: ReadNoise(current=0.1), "current: got 0.1 A; .*microampere"),
        (lambda: _solved(25.0, 1e-5), "voltages: got 25 V; .*millivolt"),
        (lambda: _solved(0.2, 0.05), "conductances: got 0.05 S; .*millisiemens"),
        (
            lambda: Crossbar(1, 1).operating_point(torch.tensor([0.2]), torch.tensor([[1e-5]])).energy(10.0),
            "read_time: got 10 s; .*nanoseconds",
        ),
    ],
)  # fmt: skip
def test_what_is_unusual_is_doubted(make: Any, message: str) -> None:
    with pytest.warns(UnitWarning, match=message):
        make()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Architecture(v_max=250.0), "v_max: got 250.0; .*millivolt"),
        (lambda: _solved(0.2, 5.0), "conductances: got up to 5; .*microsiemens"),
        (lambda: _solved(250.0, 1e-5), "voltages: got up to 250; .*millivolt"),
        (lambda: TabulatedCell(VOLTS, (0.0, 1.0, 3.0)), "currents: got a curve of .* S; .*microampere"),
        (lambda: TabulatedCell((0.0, 100.0, 200.0), AMPERES), "voltages: got up to 200 V; .*millivolt"),
        (lambda: Drift(1.0, nu=0.05), "seconds: got 1.0; .*a year 3.16e7 s"),
        (lambda: ConductanceWindow(1e-5, 6.0), "r_on: got 1e-05; .*ohm"),
    ],
)
def test_what_cannot_be_is_refused(make: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        make()


def test_usual_values_pass_and_a_doubt_is_shown_once() -> None:
    for preset in presets.values():
        assert type(preset).from_dict(preset.to_dict()) == preset
    ConductanceWindow(1e3, 1e3)
    SinhCell(v0=0.25, reference_voltage=0.2)
    Level1Mosfet(**MOSFET)
    with warnings.catch_warnings(record=True) as shown:
        warnings.simplefilter("default")
        for _ in range(3):
            ConductanceWindow(20, 20).replace(on_off=10.0)
    assert len(shown) == 1


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("adc_bits", 0, "adc_bits: got 0; .* at least 1 and at most 48, or None for an ADC that never clips"),
        ("adc_bits", -1, "None for an ADC that never clips, or with adc_rounding='none'"),
        ("accumulator_bits", 0, "at most 52, or None for an accumulator that never overflows"),
        ("input_bits", None, "input_bits: got None; .* integers, which with 16 bits and input_scale='tensor'"),
        ("input_bits", 0, "inputs are always integers"),
        ("weight_bits", None, "weights are always integers, which with 16 bits and weight_scale='channel'"),
        ("slice_bits", 0, "slice_bits: got 0; .*a cell holds at least 1 bit"),
        ("slice_bits", None, "a cell holds at least 1 bit"),
        ("stream_bits", None, "stream_bits: got None; .*a read applies at least 1 bit"),
        ("weight_bits", 25, "at most 24"),
        ("adc_bits", 8.0, r"adc_bits: got 8\.0; it must be a whole number"),
        ("adc_bits", True, "adc_bits: got True"),
    ],
)  # fmt: skip
def test_widths_say_what_stands_for_none(field: str, value: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        Architecture(**{field: value})


def test_what_the_widths_errors_propose_is_allowed() -> None:
    Architecture(adc_bits=None, adc_rounding="none", accumulator_bits=None)
    Architecture(weight_bits=16, weight_scale="channel", input_bits=16, input_scale="tensor")
    Architecture(weight_bits=8, slice_bits=7, input_bits=8, stream_bits=7)
