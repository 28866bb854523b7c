"""The reference sets that ship: made by ngspice, so they test the native solver where ngspice is absent too."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from geniex.circuit import solve_cells
from geniex.circuit.spice import ngspice_version
from geniex.sweep import SweepFile, SweepIndex, draw_tile, load_sweep_config, load_sweep_set

DATA = Path(__file__).parents[2] / "spice_data"
README = (DATA / "README.md").read_text()
FILES = sorted([*DATA.glob("*.h5"), *DATA.glob("reference-universal/*.h5")])


def deviation(currents: Tensor, expected: Tensor) -> Tensor:
    """Largest |dI_j| / max(|I_j|, 1e-3 max_j |I_j|); columns of open cells alone carry nothing in both."""
    scale = expected.abs().maximum(1e-3 * expected.abs().amax(-1, keepdim=True))
    return torch.where(currents == expected, 0.0, (currents - expected).abs() / scale).max()


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_native_solver_agrees_with_the_ngspice_reference(path: Path) -> None:
    sweep = SweepFile(path)
    assert sweep.attributes["solver"] == "ngspice"
    conductances, voltages, expected = sweep.read(0, sweep.tiles)
    circuits = sweep.circuits(0, sweep.tiles)
    currents = solve_cells(voltages, conductances[:, None], circuits.cell, circuits.wires).currents
    assert deviation(currents, expected) <= 1e-8


def test_reference_is_what_its_configuration_draws() -> None:
    # Fails when sampling changes for a given seed, by us or by NumPy: then shipped digests are void.
    sweep = SweepFile(DATA / "reference-16.h5")
    assert sweep.config == load_sweep_config(DATA / "reference-16.yaml")
    conductances, voltages, _ = (x.numpy() for x in sweep.read(0, sweep.tiles))
    for tile in range(sweep.tiles):
        codes, levels = draw_tile(sweep.config, tile)
        np.testing.assert_allclose(voltages[tile], levels * 0.25 / 15, rtol=1e-13)
        np.testing.assert_allclose(conductances[tile], (1 + codes * 5 / 15) / 600e3, rtol=1e-12)


@pytest.mark.parametrize("name", ["reference-32", "reference-64", "reference-64-0v5"])
def test_a_file_was_made_from_its_configuration(name: str) -> None:
    sweep = SweepFile(DATA / f"{name}.h5")
    assert sweep.config == load_sweep_config(DATA / f"{name}.yaml")


def test_the_set_was_made_from_its_configuration_and_spans_what_it_says() -> None:
    index = SweepIndex(DATA / "reference-universal")
    assert index.set == load_sweep_set(DATA / "reference-universal.yaml")
    circuits = [file.circuits(0, file.tiles) for file in index.files]
    drive = torch.cat([c.v_max / c.v0 for c in circuits])
    assert drive.min() < 0.4
    assert drive.max() > 1.8
    assert {type(c.like.cell).__name__ for c in circuits} == {"SinhCell", "OneTransistorOneResistor"}
    assert any((file.read(0, file.tiles)[0] == 0).any() for file in index.files)
    others = [load_sweep_set(DATA / f"universal-{name}.yaml").sweeps().values() for name in ("train", "test", "large")]
    seeds = {config.seed for sweeps in others for config in sweeps}
    assert not seeds & {file.config.seed for file in index.files}


def test_readme_lists_every_file_with_its_digest() -> None:
    listed = dict(re.findall(r"^\| `([\w./-]+\.h5)` .*`([0-9a-f]{64})` \|$", README, re.MULTILINE))
    assert listed == {str(path.relative_to(DATA)): SweepFile(path).digest for path in FILES}
    assert SweepIndex(DATA / "reference-universal").digest in README
    versions = {SweepFile(path).attributes["solver_version"] for path in FILES}
    assert all(version in README for version in versions)


def test_reference_sets_stay_small() -> None:
    assert sum(path.stat().st_size for path in DATA.rglob("*") if path.is_file()) < 10e6


@pytest.mark.slow
@pytest.mark.ngspice
@pytest.mark.parametrize("name", ["reference-32.h5", "reference-universal/32x40-1t1r.h5"])
def test_ngspice_solves_the_reference_again(name: str) -> None:
    """The currents of the first and the last tile, whatever version of ngspice there is."""
    if ngspice_version() is None:
        pytest.skip("no ngspice")
    sweep = SweepFile(DATA / name)
    for tile in (0, sweep.tiles - 1):
        conductances, voltages, stored = (x[0] for x in sweep.read(tile, tile + 1))
        crossbar = sweep.circuits(tile, tile + 1).crossbar(0)
        again = crossbar.solve(voltages[:2], conductances, method="ngspice")
        # Both have converged to rounding.
        assert deviation(again, stored[:2]) < 1e-9
