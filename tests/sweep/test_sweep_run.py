import errno
import os
import resource
import shutil
from pathlib import Path

import h5py
import pytest

from geniex.circuit import Crossbar
from geniex.circuit.spice import ngspice_version
from geniex.errors import InputError, MissingDependencyError, SweepError
from geniex.sweep import SweepConfig, SweepFile, SweepObserver, layout, run_sweep, seal, shards, verify_sweep
from geniex.sweep.solving import solve_tiles


class Log(SweepObserver):
    def __init__(self) -> None:
        self.resumed, self.done, self.notes = -1, 0, []

    def started(self, tiles: int, resumed: int) -> None:
        self.resumed = resumed

    def solved(self, tiles: int) -> None:
        self.done += tiles

    def note(self, text: str) -> None:
        self.notes.append(text)


def _run(config: SweepConfig, out: Path) -> Log:
    log = Log()
    run_sweep(config, out, workers=1, observer=log)
    return log


def _same_datasets(a: dict, b: dict) -> bool:
    return all(a[name] == b[name] for name in {*a, *b} - {"attributes"})


def _break_off(config: SweepConfig, out: Path, monkeypatch: pytest.MonkeyPatch, after: int) -> Path:
    """A sweep whose shard ``after`` finds the disk full; its shard directory."""
    replace, count = os.replace, [0]

    def full(source: Path, target: Path) -> None:
        if Path(target).suffix == ".h5":
            count[0] += 1
            if count[0] > after:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(target))
        replace(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(shards.os, "replace", full)
        with pytest.raises(SweepError, match=r"No space left on device; finished tiles are kept in .*\.shards"):
            run_sweep(config, out, workers=1)
    return out.with_name(f"{out.name}.shards")


@pytest.mark.parametrize("shard_tiles", [1, 5, 8, 100])
def test_tiles_do_not_depend_on_the_shards(small: SweepConfig, tmp_path: Path, content, shard_tiles: int) -> None:
    one, other = tmp_path / "one.h5", tmp_path / "other.h5"
    run_sweep(small, one, workers=1)
    run_sweep(small.replace(shard_tiles=shard_tiles), other, workers=1)
    assert _same_datasets(content(one), content(other))


def test_more_tiles_keep_the_first_ones(small: SweepConfig) -> None:
    few, many = solve_tiles(small, 0, 21), solve_tiles(small.replace(tiles=500), 0, 60)
    for a, b in zip(few, many, strict=True):
        assert (a == b[:21]).all()


@pytest.mark.slow
def test_workers_do_not_change_a_bit(small: SweepConfig, tmp_path: Path, content) -> None:
    one, three = tmp_path / "one.h5", tmp_path / "three.h5"
    run_sweep(small, one, workers=1)
    run_sweep(small, three, workers=3)
    assert content(one) == content(three)


def test_shards_are_gone_when_finished(small: SweepConfig, tmp_path: Path) -> None:
    _run(small, tmp_path / "a.h5")
    assert [path.name for path in tmp_path.iterdir()] == ["a.h5"]


def test_full_disk_keeps_finished_tiles(
    small: SweepConfig, tmp_path: Path, content, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, broken = tmp_path / "whole.h5", tmp_path / "broken.h5"
    _run(small, whole)
    _break_off(small, broken, monkeypatch, after=3)
    log = _run(small, broken)
    assert (log.resumed, log.done) == (12, 9)
    assert content(whole) == content(broken)


@pytest.mark.slow
def test_full_disk_in_the_merge_keeps_all_tiles(small: SweepConfig, tmp_path: Path, content) -> None:
    many = small.replace(tiles=200)
    _run(many, tmp_path / "whole.h5")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    # The merged file is several times a shard: a limit on file sizes fails its writes for real.
    for short_by in (1, 5000, 20000):
        resource.setrlimit(resource.RLIMIT_FSIZE, ((tmp_path / "whole.h5").stat().st_size - short_by, hard))
        try:
            with pytest.raises(SweepError, match=r"merged.tmp: File too large; finished tiles are kept in"):
                _run(many, tmp_path / "a.h5")
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert not list((tmp_path / "a.h5.shards").glob("*.tmp"))
    assert _run(many, tmp_path / "a.h5").resumed == 200
    assert content(tmp_path / "a.h5") == content(tmp_path / "whole.h5")


@pytest.mark.parametrize("damage", ["cut", "flip", "foreign", "swapped"])
def test_damaged_shard_is_solved_again(
    small: SweepConfig, tmp_path: Path, content, monkeypatch: pytest.MonkeyPatch, damage: str
) -> None:
    whole, broken = tmp_path / "whole.h5", tmp_path / "broken.h5"
    _run(small, whole)
    directory = _break_off(small, broken, monkeypatch, after=3)
    victim = directory / "000001.h5"
    if damage == "cut":
        victim.write_bytes(victim.read_bytes()[:-7])
    elif damage == "flip":
        image = bytearray(victim.read_bytes())
        with h5py.File(victim) as file:
            image[file["codes"].id.get_chunk_info(0).byte_offset + 9] ^= 0xFF
        victim.write_bytes(image)
    elif damage == "swapped":
        shutil.copy(directory / "000000.h5", victim)
    else:
        other = _break_off(small.replace(seed=99), tmp_path / "other.h5", monkeypatch, after=3)
        shutil.copy(other / "000001.h5", victim)
    log = _run(small, broken)
    assert (log.resumed, log.done) == (8, 13)
    assert "shard 1 is solved again" in log.notes[0]
    assert content(whole) == content(broken)


def test_finished_sweep_is_not_solved_again(small: SweepConfig, tmp_path: Path) -> None:
    out = tmp_path / "a.h5"
    _run(small, out)
    before = out.stat().st_mtime_ns
    log = _run(small, out)
    assert (log.resumed, log.done) == (21, 0)
    assert "nothing is solved" in log.notes[0]
    assert out.stat().st_mtime_ns == before


def test_killed_between_merge_and_clean_up(small: SweepConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    directory = _break_off(small, tmp_path / "a.h5", monkeypatch, after=3)
    _run(small, tmp_path / "b.h5")
    (tmp_path / "b.h5").rename(tmp_path / "a.h5")
    assert _run(small, tmp_path / "a.h5").done == 0
    assert not directory.exists()


def test_other_configuration_is_refused(small: SweepConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = small.replace(crossbar=Crossbar(5, 3))
    _break_off(small, tmp_path / "a.h5", monkeypatch, after=3)
    with pytest.raises(SweepError, match=r"another sweep \(config\.crossbar\.r_sink differs\).*--out"):
        _run(other, tmp_path / "a.h5")
    _run(small, tmp_path / "a.h5")
    with pytest.raises(SweepError, match="another configuration"):
        _run(other, tmp_path / "a.h5")


def test_foreign_directory_is_left_alone(small: SweepConfig, tmp_path: Path) -> None:
    precious = tmp_path / "a.h5.shards" / "thesis.txt"
    precious.parent.mkdir()
    precious.write_text("five years of work")
    with pytest.raises(SweepError, match="no manifest"):
        _run(small, tmp_path / "a.h5")
    assert precious.exists()


def test_two_sweeps_on_one_output(small: SweepConfig, tmp_path: Path) -> None:
    holder = shards.ShardDirectory.beside(tmp_path / "a.h5", small, {})
    with holder.locked(), pytest.raises(SweepError, match="another sweep works here"):
        _run(small, tmp_path / "a.h5")
    _run(small, tmp_path / "a.h5")


def test_tiles_without_a_solution_are_listed_and_the_others_kept(
    small: SweepConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from geniex.errors import ConvergenceError

    out, bad = tmp_path / "a.h5", 9
    whole = _run(small, tmp_path / "whole.h5") and SweepFile(tmp_path / "whole.h5").read(0, 21)
    solve, poison = Crossbar.solve, whole[0][bad]

    def failing(self, voltages, conductances, **options):
        if any((g == poison).all() for g in conductances.reshape(-1, 5, 3)):
            raise ConvergenceError("does not settle")
        return solve(self, voltages, conductances, **options)

    with monkeypatch.context() as patch:
        patch.setattr(Crossbar, "solve", failing)
        with pytest.raises(SweepError, match=r"1 of 6 shards.*tiles 8 to 11: tile 9: does not settle.*kept in"):
            _run(small, out)
    assert _run(small, out).resumed == 17
    # Its block was solved tile by tile then: the same to the solver's tolerance.
    for a, b in zip(whole, SweepFile(out).read(0, 21), strict=True):
        assert ((a - b).abs() <= 2e-9 * a.abs().amax(-1, keepdim=True)).all()


@pytest.mark.parametrize("workers", [0, -1, 1.5])
def test_workers_must_be_a_count(small: SweepConfig, tmp_path: Path, workers) -> None:
    with pytest.raises(InputError, match="workers"):
        run_sweep(small, tmp_path / "a.h5", workers=workers)


def test_output_needs_a_directory(small: SweepConfig, tmp_path: Path) -> None:
    for out in (tmp_path / "none" / "a.h5", tmp_path):
        with pytest.raises(InputError, match="out"):
            run_sweep(small, out, workers=1)


@pytest.mark.ngspice
@pytest.mark.slow
def test_ngspice_engine_agrees_with_native(small: SweepConfig, tmp_path: Path) -> None:
    if ngspice_version() is None:
        pytest.skip("no ngspice")
    native, spice = tmp_path / "native.h5", tmp_path / "spice.h5"
    run_sweep(small, native, workers=1)
    run_sweep(small.replace(engine="ngspice", shard_tiles=11), spice, workers=2)
    a, b = SweepFile(native), SweepFile(spice)
    assert b.attributes["solver"] == "ngspice"
    assert b.attributes["solver_version"].startswith("ngspice ")
    expected, got = a.read(0, 21)[2], b.read(0, 21)[2]
    scale = expected.abs().maximum(1e-3 * expected.abs().amax(-1, keepdim=True))
    assert ((got - expected).abs() / scale).max() < 1e-8
    assert verify_sweep(native, 10) < 1e-8


def test_verification_finds_the_one_vector_that_is_wrong(
    small: SweepConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The native solver stands for ngspice here: what is drawn and compared is the point."""
    out = run_sweep(small, tmp_path / "a.h5", workers=1)
    solve = Crossbar.solve
    monkeypatch.setattr(Crossbar, "solve", lambda self, v, g, method: solve(self, v, g, method="native"))
    everything = small.tiles * small.vectors
    assert verify_sweep(out, everything) < 1e-9
    with h5py.File(out, "r+") as file:
        data = layout.read(file, small.tiles - 1, small.tiles)
        data.currents[0, small.vectors - 1] *= 1.01
        layout.write(file, small.tiles - 1, data)
    seal.append(out, layout.BULK)
    digest = SweepFile(out).digest
    assert verify_sweep(out, everything, seed=5) == pytest.approx(0.01 / 1.01, rel=1e-6)
    verified = SweepFile(out)
    assert verified.digest == digest
    assert verified.attributes["verified_worst_deviation"] == pytest.approx(0.01 / 1.01, rel=1e-6)
    assert (verified.attributes["verified_vectors"], verified.attributes["verified_seed"]) == (everything, 5)
    assert verified.attributes["verified_ngspice_version"] == (ngspice_version() or "unknown")


def test_ngspice_engine_without_ngspice(small: SweepConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("geniex.circuit.spice.ngspice_version", lambda: None)
    with pytest.raises(MissingDependencyError, match="engine ngspice"):
        _run(small.replace(engine="ngspice"), tmp_path / "a.h5")
    assert not list(tmp_path.iterdir())
