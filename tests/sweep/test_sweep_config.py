import json
from pathlib import Path

import pytest

from geniex.cells import LinearCell, SinhCell
from geniex.circuit import Crossbar
from geniex.errors import InputError
from geniex.mapping import ConductanceWindow
from geniex.preset import presets
from geniex.sweep import SweepConfig, SweepSet, load_sweep, load_sweep_config, load_sweep_set

SHIPPED = sorted((Path(__file__).parents[2] / "spice_data").glob("*.yaml"))

PLAIN = """
crossbar: {rows: 8, cols: 4, r_wire: 1.5, cell: {_type: SinhCell, v0: 0.3}}
window: {r_on: 50e3, on_off: 10}
v_max: 0.5
tiles: 7
vectors: 2
"""


def _load(tmp_path: Path, text: str) -> SweepConfig:
    path = tmp_path / "sweep.yaml"
    path.write_text(text)
    return load_sweep_config(path)


def test_plain_fields(tmp_path: Path) -> None:
    config = _load(tmp_path, PLAIN)
    crossbar = Crossbar(8, 4, r_wire=1.5, cell=SinhCell(0.3))
    assert config == SweepConfig(crossbar, ConductanceWindow(50e3, 10), 0.5, tiles=7, vectors=2)


def test_another_cell(tmp_path: Path) -> None:
    text = PLAIN.replace("{_type: SinhCell, v0: 0.3}", "{_type: LinearCell}")
    assert _load(tmp_path, text).crossbar.cell == LinearCell()


def test_preset_stands_for_crossbar_window_and_drive(tmp_path: Path) -> None:
    config, preset = _load(tmp_path, "{preset: yale-64, tiles: 1, vectors: 1}"), presets["yale-64"]
    assert (config.crossbar, config.window, config.v_max) == (preset.crossbar, preset.window, preset.v_max)


def test_round_trip_through_json(small: SweepConfig) -> None:
    assert SweepConfig.from_dict(json.loads(json.dumps(small.to_dict()))) == small


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (PLAIN + "tilez: 3", "SweepConfig.tilez: got an unknown field"),
        (PLAIN.replace("r_wire:", "r_wires:"), "Crossbar.r_wires: got an unknown field"),
        (PLAIN.replace("tiles: 7", "tiles: many"), "tiles: got 'many'; it must be a whole number"),
        (PLAIN.replace("tiles: 7", ""), "config.tiles: got no value; this field has no default"),
        (PLAIN.replace("rows: 8, ", ""), "crossbar.rows: got no value"),
        (PLAIN.replace("on_off: 10", "on_off: 0.5"), "on_off: got 0.5"),
        (PLAIN.replace("SinhCell", "CoshCell"), "'CoshCell'"),
        (PLAIN.replace("{_type: SinhCell, v0: 0.3}", "sinh"), "it must be a geniex Cell"),
        (PLAIN + "engine: hspice", "engine: got 'hspice'; it must be one of native, ngspice"),
        (PLAIN + "slice_bits: 17", "slice_bits: got 17"),
        (PLAIN + "dnn_share: 1.5", "dnn_share: got 1.5"),
        (PLAIN + "seed: -1", "seed: got -1"),
        (PLAIN + "preset: geniex-16", "crossbar: got a value beside preset"),
        ("{preset: geniex-17, tiles: 1, vectors: 1}", "preset: got 'geniex-17'; the presets are geniex-16,"),
        ("[1, 2]", "it must be a mapping"),
        ("{1: 2}", "it must be a mapping"),
        ("", "it must be a mapping"),
        ("a: [", "cannot be read as YAML"),
        ("preset: geniex-16\npreset: geniex-32", "the key 'preset' is given twice, the second time in line 2"),
    ],
)
def test_bad_configurations_name_field_and_file(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(InputError) as error:
        _load(tmp_path, text)
    assert message in str(error.value)
    assert str(tmp_path / "sweep.yaml") in str(error.value)


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file"):
        load_sweep_config(tmp_path / "no.yaml")


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_shipped_configurations_parse(path: Path) -> None:
    sweep = load_sweep(path)
    assert sweep.tiles >= 32
    config = sweep.common if isinstance(sweep, SweepSet) else sweep
    # Multiples of the solver's block waste nothing.
    assert config.engine == "ngspice" or config.shard_tiles % 8 == 0


def test_configurations_ship() -> None:
    assert {"demo", "geniex-16", "geniex-32", "geniex-64"} <= {path.stem for path in SHIPPED}


def test_no_test_circuit_was_trained_on() -> None:
    train, test, large = (
        load_sweep_set(Path(__file__).parents[2] / "spice_data" / f"universal-{name}.yaml")
        for name in ("train", "test", "large")
    )
    assert set(train.shapes) & set(test.shapes) == {(64, 64)}
    assert max(max(shape) for shape in train.shapes) <= 64 < min(max(shape) for shape in large.shapes)
    assert {rows for shape in train.shapes for rows in shape} == {8, 12, 16, 24, 32, 48, 64}
    assert train.common.circuits == test.common.circuits == large.common.circuits
    seeds = [config.seed for sweeps in (train, test, large) for config in sweeps.sweeps().values()]
    assert len(set(seeds)) == len(seeds)
