"""Bad input to a crossbar: errors that name the argument, its value and what is allowed."""

from typing import Any

import pytest
import torch

from geniex.cells import LinearCell
from geniex.circuit import Crossbar
from geniex.errors import InputError

V, G = torch.full((3,), 0.2), torch.full((3, 4), 1e-5)


@pytest.mark.parametrize("method", ["auto", "native", "linear", "ngspice"])
@pytest.mark.parametrize(
    ("v", "g", "message"),
    [
        (torch.zeros(4), G, r"voltages: got shape \(4,\); the last dimension must have 3 entries, one for each row"),
        (torch.tensor(0.1), G, r"voltages: got shape \(\)"),
        (V, torch.zeros(4, 3), r"conductances: got shape \(4, 3\); .* \(rows, cols\) = \(3, 4\)"),
        (torch.zeros(2, 3), torch.zeros(3, 3, 4), r"conductances: .*\(3,\).*broadcast.*\(2,\)"),
        (torch.zeros(3, dtype=torch.int64), G, "voltages: got torch.int64; .*float32 or float64"),
        (V, torch.zeros(3, 4, dtype=torch.int64), "conductances: got torch.int64"),
        (V.half(), G, "voltages: got torch.float16"),
        (V.double(), G, "conductances: got torch.float32; the voltages are torch.float64"),
        ([0.1, 0.2, 0.3], G, "voltages: got list; .*torch tensor"),
        (torch.tensor([0.1, torch.nan, 0.1]), G, r"voltages: got nan at index \(1,\)"),
        (torch.tensor([0.1, 0.1, torch.inf]), G, r"voltages: got inf at index \(2,\)"),
        (V, G.where(torch.eye(3, 4) == 0, torch.nan), r"conductances: got nan at index \(0, 0\)"),
        (V, G - 2e-5, "conductances: got down to -1e-05; a passive cell has"),
        (V, G * 1e6, "conductances: got up to 10; .*microsiemens"),
        (V * 1e3, G, "voltages: got up to 200; .*millivolt"),
    ],
)
def test_bad_tensors(v: Any, g: Any, message: str, method: Any) -> None:
    with pytest.raises(InputError, match=message):
        Crossbar(3, 4).solve(v, g, method=method)


def test_effective_conductance_checks_too() -> None:
    with pytest.raises(InputError, match="conductances: got up to 10"):
        Crossbar(3, 4).effective_conductance(G * 1e6)


def test_unknown_method() -> None:
    with pytest.raises(InputError, match=r"method: got 'spice'; .*native.*ngspice"):
        Crossbar(3, 4).solve(V, G, method="spice")  # type: ignore[arg-type]


@pytest.mark.parametrize("tol", [0.0, -1e-9, 1e-7, 1.0, float("nan")])
def test_unreachable_tolerance(tol: float) -> None:
    with pytest.raises(InputError, match=r"tol: got .*float32"):
        Crossbar(3, 4).solve(V, G, tol=tol)


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        ({"rows": 0}, "rows"),
        ({"cols": 2.5}, "cols"),
        ({"rows": True}, "rows"),
        ({"r_source": -1.0}, "r_source"),
        ({"r_sink": float("nan")}, "r_sink"),
        ({"r_wire": float("inf")}, "r_wire"),
        ({"r_wire_row": -2.0}, "r_wire_row"),
        ({"r_wire_col": "2"}, "r_wire_col"),
        ({"cell": "sinh"}, "cell"),
        ({"cell": LinearCell}, "cell"),
    ],
)
def test_bad_crossbar(arguments: dict[str, Any], name: str) -> None:
    with pytest.raises(InputError, match=f"^{name}: got ") as caught:
        Crossbar(**{"rows": 3, "cols": 4, **arguments})
    assert caught.value.name == name
