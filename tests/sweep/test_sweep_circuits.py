"""Sweeps whose tiles each have a circuit of their own."""

import math
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from geniex.cells import LinearCell, OneTransistorOneResistor, SinhCell
from geniex.circuit import Crossbar
from geniex.circuit.spice import ngspice_version
from geniex.errors import InputError, SweepError
from geniex.mapping import ConductanceWindow
from geniex.sweep import CircuitRanges, SweepConfig, SweepFile, layout, load_sweep_config, run_sweep, seal
from geniex.sweep.circuits import TileCircuits, mean_transmission
from geniex.sweep.solving import solve_tiles

PAIR = OneTransistorOneResistor(SinhCell(), r_access=1e3)


@pytest.fixture
def many(small: SweepConfig) -> SweepConfig:
    """A sweep of 21 circuits."""
    return small.replace(crossbar=Crossbar(5, 3), circuits=CircuitRanges())


@pytest.fixture
def file(many: SweepConfig, tmp_path: Path) -> SweepFile:
    return SweepFile(run_sweep(many, tmp_path / "many.h5", workers=1))


@pytest.mark.slow
@pytest.mark.ngspice
def test_currents_are_those_of_each_tiles_own_circuit(many: SweepConfig, tmp_path: Path) -> None:
    """Kirchhoff's law at every node, cell by cell, from the stored numbers alone."""
    if ngspice_version() is None:
        pytest.skip("no ngspice")
    for cell in (SinhCell(), PAIR):
        config = many.replace(crossbar=Crossbar(5, 3, cell=cell))
        sweep = SweepFile(run_sweep(config, tmp_path / f"{type(cell).__name__}.h5", workers=1))
        conductances, voltages, currents = sweep.read(0, 21)
        with h5py.File(sweep.path) as stored:
            circuit = {name: stored[name][:].tolist() for name in stored if stored[name].shape == (21,)}
        assert 0.0 in circuit["r_wire_row"] + circuit["r_wire_col"]
        assert (conductances == 0).any()
        for k in range(0, 21, 4):
            own = SinhCell(circuit["v0"][k])
            if cell is PAIR:
                own = OneTransistorOneResistor(own, r_access=circuit["r_access"][k])
            names = ("r_source", "r_sink", "r_wire_row", "r_wire_col")
            crossbar = Crossbar(5, 3, cell=own, **{name: circuit[name][k] for name in names})
            expected = crossbar.solve(voltages[k], conductances[k], method="ngspice")
            scale = expected.abs().maximum(1e-3 * expected.abs().amax(-1, keepdim=True))
            # The native solver stops at 1e-9 of each column current, ngspice at 1e-9 of each node and step.
            assert ((currents[k] - expected).abs() / scale).max() < 1e-8


def test_samples_are_levels_of_each_tiles_own_window_and_drive(file: SweepFile) -> None:
    conductances, voltages, _ = (x.numpy() for x in file.read(0, 21))
    circuits = file.circuits(0, 21)
    for k in range(21):
        r_on, on_off, bits = circuits.r_on[k].item(), circuits.on_off[k].item(), int(circuits.slice_bits[k])
        levels = np.linspace(1 / (r_on * on_off), 1 / r_on, 2**bits)
        off = np.abs(conductances[k][..., None] - levels).min(-1)
        assert np.all((off < 1e-12 / r_on) | (conductances[k] == 0))
        streams = voltages[k] / circuits.v_max[k].item()
        assert min(np.abs(streams * (2**b - 1) - np.round(streams * (2**b - 1))).max() for b in (1, 2, 4, 6)) < 1e-12
        assert streams.max() <= 1


def test_stored_scalars_broadcast_over_tiles_and_vectors(file: SweepFile) -> None:
    conductances, voltages, currents = file.read(3, 9)
    circuits = file.circuits(3, 9)
    assert circuits.wires.r_row.shape == circuits.cell.v0.shape == (6, 1)
    for k in range(6):
        alone = circuits.crossbar(k).solve(voltages[k], conductances[k])
        # Each to 1e-9, also of a thousandth of the largest column's.
        assert ((alone - currents[k]).abs() <= 2e-9 * alone.abs().maximum(1e-3 * alone.amax(-1, keepdim=True))).all()


def test_a_tile_and_its_circuit_depend_on_seed_and_index_alone(many: SweepConfig, tmp_path: Path) -> None:
    few, more = solve_tiles(many, 0, 21), solve_tiles(many.replace(tiles=500, shard_tiles=3), 0, 40)
    for a, b in zip(few, more, strict=True):
        assert (a == b[:21]).all()
    other = solve_tiles(many.replace(seed=8), 0, 21)
    assert not np.isin(few.scalars[:, :9][few.scalars[:, :9] > 0], other.scalars).any()


@pytest.mark.slow
def test_distribution(many: SweepConfig) -> None:
    scalars, codes = [], []
    for start in range(0, 1200, 200):
        data = solve_tiles(many.replace(tiles=1200, vectors=1, crossbar=Crossbar(6, 6)), start, start + 200)
        scalars.append(data.scalars)
        codes.append(data.codes)
    r_source, r_sink, r_row, r_col, r_on, on_off, v_max, v0, r_access, bits = np.concatenate(scalars).T
    for wire, largest, none in ((r_row, 10, 0.12), (r_col, 10, 0.12), (r_source, 1e3, 0.08), (r_sink, 1e3, 0.08)):
        assert wire.max() <= largest
        # Three standard deviations of a share of 1200 are 0.03.
        assert abs((wire == 0).mean() - none) < 0.03
        assert abs((wire[wire > 0] / largest < 0.25).mean() - 0.5) < 0.05
    assert ((r_row == 0) & (r_col > 0)).any()
    for value, low, high in ((np.log(r_on), np.log(1e4), np.log(1e6)), (np.log(on_off), np.log(2), np.log(100))):
        assert value.min() >= low
        assert value.max() <= high
        assert abs(value.mean() - (low + high) / 2) < 3 * (high - low) / math.sqrt(12 * 1200)
    assert abs(v0.mean() - 0.35) < 0.01
    assert abs((v_max / v0).mean() - 1.1) < 0.05
    assert (r_access == 0).all()
    assert {int(b): round(float((bits == b).mean()), 1) for b in np.unique(bits)} == {1: 0.2, 2: 0.2, 4: 0.4, 6: 0.2}
    opened = (np.concatenate(codes) == 255).mean((1, 2))
    assert abs((opened > 0).mean() - 0.24) < 0.04  # of the quarter, few have a share that hits no cell
    assert abs(opened.mean() - 0.25 * 0.25) < 0.015


def test_mean_transmission_is_that_of_the_linear_transfer_matrix(file: SweepFile) -> None:
    conductances, _, _ = file.read(0, 21)
    circuits = file.circuits(0, 21)
    got = mean_transmission(conductances, circuits)
    for k in range(21):
        linear = circuits.crossbar(k).effective_conductance(conductances[k])
        assert got[k].item() == pytest.approx((linear.sum() / conductances[k].sum()).item(), rel=1e-8)
    assert got.min() >= 0.2


def test_circuits_that_take_most_of_the_current_are_drawn_again(many: SweepConfig) -> None:
    harsh = many.replace(crossbar=Crossbar(24, 24, cell=PAIR), tiles=24, vectors=1)
    seen = {}
    for least in (0.0, 0.85):
        config = harsh.replace(circuits=CircuitRanges(r_on=(10e3, 50e3), min_transmission=least))
        sweep = solve_tiles(config, 0, 24)
        circuits = TileCircuits.of(config.crossbar, sweep.scalars)
        conductances = circuits.conductances(torch.from_numpy(sweep.codes))
        seen[least] = sweep, mean_transmission(conductances, circuits)
    (all_, transmission), (kept, high) = seen[0.0], seen[0.85]
    assert transmission.min() < 0.6
    assert high.min() >= 0.85
    passed = (transmission >= 0.85).numpy()
    assert passed.any()
    np.testing.assert_array_equal(all_.scalars[passed], kept.scalars[passed])


def test_ranges_without_such_a_circuit(many: SweepConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("geniex.sweep.circuits._ATTEMPTS", 5)
    ranges = CircuitRanges(r_terminal_none=0.0, r_terminal=1e6, min_transmission=1.0)
    with pytest.raises(SweepError, match=r"tile 0: none of 5 circuits drawn has a mean transmission of at least 1"):
        solve_tiles(many.replace(circuits=ranges), 0, 1)


def test_file_of_one_circuit_gives_it_for_all_tiles(small: SweepConfig, tmp_path: Path) -> None:
    sweep = SweepFile(run_sweep(small, tmp_path / "a.h5", workers=1))
    circuits = sweep.circuits(2, 7)
    assert not sweep.spans_circuits
    for name, value in (("r_source", 800), ("r_row", 4), ("r_col", 9), ("v_max", 0.3), ("v0", 0.25), ("r_access", 0)):
        torch.testing.assert_close(getattr(circuits, name), torch.full((5,), float(value), dtype=torch.float64))
    assert circuits.crossbar(0) == small.crossbar
    linear = small.replace(crossbar=Crossbar(5, 3, cell=LinearCell()))
    circuits = SweepFile(run_sweep(linear, tmp_path / "linear.h5", workers=1)).circuits(0, 1)
    assert circuits.v0.item() == math.inf
    assert circuits.cell == LinearCell()


def test_older_configurations_keep_their_form(small: SweepConfig, many: SweepConfig) -> None:
    assert "circuits" not in small.to_dict()
    assert SweepConfig.from_dict(many.to_dict()) == many


def test_digest_sees_the_circuits(many: SweepConfig, file: SweepFile) -> None:
    before = file.digest
    file.close()
    with h5py.File(file.path, "r+") as stored:
        stored["on_off"][20] += 1e-9
    seal.append(file.path, layout.BULK)
    assert SweepFile(file.path).digest != before


YAML = """
crossbar: {rows: 8, cols: 4, cell: {_type: SinhCell}}
circuits: {r_wire: 5, v0: [0.25, 0.25]}
tiles: 7
vectors: 2
"""


def test_yaml(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(YAML)
    config = load_sweep_config(tmp_path / "a.yaml")
    assert config.circuits == CircuitRanges(r_wire=5, v0=(0.25, 0.25))
    assert config.crossbar == Crossbar(8, 4)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (YAML + "v_max: 0.3", "v_max: got 0.3; each tile draws its own"),
        (YAML + "preset: geniex-16", "preset: got geniex-16; each tile draws its own"),
        (YAML + "slice_bits: 2", "slice_bits: got 2; each tile draws its own"),
        (YAML.replace("cols: 4", "cols: 4, r_wire: 2"), "crossbar.r_wire: got 2; each tile draws its own"),
        (YAML.replace("SinhCell", "LinearCell"), "circuits are drawn for a SinhCell"),
        (YAML.replace("r_wire: 5", "r_wires: 5"), "CircuitRanges.r_wires: got an unknown field"),
        (
            YAML.replace("r_wire: 5", "on_off: [5, 2]"),
            "on_off: got (5, 2); it must be two numbers, the lowest and the highest",
        ),
        (YAML.replace("r_wire: 5", "drive: [0, 2]"), "drive: got 0; it must be a finite number greater than 0"),
        (YAML.replace("r_wire: 5", "open_share: 2"), "open_share: got 2"),
        (YAML.replace("r_wire: 5", "slice_bits: [8]"), "slice_bits: got 8"),
        (YAML.replace("r_wire: 5", "slice_bits: []"), "slice_bits: got ()"),
    ],
)
def test_bad_yaml(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "a.yaml").write_text(text)
    with pytest.raises(InputError) as error:
        load_sweep_config(tmp_path / "a.yaml")
    assert message in str(error.value)


def test_ngspice_engine_solves_each_tile_with_its_own_circuit(many: SweepConfig) -> None:
    if ngspice_version() is None:
        pytest.skip("no ngspice")
    native = solve_tiles(many, 8, 11)
    spice = solve_tiles(many.replace(engine="ngspice"), 8, 11)
    np.testing.assert_allclose(spice.currents, native.currents, rtol=1e-7)


def test_window_of_a_spanning_configuration_stands_for_nothing(many: SweepConfig) -> None:
    a = solve_tiles(many, 0, 8)
    b = solve_tiles(many.replace(window=ConductanceWindow(20e3, 3.0), v_max=1.0, slice_bits=1, stream_bits=2), 0, 8)
    for x, y in zip(a, b, strict=True):
        np.testing.assert_array_equal(x, y)
