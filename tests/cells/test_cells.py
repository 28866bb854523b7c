"""The cells that ship, each through the conformance suite."""

import torch
from conformance import CellConformance

from geniex.cells import Level1Mosfet, LinearCell, OneTransistorOneResistor, SinhCell, TabulatedCell

SELECTOR = Level1Mosfet(
    gate_voltage=1.2, width_over_length=3.14159, threshold=0.41, transconductance=1.3e-4, channel_length_modulation=0.07
)
WEAK = Level1Mosfet(
    gate_voltage=0.55, width_over_length=1.0, threshold=0.41, transconductance=2e-5, channel_length_modulation=0.3
)
VOLTS = (-1.03, -0.71, -0.33, -0.11, 0.0, 0.07, 0.21, 0.49, 0.87, 1.11)
LOW = (-9e-6, -3.1e-6, -0.9e-6, -1.2e-7, 0.0, 8e-8, 2.9e-7, 9e-7, 2.6e-6, 4.1e-6)
HIGH = (-2.2e-4, -1.2e-4, -4e-5, -1.15e-5, 0.0, 7.1e-6, 2.2e-5, 5.5e-5, 9.7e-5, 1.3e-4)
MIDDLE = (-4e-5, -2.1e-5, -7e-6, -1.5e-6, 0.0, 1e-6, 3.5e-6, 1e-5, 2.2e-5, 3e-5)


class TestLinearCell(CellConformance):
    cell = LinearCell()


class TestSinhCell(CellConformance):
    cell = SinhCell()


class TestSinhCellOfOddVoltageScale(CellConformance):
    cell = SinhCell(v0=1 / 3)
    v_max = 0.5


class TestSinhCellProgrammedAtAVoltage(CellConformance):
    cell = SinhCell(v0=0.2, reference_voltage=0.3)


class TestResistanceAndLinearCell(CellConformance):
    cell = OneTransistorOneResistor(LinearCell(), r_access=3300.0)


class TestResistanceAndSinhCell(CellConformance):
    # At 1 V the cell of 100 uS has 1/5 of the resistance of its access.
    cell = OneTransistorOneResistor(SinhCell(v0=0.2), r_access=8200.0)


class TestNoResistanceAndSinhCell(CellConformance):
    cell = OneTransistorOneResistor(SinhCell(), r_access=0.0)


class TestResistancePairProgrammedAtAVoltage(CellConformance):
    cell = OneTransistorOneResistor(SinhCell(), r_access=4700.0, reference_voltage=0.2)


class TestTransistorAndLinearCell(CellConformance):
    cell = OneTransistorOneResistor(LinearCell(), mosfet=SELECTOR)
    v_max = 2.0
    kink = 1e-5


class TestTransistorAndSinhCell(CellConformance):
    cell = OneTransistorOneResistor(SinhCell(), mosfet=SELECTOR)
    kink = 1e-5


class TestTransistorThatSaturates(CellConformance):
    cell = OneTransistorOneResistor(SinhCell(), mosfet=WEAK)
    kink = 1e-5


class TestTransistorPairProgrammedAtAVoltage(CellConformance):
    cell = OneTransistorOneResistor(SinhCell(v0=0.3), mosfet=SELECTOR, reference_voltage=0.2)
    kink = 1e-5


class TestTableOfOneCurve(CellConformance):
    cell = TabulatedCell(VOLTS, HIGH)
    kink = 1e-4


class TestTableFromZeroUp(CellConformance):
    cell = TabulatedCell(VOLTS[4:], LOW[4:], reference_voltage=0.3)
    kink = 1e-4


class TestTableOfStates(CellConformance):
    cell = TabulatedCell(VOLTS, (HIGH, LOW, MIDDLE), extrapolation="linear")
    kink = 1e-4


class TestTableOfStatesLinearBetween(CellConformance):
    cell = TabulatedCell(VOLTS, (LOW, MIDDLE, HIGH), between_states="linear", reference_voltage=0.25)
    g_us = torch.tensor([1.6, 9.0, 30.0, 90.0], dtype=torch.float64)
    kink = 1e-4


class TestTransistorAndTable(CellConformance):
    cell = OneTransistorOneResistor(TabulatedCell(VOLTS, (LOW, MIDDLE, HIGH), extrapolation="linear"), mosfet=SELECTOR)
    kink = 1e-4
