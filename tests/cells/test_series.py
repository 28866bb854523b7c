"""One transistor, one resistor: the access device's law, the inner node, and what may not be."""

import math
from typing import Any

import pytest
import torch
from scipy.optimize import brentq

from geniex.cells import Level1Mosfet, LinearCell, OneTransistorOneResistor, SinhCell, TabulatedCell
from geniex.errors import InputError

MOSFET = Level1Mosfet(
    gate_voltage=1.0, width_over_length=4.0, threshold=0.4, transconductance=1e-4, channel_length_modulation=0.05
)


def shichman_hodges(gate: float, drain: float, source: float) -> float:
    """Drain current of ``MOSFET`` from its three node voltages, as in the paper: source is the lower one."""
    if drain < source:
        return -shichman_hodges(gate, source, drain)
    over, w = gate - source - 0.4, drain - source
    if over <= 0:
        return 0.0
    beta = 1e-4 * 4 * (1 + 0.05 * w)
    return beta * over**2 / 2 if w >= over else beta * (over - w / 2) * w


@pytest.mark.parametrize("w", [-1.5, -0.2, 0.0, 0.3, 0.5999, 0.6, 0.6001, 2.0])
def test_transistor_follows_shichman_and_hodges_in_both_directions(w: float) -> None:
    current, _ = MOSFET.current_and_derivative(torch.tensor(w, dtype=torch.float64))
    assert current.item() == pytest.approx(shichman_hodges(gate=1.0, drain=w, source=0.0), rel=1e-14)


def test_transistor_limits_the_current_that_a_resistance_does_not() -> None:
    g, u = torch.tensor(1e-3, dtype=torch.float64), torch.tensor([1.0, 2.0], dtype=torch.float64)
    flat = MOSFET.replace(channel_length_modulation=0.0)
    current, slope = OneTransistorOneResistor(SinhCell(), mosfet=flat).current_and_derivative(u, g)
    torch.testing.assert_close(current, torch.full_like(u, 4e-4 * 0.6**2 / 2), rtol=1e-12, atol=0)
    assert not slope.any()


@pytest.mark.parametrize("g", [1e-9, 1e-6, 1e-4, 1e-2])
@pytest.mark.parametrize("u", [-2.0, -0.1, 1e-6, 0.3, 2.0])
def test_inner_node_balances_both_currents(u: float, g: float) -> None:
    def mismatch(v: float) -> float:
        return g * 0.25 * math.sinh(v / 0.25) - shichman_hodges(1.0, u - v, 0.0)

    share = brentq(mismatch, min(u, 0.0), max(u, 0.0), xtol=1e-300, rtol=1e-15)
    cell = OneTransistorOneResistor(SinhCell(), mosfet=MOSFET)
    current = cell.current(torch.tensor(u, dtype=torch.float64), torch.tensor(g, dtype=torch.float64))
    assert current.item() == pytest.approx(g * 0.25 * math.sinh(share / 0.25), rel=1e-12)


@pytest.mark.parametrize("u", [-60.0, 5.0, 60.0])
def test_steep_cells_at_high_voltages(u: float) -> None:
    # sinh(600) is out of single precision's and e^-261 out of anyone's sight: the resistance rules.
    cell = OneTransistorOneResistor(SinhCell(v0=0.1), r_access=1e4)
    for dtype, rtol in ((torch.float32, 2e-5), (torch.float64, 1e-13)):
        at = torch.tensor(u, dtype=dtype)
        current, slope = cell.current_and_derivative(at, torch.tensor(1e-5, dtype=dtype))
        share = u - 1e4 * current.item()
        assert current.item() == pytest.approx(1e-6 * math.sinh(share / 0.1), rel=rtol * abs(u) / 0.1)
        assert slope.item() == pytest.approx(1e-4, rel=0.03)


def test_zero_access_resistance_is_the_cell_alone() -> None:
    u, g = torch.linspace(-1, 1, 9, dtype=torch.float64), torch.tensor(1e-5, dtype=torch.float64)
    cell = OneTransistorOneResistor(SinhCell(), r_access=0.0)
    torch.testing.assert_close(cell.current(u, g), SinhCell().current(u, g), rtol=1e-14, atol=0)


def test_linear_pair_is_a_voltage_divider() -> None:
    cell = OneTransistorOneResistor(LinearCell(), r_access=5e3)
    current = cell.current(torch.tensor(0.4, dtype=torch.float64), torch.tensor(2e-4, dtype=torch.float64))
    assert current.item() == pytest.approx(0.4 / (5e3 + 5e3), rel=1e-15)


def test_access_resistance_per_tile_with_gradients() -> None:
    ohms = torch.tensor([0.0, 1.0, 20.0], dtype=torch.float64)
    v0 = torch.tensor([0.2, 0.25, 0.3], dtype=torch.float64)
    u = torch.linspace(-0.8, 0.8, 6, dtype=torch.float64).reshape(2, 3).requires_grad_()
    g = torch.linspace(1.0, 200.0, 18, dtype=torch.float64).reshape(3, 2, 3).requires_grad_()
    pair = OneTransistorOneResistor(SinhCell(v0), r_access=1e3 * ohms)
    for k in range(3):
        one = OneTransistorOneResistor(SinhCell(v0[k].item()), r_access=1e3 * ohms[k].item())
        torch.testing.assert_close(pair.current(u, g * 1e-6)[k], one.current(u, g[k] * 1e-6), rtol=1e-13, atol=0)
    inputs = (u, g, v0.requires_grad_(), (ohms + 0.5).requires_grad_())

    def microamperes(u: torch.Tensor, g: torch.Tensor, v0: torch.Tensor, kiloohm: torch.Tensor) -> torch.Tensor:
        return OneTransistorOneResistor(SinhCell(v0), r_access=1e3 * kiloohm).current(u, g * 1e-6) * 1e6

    assert torch.autograd.gradcheck(microamperes, inputs)


def test_tensors_of_the_inner_cell_are_found_and_mapped() -> None:
    v0, ohm = torch.tensor(0.2), torch.tensor([1e3, 2e3])
    pair = OneTransistorOneResistor(SinhCell(v0), r_access=ohm)
    assert [x.data_ptr() for x in pair.tensors()] == [v0.data_ptr(), ohm.data_ptr()]
    doubled = pair.map_tensors(lambda x: 2 * x)
    assert (doubled.cell.v0.item(), doubled.r_access.tolist()) == (pytest.approx(0.4), [2e3, 4e3])
    assert SinhCell(0.3).map_tensors(torch.neg) == SinhCell(0.3)


def test_second_derivatives_are_refused_rather_than_wrong() -> None:
    u = torch.tensor(0.5, dtype=torch.float64, requires_grad=True)
    pair = OneTransistorOneResistor(SinhCell(), r_access=1e4)
    (slope,) = torch.autograd.grad(pair.current(u, torch.tensor(1e-4, dtype=torch.float64)), u, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        slope.backward()


@pytest.mark.parametrize("access", [{"r_access": 1e4}, {"mosfet": MOSFET}], ids=["resistance", "transistor"])
def test_a_pair_more_conductive_than_its_access_device_is_refused(access: dict[str, Any]) -> None:
    pair = OneTransistorOneResistor(SinhCell(), **access, reference_voltage=0.5)
    limit = 1e-4 if "r_access" in access else shichman_hodges(1.0, 0.5, 0.0) / 0.5
    good = torch.tensor([0.0, 0.5, 0.99], dtype=torch.float64) * limit
    pair.check_range(good, span=1.0)
    with pytest.raises(InputError, match=r"conductances: got up to .* reference voltage of 0\.5 V"):
        pair.check_range(torch.cat([good, good[-1:] * 1.02]), span=1.0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "r_access, mosfet: got neither"),
        ({"r_access": 1e3, "mosfet": MOSFET}, "r_access, mosfet: got both"),
        ({"r_access": -1.0}, r"r_access: got -1\.0; .* at least 0 ohm"),
        ({"r_access": math.nan}, r"r_access: got nan"),
        ({"mosfet": 1e3}, r"mosfet: got 1000\.0; it must be a Level1Mosfet"),
        ({"cell": "sinh", "r_access": 1e3}, "cell: got 'sinh'"),
        ({"r_access": 1e3, "reference_voltage": 0.0}, "reference_voltage: got 0"),
    ],
)
def test_bad_pairs_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        OneTransistorOneResistor(**{"cell": SinhCell(), **arguments})


def test_programming_through_the_access_device_needs_one_shape_for_all_conductances() -> None:
    states = TabulatedCell((0.0, 0.1, 0.2), ((0.0, 1e-6, 3e-6), (0.0, 1e-5, 2e-5)))
    with pytest.raises(InputError, match=r"reference_voltage: got 0\.1; the current of TabulatedCell"):
        OneTransistorOneResistor(states, r_access=1e3, reference_voltage=0.1)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"gate_voltage": 0.4}, r"gate_voltage: got 0\.4; it must exceed the threshold of 0\.4 V"),
        ({"width_over_length": 0.0}, "width_over_length: got 0"),
        ({"threshold": -0.1}, r"threshold: got -0\.1"),
        ({"transconductance": math.inf}, "transconductance: got inf"),
        ({"channel_length_modulation": -0.1}, r"channel_length_modulation: got -0\.1"),
    ],
)
def test_bad_transistors_are_refused(changes: dict[str, float], message: str) -> None:
    with pytest.raises(InputError, match=message):
        MOSFET.replace(**changes)
