"""Sets of sweeps: one file a shape and cell, and their index."""

import errno
import json
import os
import shutil
from pathlib import Path

import h5py
import pytest
import yaml

from geniex.cells import LinearCell, OneTransistorOneResistor, SinhCell
from geniex.circuit import Crossbar
from geniex.cli.main import main
from geniex.errors import FileFormatError, InputError, SweepError
from geniex.files import add_digest
from geniex.preset import presets
from geniex.sweep import (
    CircuitRanges,
    SweepConfig,
    SweepIndex,
    SweepObserver,
    SweepSet,
    layout,
    load_sweep_config,
    load_sweep_set,
    run_sweep,
    run_sweep_set,
    seal,
    shards,
    verify_sweep_set,
)

PAIR = OneTransistorOneResistor(SinhCell(), r_access=1e3)


class Log(SweepObserver):
    def __init__(self) -> None:
        self.total = self.resumed = self.done = 0

    def started(self, tiles: int, resumed: int) -> None:
        self.total, self.resumed = tiles, resumed

    def solved(self, tiles: int) -> None:
        self.done += tiles


@pytest.fixture
def sweeps(small: SweepConfig) -> SweepSet:
    common = small.replace(circuits=CircuitRanges(), tiles=10, vectors=2, shard_tiles=4)
    return SweepSet(((4, 3), (3, 5)), (SinhCell(), PAIR), common)


def _run(sweeps: SweepSet, out: Path) -> Log:
    log = Log()
    run_sweep_set(sweeps, out, workers=1, observer=log)
    return log


def test_one_file_a_shape_and_cell_and_an_index(sweeps: SweepSet, tmp_path: Path) -> None:
    log = _run(sweeps, tmp_path / "set")
    assert (log.total, log.resumed, log.done) == (40, 0, 40)
    names = ["4x3-sinh.h5", "4x3-1t1r.h5", "3x5-sinh.h5", "3x5-1t1r.h5"]
    assert sorted(path.name for path in (tmp_path / "set").iterdir()) == sorted([*names, "index.json"])
    listed = json.loads((tmp_path / "set" / "index.json").read_text())["files"]
    assert [entry["file"] for entry in listed] == names
    for path in (tmp_path / "set", tmp_path / "set" / "index.json"):
        index = SweepIndex(path)
        for entry, file in zip(listed, index.files, strict=True):
            assert (entry["rows"], entry["cols"]) == (file.crossbar.rows, file.crossbar.cols)
            assert entry["cell"] == type(file.crossbar.cell).__name__
            assert entry["tiles"] == file.tiles == 10
            assert entry["digest"] == file.digest
        assert index.set == sweeps
        assert index.tiles == sweeps.tiles == 40


def test_each_file_is_the_sweep_that_its_configuration_makes_alone(sweeps: SweepSet, tmp_path: Path, content) -> None:
    _run(sweeps, tmp_path / "set")
    for name, config in sweeps.sweeps().items():
        run_sweep(config, tmp_path / name, workers=1)
        assert content(tmp_path / name) == content(tmp_path / "set" / name)


def test_sweeps_draw_apart_and_do_not_depend_on_the_other_shapes(sweeps: SweepSet) -> None:
    seeds = {name: config.seed for name, config in sweeps.sweeps().items()}
    assert len(set(seeds.values())) == 4
    more = sweeps.replace(shapes=((9, 9), *sweeps.shapes)).sweeps()
    assert {name: more[name].seed for name in seeds} == seeds
    other = sweeps.replace(common=sweeps.common.replace(seed=8)).sweeps()
    assert not {config.seed for config in other.values()} & set(seeds.values())


def test_finished_files_are_skipped_and_the_rest_resumed(
    sweeps: SweepSet, tmp_path: Path, content, monkeypatch: pytest.MonkeyPatch
) -> None:
    _run(sweeps, tmp_path / "whole")
    out, replace, count = tmp_path / "set", os.replace, [0]

    def full(source: Path, target: Path) -> None:
        count[0] += Path(target).suffix == ".h5"
        if count[0] > 6:  # three shards and the merged file of the first sweep, two shards of the second
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(target))
        replace(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(shards.os, "replace", full)
        with pytest.raises(SweepError, match=r"No space left on device; finished tiles are kept in .*, run the same"):
            _run(sweeps, out)
    assert (out / "4x3-sinh.h5").exists()
    assert not (out / "index.json").exists()
    log = _run(sweeps, out)
    assert (log.total, log.resumed, log.done) == (40, 18, 22)
    for name in sweeps.sweeps():
        assert content(out / name) == content(tmp_path / "whole" / name)
    assert SweepIndex(out).digest == SweepIndex(tmp_path / "whole").digest
    assert _run(sweeps, out).done == 0


def test_a_sweep_that_fails_does_not_stop_the_others(
    sweeps: SweepSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from geniex.sweep import run

    solve = run.solve_tiles

    def failing(config: SweepConfig, start: int, stop: int):
        if config.crossbar.cols == 5 and start == 4:
            raise SweepError("tile 5: does not settle")
        return solve(config, start, stop)

    with monkeypatch.context() as patch:
        patch.setattr(run, "solve_tiles", failing)
        with pytest.raises(SweepError, match=r"2 of 4 sweeps are not finished.*3x5-sinh.h5: 1 of 3 shards.*3x5-1t1r"):
            _run(sweeps, tmp_path / "set")
    assert (tmp_path / "set" / "4x3-1t1r.h5").exists()
    log = _run(sweeps, tmp_path / "set")  # running again retries
    assert (log.resumed, log.done) == (32, 8)
    assert len(SweepIndex(tmp_path / "set").files) == 4


@pytest.mark.slow
def test_workers_do_not_change_a_bit(sweeps: SweepSet, tmp_path: Path, content) -> None:
    _run(sweeps, tmp_path / "one")
    run_sweep_set(sweeps, tmp_path / "two", workers=2)
    for name in sweeps.sweeps():
        assert content(tmp_path / "one" / name) == content(tmp_path / "two" / name)


def test_another_set_in_its_place_is_refused(sweeps: SweepSet, tmp_path: Path) -> None:
    _run(sweeps, tmp_path / "set")
    with pytest.raises(SweepError, match="another set"):
        _run(sweeps.replace(shapes=((4, 3),)), tmp_path / "set")
    with pytest.raises(InputError, match="it must be a directory"):
        _run(sweeps, tmp_path / "none" / "set")


def _again(text: str, old: str, new: str) -> str:
    """JSON with ``old`` replaced and the digest of that."""
    return json.dumps(add_digest(json.loads(text.replace(old, new))))


def test_index_refuses_what_does_not_fit(sweeps: SweepSet, tmp_path: Path) -> None:
    out = tmp_path / "set"
    with pytest.raises(InputError, match="no such file"):
        SweepIndex(out)
    _run(sweeps, out)
    whole = (out / "index.json").read_text()
    for text, message in (
        ("{", "cannot be read as JSON"),
        ("[]", "not the index"),
        (whole.replace('"version": 1', '"version": 2'), "version 2, but this version of geniex reads 1"),
        (whole.replace('"file": "4x3-sinh.h5"', '"file": "4x3-sinus.h5"'), "changed or damaged"),
        (_again(whole, '"file": "4x3-sinh.h5"', '"file": "4x3-sinus.h5"'), "does not list the files of its set"),
        (_again(whole, '"shapes"', '"shape"'), "it is damaged"),
    ):
        (out / "index.json").write_text(text)
        with pytest.raises(FileFormatError, match=message):
            SweepIndex(out)
    (out / "index.json").write_text(whole)
    shutil.copy(out / "4x3-1t1r.h5", out / "4x3-sinh.h5")
    with pytest.raises(FileFormatError, match=r"4x3-sinh.h5 holds a sweep other than"):
        SweepIndex(out)
    (out / "4x3-1t1r.h5").unlink()
    (out / "4x3-sinh.h5").unlink()
    with pytest.raises(FileFormatError, match=r"lists 4x3-sinh.h5, which does not exist"):
        SweepIndex(out)


@pytest.mark.slow
def test_verification_covers_all_files_and_stays_in_them(
    sweeps: SweepSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The native solver stands for ngspice here: what is drawn, compared and kept is the point."""
    out, solve = tmp_path / "set", Crossbar.solve
    _run(sweeps, out)
    before = SweepIndex(out).files
    for file in before:
        assert len(file.digest) == 64  # read before the files change
        file.close()
    monkeypatch.setattr(Crossbar, "solve", lambda self, v, g, method: solve(self, v, g, method="native"))
    assert verify_sweep_set(out, 80, seed=3) < 1e-8
    with h5py.File(out / "3x5-sinh.h5", "r+") as file:
        data = layout.read(file, 9, 10)
        data.currents[0, 1] *= 1.01
        layout.write(file, 9, data)
    seal.append(out / "3x5-sinh.h5", layout.BULK)
    assert verify_sweep_set(out, 1000, seed=3) == pytest.approx(0.01 / 1.01, rel=1e-5)
    for old, new in zip(before, SweepIndex(out).files, strict=True):
        assert new.attributes["verified_vectors"] == 20
        assert new.attributes["verified_seed"] == 3
        assert (new.attributes["verified_worst_deviation"] > 1e-3) == (new.path.name == "3x5-sinh.h5")
        assert "verified_seed" not in old.attributes
        assert (new.digest == old.digest) == (new.path.name != "3x5-sinh.h5")
    assert not list(out.glob("*.tmp"))


def test_command_makes_a_set(sweeps: SweepSet, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config, out, summary = tmp_path / "mine.yaml", tmp_path / "mine", tmp_path / "mine.json"
    config.write_text(yaml.safe_dump(sweeps.to_dict()))
    assert main(["sweep", str(config), "--out", str(out), "--workers", "1", "--json", str(summary)]) == 0
    assert "40 tiles x 2 vectors in" in capsys.readouterr().out
    assert json.loads(summary.read_text())["config"] == sweeps.to_dict()
    assert SweepIndex(out).set == sweeps
    assert main(["sweep", str(config), "--out", str(out), "--workers", "1"]) == 0
    assert "40 tiles resumed" in capsys.readouterr().out


YAML = """
shapes: [[8, 4], [4, 4]]
cells: [{_type: SinhCell}, {_type: SinhCell, v0: 0.5}, {_type: LinearCell}]
crossbar: {r_source: 100}
window: {r_on: 50e3, on_off: 10}
v_max: 0.5
tiles: 7
vectors: 2
"""


def test_yaml_of_one_circuit_in_many_shapes(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text(YAML)
    sweeps = load_sweep_set(path)
    assert list(sweeps.sweeps())[:3] == ["8x4-sinh-0.h5", "8x4-sinh-1.h5", "8x4-linear.h5"]
    assert sweeps.sweeps()["4x4-linear.h5"].crossbar == Crossbar(4, 4, r_source=100, cell=LinearCell())
    assert SweepSet.from_dict(json.loads(json.dumps(sweeps.to_dict()))) == sweeps
    path.write_text("{shapes: [[9, 9]], cells: [{_type: LinearCell}], preset: yale-64, tiles: 1, vectors: 1}")
    yale = presets["yale-64"].crossbar
    (config,) = load_sweep_set(path).sweeps().values()
    assert config.crossbar == yale.replace(rows=9, cols=9, cell=LinearCell())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (YAML.replace("[8, 4]", "[8, 0]"), "shapes: got 0"),
        (YAML.replace("[8, 4]", "8"), "shapes: got 8; each shape must be [rows, cols]"),
        (YAML.replace("[8, 4]", "[4, 4]"), "each entry may be given only once"),
        (YAML.replace("[[8, 4], [4, 4]]", "[]"), "shapes: got ()"),
        (YAML.replace(", v0: 0.5", ""), "each entry may be given only once"),
        (YAML.replace("r_source: 100", "rows: 8"), "crossbar.rows: got 8; the set's shapes and cells give it"),
        (YAML.replace("LinearCell", "CubeCell"), "CubeCell"),
        (YAML.replace("tiles: 7", "tilez: 7"), "tiles: got no value"),
        (YAML + "circuits: {}", "v_max"),
        (YAML.replace("cells", "cell"), "cell"),
    ],
)
def test_bad_yaml(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "a.yaml").write_text(text)
    with pytest.raises(InputError) as error:
        load_sweep_set(tmp_path / "a.yaml")
    assert message in str(error.value)
    assert str(tmp_path / "a.yaml") in str(error.value)


def test_a_set_is_not_a_sweep(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(YAML)
    with pytest.raises(InputError, match="a set of sweeps"):
        load_sweep_config(tmp_path / "a.yaml")
    (tmp_path / "b.yaml").write_text("{preset: geniex-16, tiles: 1, vectors: 1}")
    with pytest.raises(InputError, match="a single sweep"):
        load_sweep_set(tmp_path / "b.yaml")
