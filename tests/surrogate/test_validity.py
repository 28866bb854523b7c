"""The error bound of physics surrogates against exact solutions."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from geniex.cells import LinearCell, SinhCell
from geniex.circuit import Crossbar
from geniex.circuit.metrics import relative_error
from geniex.cli.main import main
from geniex.errors import CheckpointError, InputError
from geniex.mapping import ConductanceWindow
from geniex.surrogate import calibrate_on_circuit, calibrate_on_sweep, load_surrogate, physics_member
from geniex.surrogate.physics.error_bound import Validity, fit_bound
from geniex.sweep import SweepConfig, SweepFile, run_sweep

WINDOW = ConductanceWindow(20e3, 10.0)


def test_the_line_lies_above_most_errors() -> None:
    generator = torch.Generator().manual_seed(0)
    figures = torch.rand(4000, 7, dtype=torch.float64, generator=generator)
    slopes = torch.tensor([1.0, 0.5, 0, 0, -0.3, 2, 0], dtype=torch.float64)
    spread = 0.1 * torch.randn(4000, dtype=torch.float64, generator=generator)
    errors = 10 ** (figures @ slopes - 3 + spread)
    found = fit_bound(figures, errors)
    assert found.slopes == pytest.approx(slopes.tolist(), abs=0.03)
    # 95 % of a normal distribution lie below 1.645 standard deviations.
    assert found.constant == pytest.approx(-3 + 0.1645, abs=0.03)
    assert (errors <= found.bound(figures)).double().mean() == pytest.approx(0.95, abs=0.002)
    higher = fit_bound(figures, 10 * errors, slopes=found.slopes)
    assert higher.slopes == found.slopes
    assert higher.constant == pytest.approx(found.constant + 1, abs=1e-3)


@pytest.mark.parametrize("name", ["physics", "physics-fast"])
@pytest.mark.parametrize(
    ("crossbar", "v_max"),
    [
        (Crossbar(24, 20), 0.25),
        (Crossbar(20, 28, r_wire=6.0), 0.5),
        (Crossbar(28, 16, r_source=900, r_sink=20, r_wire_row=1.0, r_wire_col=8.0, cell=SinhCell(v0=0.35)), 0.6),
    ],
    ids=["nominal", "harsh", "long columns"],
)
def test_bounds_of_shipped_surrogates_hold_on_unseen_circuits(name: str, crossbar: Crossbar, v_max: float) -> None:
    """As shipped for most columns, closer where it was set to the crossbar; and it tells good reads from bad."""
    surrogate = load_surrogate(name).bound(crossbar, WINDOW, v_max)
    generator = torch.Generator().manual_seed(7)
    codes = torch.randint(0, 16, (6, crossbar.rows, crossbar.cols), generator=generator)
    conductances = WINDOW.to_conductance(codes, 16, dtype=torch.float64)
    voltages = torch.randint(0, 16, (6, 40, crossbar.rows), generator=generator).double() * v_max / 15
    voltages *= torch.rand(6, 40, crossbar.rows, generator=generator) < torch.rand(6, 40, 1, generator=generator)
    exact = crossbar.solve(voltages, conductances[:, None], tol=1e-9)
    array = surrogate.program(conductances[:, None])
    currents = surrogate.read(array, voltages)
    error, bound = relative_error(exact, currents), surrogate.error_bound(array, voltages, currents)
    assert bound.shape == currents.shape
    driven = voltages.any(-1)
    # 95 % are those over all circuits: on one they may be fewer.
    assert (error <= bound)[driven].double().mean() > 0.6
    ranks = torch.stack([x[driven].flatten().argsort().argsort().double() for x in (error, bound)])
    assert torch.corrcoef(ranks)[0, 1] > 0.3
    own = calibrate_on_circuit(surrogate)
    assert own.info["crossbar"]["solutions"] == 256
    assert (error <= own.error_bound(array, voltages, currents))[driven].double().mean() > 0.8
    assert own.info["crossbar"]["held_out"]["coverage"] == pytest.approx(0.95, abs=0.12)


@pytest.mark.parametrize("name", ["physics", "physics-fast"])
def test_bounds_of_1_bit_inputs_are_those_of_the_same_drives(name: str) -> None:
    surrogate = load_surrogate(name)
    voltages = 0.5 * (torch.rand(7, 20, generator=torch.Generator().manual_seed(3)) < 0.5).double()
    conductances = torch.full((20, 16), 3e-5, dtype=torch.float64)
    bounds = []
    for binary in (False, True):
        bound = surrogate.bound(Crossbar(20, 16, r_wire=5.0), WINDOW, 0.5, binary)
        array = bound.program(conductances)
        bounds.append(bound.error_bound(array, voltages, bound.read(array, voltages)))
    assert torch.allclose(*bounds, rtol=1e-6)


@pytest.mark.slow
def test_exact_surrogates_and_too_little_data_have_an_answer(tmp_path: Path) -> None:
    ideal = Crossbar(8, 8, cell=LinearCell(), r_source=0, r_sink=0, r_wire=0)
    exact = calibrate_on_circuit(physics_member("physics-fast").bound(ideal, WINDOW, 0.25))
    assert exact.info["crossbar"]["held_out"]["relative_rms"] < 1e-9
    run_sweep(SweepConfig(crossbar=Crossbar(4, 4), window=WINDOW, v_max=0.2, tiles=1, vectors=2), tmp_path / "one.h5")
    with pytest.raises(InputError, match="at least two tiles"):
        calibrate_on_sweep(physics_member("physics"), SweepFile(tmp_path / "one.h5"))


def test_a_bound_is_cheap_to_ask_and_missing_where_nothing_was_calibrated() -> None:
    surrogate = physics_member("physics-fast").bound(Crossbar(6, 5, cell=LinearCell()), WINDOW, 0.25)
    conductances, voltages = torch.full((6, 5), 2e-5), torch.full((3, 6), 0.1)
    array = surrogate.program(conductances)
    currents = surrogate.read(array, voltages)
    with pytest.raises(CheckpointError, match="no error bound"):
        surrogate.error_bound(array, voltages, currents)
    surrogate.validity = Validity((0.0,) * 7, -2.0)
    assert torch.allclose(surrogate.error_bound(array, voltages, currents), torch.tensor(0.01))
    silent = surrogate.error_bound(array, torch.zeros(6), torch.zeros(5))
    assert torch.isfinite(silent).all()
    with pytest.raises(InputError, match=r"solutions: got 4.*at least 16"):
        calibrate_on_circuit(surrogate, solutions=4)
    with pytest.raises(InputError, match=r"name: got .*physics, physics-fast"):
        physics_member("phys")


def test_train_calibrates_the_physics_family(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = tmp_path / "set.yaml"
    config.write_text("shapes: [[6, 8], [9, 5]]\ncells: [{_type: SinhCell}]\ncircuits: {}\ntiles: 12\nvectors: 3\n")
    assert main(["sweep", str(config), "--out", str(tmp_path / "set"), "--workers", "1"]) == 0
    argv = ["train", str(tmp_path / "set"), "--family", "physics-fast", "--out", str(tmp_path / "mine")]
    assert main(argv) == 0
    assert "error bound fitted to half of the 24 tiles" in " ".join(capsys.readouterr().out.split())
    mine = load_surrogate(tmp_path / "mine")
    assert (mine.powers, mine.moments) == ((3, 2, 1), 0)
    assert len(mine.validity.slopes) == 7
    assert mine.info["calibration"]["held_out"]["nf_rmse_pp"] < 1
    assert main([*argv, "--epochs", "3"]) == 2
    assert "epochs: got 3; it is an option of the GENIEx network" in " ".join(capsys.readouterr().err.split())
