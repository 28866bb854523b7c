"""The GENIEx network against the literal one on concatenated inputs, and the laws of a surrogate's read."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd import gradcheck

from geniex.circuit import Crossbar, shared_matmul
from geniex.errors import CheckpointError, InputError
from geniex.mapping import ConductanceWindow
from geniex.surrogate import GeniexMLP, Scalers
from geniex.surrogate.mlp.scalers import RATIO_FLOOR, current_ratio

WINDOW = ConductanceWindow(100e3, 6.0)


def draw(lead_v: tuple[int, ...], lead_g: tuple[int, ...], seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    v = 0.25 * torch.rand(*lead_v, 5, generator=generator, dtype=torch.float64)
    u = torch.rand(*lead_g, 5, 3, generator=generator, dtype=torch.float64)
    return v, WINDOW.g_off + (WINDOW.g_on - WINDOW.g_off) * u


def literal(surrogate: GeniexMLP, v: Tensor, g: Tensor) -> Tensor:
    """The network as the paper draws it: one dense layer on concat(flatten(G'), V'), every input expanded."""
    lead = torch.broadcast_shapes(v.shape[:-1], g.shape[:-2])
    v, g = v.expand(*lead, 5), g.expand(*lead, 5, 3)
    g_off, g_on = 1 / 600e3, 1 / 100e3
    inputs = torch.cat([((g - g_off) / (g_on - g_off)).flatten(-2), v / 0.25], dim=-1)
    network = nn.Sequential(surrogate.hidden, nn.ReLU(), surrogate.output)
    f_r = 0.9 + (1.2 - 0.9) * network(inputs)
    return torch.einsum("...i,...ij->...j", v, g) / f_r


LEADS = [((), ()), ((4,), ()), ((), (4,)), ((6, 1), (4,)), ((6, 1, 2), (3, 1)), ((1, 4), (2, 1)), ((0,), ())]


@pytest.mark.parametrize(("lead_v", "lead_g"), LEADS)
def test_factored_read_equals_the_concatenated_network(untrained, lead_v, lead_g):
    v, g = draw(lead_v, lead_g)
    currents = untrained.read(untrained.program(g), v)
    expected = literal(untrained, v, g)
    assert currents.shape == expected.shape
    # Only the order of the float64 sums differs.
    torch.testing.assert_close(currents, expected, rtol=1e-12, atol=0)


def test_layers_have_the_published_shape():
    mlp = GeniexMLP(Crossbar(6, 4), WINDOW, 0.25)
    assert mlp.hidden.weight.shape == (500, 6 * 4 + 6)
    assert mlp.output.weight.shape == (4, 500)
    assert sum(1 for _ in mlp.parameters()) == 4


def test_program_keeps_the_tiles_leading_dimensions(untrained):
    array = untrained.program(draw((), (2, 7))[1])
    assert array.hidden.shape == (2, 7, 20)
    assert array.conductances.shape == (2, 7, 5, 3)


def test_zero_voltage_gives_exactly_zero(untrained):
    _, g = draw((), (3,))
    currents = untrained(torch.zeros(2, 1, 5, dtype=torch.float64), g)
    assert torch.equal(currents, torch.zeros(2, 3, 3, dtype=torch.float64))


def test_read_is_differentiable_in_voltages_and_program_and_read_in_conductances(untrained):
    v, g = draw((2, 1), (3,))
    microsiemens = (1e6 * g).requires_grad_()
    tenths = (10 * v).requires_grad_()

    def microampere(tenths: Tensor, microsiemens: Tensor) -> Tensor:
        return 1e6 * untrained(tenths / 10, microsiemens / 1e6)

    assert gradcheck(microampere, (tenths, microsiemens))


def test_single_precision_inputs_set_the_precision_of_the_work(untrained):
    v, g = draw((4,), ())
    single = untrained(v.float(), g.float())
    assert single.dtype == torch.float32
    # A few float32 roundings of a ratio and a current of order one.
    torch.testing.assert_close(single.double(), untrained(v, g), rtol=1e-5, atol=0)


def test_read_and_program_work_on_shapes_alone_on_a_gpu():
    with FakeTensorMode(), torch.device("cuda"):
        mlp = GeniexMLP(Crossbar(5, 3), WINDOW, 0.25)
        array = mlp.program(torch.empty(7, 5, 3))
        currents = mlp.read(array, torch.empty(2, 1, 5))
    assert currents.shape == (2, 7, 3)
    assert currents.device.type == "cuda"


def test_an_extrapolated_ratio_never_turns_the_current_around(untrained):
    with torch.no_grad():
        untrained.output.bias.fill_(-100.0)
    v, g = draw((4,), ())
    v.requires_grad_()
    currents = untrained(v, g)
    torch.testing.assert_close(currents, shared_matmul(v, g) / (RATIO_FLOOR * 0.9), rtol=1e-12, atol=0)
    (slope,) = torch.autograd.grad(currents.sum(), v)
    assert torch.isfinite(slope).all()


def test_scalers_bring_the_window_and_drive_to_zero_and_one():
    scalers = Scalers(WINDOW, 0.25, 0.85, 1.2)
    ends = torch.tensor([WINDOW.g_off, WINDOW.g_on], dtype=torch.float64)
    unit = torch.tensor([0.0, 1.0], dtype=torch.float64)
    torch.testing.assert_close(scalers.scale_conductance(ends), unit)
    torch.testing.assert_close(scalers.scale_voltage(torch.tensor([0.0, 0.25], dtype=torch.float64)), unit)
    torch.testing.assert_close(scalers.scale_ratio(torch.tensor([0.85, 1.2], dtype=torch.float64)), unit)


def test_ratio_round_trip():
    scalers = Scalers(WINDOW, 0.25, 0.85, 1.2)
    f_r = torch.linspace(0.5, 1.5, 11, dtype=torch.float64)
    torch.testing.assert_close(scalers.unscale_ratio(scalers.scale_ratio(f_r)), f_r)


def test_ratio_of_a_column_without_ideal_current_is_not_divided():
    ideal = torch.tensor([2e-6, 0.0, 0.0], dtype=torch.float64)
    f_r = current_ratio(ideal, torch.tensor([1e-6, 0.0, 1e-9], dtype=torch.float64))
    assert f_r[0] == 2
    assert torch.isnan(f_r[1:]).all()
    assert Scalers.fit(WINDOW, 0.25, f_r).r_max == 2


def test_an_ideal_array_has_a_ratio_of_one_and_no_span_to_divide_by():
    scalers = Scalers.fit(WINDOW, 0.25, torch.ones(3))
    assert scalers.r_min == scalers.r_max == 1
    assert torch.equal(scalers.unscale_ratio(scalers.scale_ratio(torch.ones(3))), torch.ones(3))


@pytest.mark.parametrize("bad", [[-1.0, 1.0], [0.0, 1.0], [float("inf")], [float("nan")]])
def test_ratios_of_another_sign_are_refused(bad):
    with pytest.raises(InputError, match="ratios"):
        Scalers.fit(WINDOW, 0.25, torch.tensor(bad))


def test_check_accepts_the_same_circuit_written_otherwise(untrained):
    untrained.check(Crossbar(5, 3, r_wire=9.0, r_wire_row=2.5, r_wire_col=2.5), WINDOW, 0.25)


@pytest.mark.parametrize(
    ("crossbar", "window", "v_max", "told"),
    [
        (Crossbar(6, 3), WINDOW, 0.25, "rows=5 and not 6"),
        (Crossbar(5, 3, r_wire_col=1.0), WINDOW, 0.25, "r_wire_col=2.5 and not 1.0"),
        (Crossbar(5, 3), ConductanceWindow(50e3, 6.0), 0.25, "r_on=100000.0 and not 50000.0"),
        (Crossbar(5, 3), WINDOW, 0.5, "v_max=0.25 and not 0.5"),
    ],
)
def test_check_names_what_differs(untrained, crossbar, window, v_max, told):
    with pytest.raises(CheckpointError, match=told):
        untrained.check(crossbar, window, v_max)
