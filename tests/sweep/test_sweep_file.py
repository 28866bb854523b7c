import json
import multiprocessing
import pickle
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from geniex.errors import FileFormatError, InputError
from geniex.sweep import SweepConfig, SweepFile, draw_tile, layout, run_sweep, seal


@pytest.fixture
def path(small: SweepConfig, tmp_path: Path) -> Path:
    return run_sweep(small, tmp_path / "small.h5", workers=1)


def _nodal_currents(config: SweepConfig, conductances: np.ndarray, voltages: np.ndarray) -> np.ndarray:
    """Column currents by dense Newton on the node voltages: Kirchhoff's current law, written out node by node."""
    rows, cols = conductances.shape
    wires, v0 = config.crossbar.wires, config.crossbar.cell.v0
    size = rows * cols
    linear, inject = np.zeros((2 * size, 2 * size)), np.zeros(2 * size)

    def wire(a: int, b: int | None, ohm: float, volt: float = 0.0) -> None:
        linear[a, a] += 1 / ohm
        if b is None:
            inject[a] += volt / ohm
        else:
            linear[b, b] += 1 / ohm
            linear[a, b] -= 1 / ohm
            linear[b, a] -= 1 / ohm

    row, col = lambda i, j: i * cols + j, lambda i, j: size + i * cols + j
    for i in range(rows):
        wire(row(i, 0), None, wires.r_source, voltages[i])
        for j in range(cols - 1):
            wire(row(i, j), row(i, j + 1), wires.r_row)
    for j in range(cols):
        wire(col(rows - 1, j), None, wires.r_sink)
        for i in range(rows - 1):
            wire(col(i, j), col(i + 1, j), wires.r_col)
    g, x = conductances.ravel(), np.zeros(2 * size)
    across = np.hstack([np.eye(size), -np.eye(size)])
    for _ in range(50):
        u = across @ x
        residual = linear @ x - inject + across.T @ (g * v0 * np.sinh(u / v0))
        x = x - np.linalg.solve(linear + across.T @ ((g * np.cosh(u / v0))[:, None] * across), residual)
    return x[-cols:] / wires.r_sink


def test_currents_obey_kirchhoff(small: SweepConfig, path: Path) -> None:
    conductances, voltages, currents = (x.numpy() for x in SweepFile(path).read(0, small.tiles))
    for tile in range(small.tiles):
        for vector in range(small.vectors):
            expected = _nodal_currents(small, conductances[tile], voltages[tile, vector])
            scale = np.maximum(np.abs(expected), 1e-3 * np.abs(expected).max())
            # The native solver stops at 1e-9 of each column current.
            assert (np.abs(currents[tile, vector] - expected) / scale).max() < 2e-9


def test_samples_are_the_drawn_levels_in_siemens_and_volt(small: SweepConfig, path: Path) -> None:
    conductances, voltages, _ = (x.numpy() for x in SweepFile(path).read(0, small.tiles))
    g_on = 1 / 20e3
    g_off = g_on / 8
    for tile in range(small.tiles):
        codes, levels = draw_tile(small, tile)
        np.testing.assert_allclose(conductances[tile], g_off + codes * (g_on - g_off) / 15, rtol=1e-13)
        np.testing.assert_allclose(voltages[tile], levels * 0.3 / 15, rtol=1e-13)


def test_file_says_what_it_holds(small: SweepConfig, path: Path) -> None:
    sweep = SweepFile(path)
    assert (sweep.config, sweep.crossbar, sweep.window) == (small, small.crossbar, small.window)
    assert (sweep.v_max, sweep.tiles, sweep.vectors) == (0.3, 21, 3)
    with h5py.File(path) as file:
        assert file.attrs["format"] == "geniex-sweep"
        assert file.attrs["schema_version"] == 2
        assert file.attrs["solver"] == "native"
        assert file.attrs["seed"] == 7
        assert SweepConfig.from_dict(json.loads(file.attrs["config"])) == small
        assert file["codes"].dtype == np.uint8
        circuit = {"r_source": 800, "r_sink": 150, "r_wire_row": 4, "r_wire_col": 9, "r_on": 20e3, "on_off": 8}
        for name, value in (circuit | {"v_max": 0.3}).items():
            np.testing.assert_array_equal(file[name], np.full(21, value))
        for name in ("codes", "voltages", "currents"):
            dataset = file[name]
            assert (dataset.compression, dataset.shuffle, dataset.fletcher32) == ("gzip", True, True)
            assert dataset.chunks[1:] == dataset.shape[1:]  # a chunk never splits a tile


def test_wide_slices_are_stored_in_two_bytes(small: SweepConfig, tmp_path: Path) -> None:
    wide = small.replace(slice_bits=10, tiles=3)
    path = run_sweep(wide, tmp_path / "wide.h5", workers=1)
    with h5py.File(path) as file:
        assert file["codes"].dtype == np.uint16
    torch.testing.assert_close(
        SweepFile(path).read(0, 1)[0][0],
        wide.window.to_conductance(torch.from_numpy(draw_tile(wide, 0)[0]), 1024, dtype=torch.float64),
    )


def test_read_takes_any_run_of_tiles(path: Path) -> None:
    sweep = SweepFile(path)
    for whole, part in zip(sweep.read(0, 21), sweep.read(5, 9), strict=True):
        assert part.dtype == torch.float64
        torch.testing.assert_close(whole[5:9], part, rtol=0, atol=0)
    assert [len(x) for x in sweep.read(4, 4)] == [0, 0, 0]


@pytest.mark.parametrize(("start", "stop"), [(-1, 3), (0, 22), (5, 4)])
def test_read_outside_is_an_error(path: Path, start: int, stop: int) -> None:
    with pytest.raises(InputError, match="a range within 0 to 21"):
        SweepFile(path).read(start, stop)


def test_pickles_without_its_handle(path: Path) -> None:
    sweep = SweepFile(path)
    before = sweep.read(0, 2)
    again = pickle.loads(pickle.dumps(sweep))
    for a, b in zip(before, again.read(0, 2), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0)


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_a_forked_process_reads_through_a_handle_of_its_own(path: Path) -> None:
    sweep, context = SweepFile(path), multiprocessing.get_context("fork")
    before, answers = sweep.read(0, 21)[2].sum().item(), context.Queue()
    inherited = sweep._handle

    def child() -> None:
        total = sweep.read(0, 21)[2].sum().item()
        answers.put((total, bool(inherited)))  # a closed h5py file is false

    process = context.Process(target=child)
    process.start()
    assert answers.get(timeout=60) == (before, False)
    process.join()
    assert inherited
    assert sweep.read(0, 21)[2].sum().item() == before


def test_digest_follows_content_and_configuration(small: SweepConfig, path: Path, tmp_path: Path) -> None:
    digest = SweepFile(path).digest
    assert len(digest) == 64
    same = run_sweep(small, tmp_path / "same.h5", workers=1)
    assert SweepFile(same).digest == digest
    other = run_sweep(small.replace(seed=8), tmp_path / "other.h5", workers=1)
    assert SweepFile(other).digest != digest
    with h5py.File(same, "r+") as file:
        data = layout.read(file, 20, 21)
        data.currents[0, 2, 2] += 1e-12
        layout.write(file, 20, data)
    seal.append(same, layout.BULK)
    assert SweepFile(same).digest != digest


def test_every_changed_byte_beside_the_tiles_breaks_the_seal(path: Path, tmp_path: Path) -> None:
    """Of the superblock and of the settings; the tiles' bytes have digests of their own."""
    whole, changed = path.read_bytes(), tmp_path / "changed.h5"
    assert seal.is_intact(path)
    for at in (*range(0, 96, 5), whole.index(b"SinhCell")):
        changed.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        assert not seal.is_intact(changed), at


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def _text(path: Path) -> None:
    path.write_text("tile,current\n")


def _edit(change):
    def apply(path: Path) -> None:
        with h5py.File(path, "r+") as file:
            change(file)
        seal.append(path, ())  # of the bytes as they are now

    return apply


def _unsealed(path: Path) -> None:
    """As another program changes it."""
    with h5py.File(path, "r+") as file:
        file.attrs.update(seed=8)


def _reshape(file: h5py.File) -> None:
    del file["voltages"]
    file["voltages"] = np.zeros((21, 3, 4))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (_cut, "truncated or damaged"),
        (_text, "truncated or damaged"),
        (lambda path: path.write_bytes(b""), "truncated or damaged"),
        (lambda path: path.write_bytes(seal.add_seal(b"tile,current\n")), "is not HDF5"),
        (_unsealed, "truncated or damaged, or is not a finished sweep"),
        (_edit(lambda file: file.attrs.clear()), "it is not a sweep"),
        (_edit(lambda file: file.attrs.update(format="other")), "it is not a sweep"),
        (_edit(lambda file: file.attrs.update(schema_version=1)), "version 1, but this version of geniex reads 2"),
        (_edit(lambda file: file.attrs.update(config="{")), "configuration is damaged"),
        (_edit(lambda file: file.attrs.update(config="[]")), "configuration is damaged"),
        (_edit(lambda file: file.attrs.__delitem__("config")), "configuration is damaged"),
        (_edit(lambda file: file.attrs.__delitem__("solver")), "its attribute 'solver' is missing"),
        (_edit(lambda file: file.__delitem__("codes")), "no dataset 'codes'"),
        (_edit(lambda file: file.__delitem__("r_sink")), "no dataset 'r_sink'"),
        (_edit(lambda file: file.__delitem__("tile_digests")), "no dataset 'tile_digests'"),
        (_edit(_reshape), "'voltages' is float64 \\(21, 3, 4\\), but its configuration says float64 \\(21, 3, 5\\)"),
    ],
)
def test_damaged_and_foreign_files_say_so(path: Path, damage, message: str) -> None:
    damage(path)
    with pytest.raises(FileFormatError, match=message) as error:
        SweepFile(path)
    assert str(path) in str(error.value)
    assert "geniex sweep" in str(error.value)


def test_samples_that_hdf5_finds_right_are_held_against_their_digest(path: Path) -> None:
    _edit(lambda file: file["currents"].__setitem__((4, 1, 2), 1e-6))(path)
    sweep = SweepFile(path)
    sweep.read(0, 4)
    with pytest.raises(FileFormatError, match=r"tiles 3 to 6 are damaged .the data do not match their digest"):
        sweep.read(3, 6)


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file; `geniex sweep"):
        SweepFile(tmp_path / "no.h5")


def test_flipped_bits_are_found_on_reading(path: Path) -> None:
    with h5py.File(path) as file:
        offset = file["currents"].id.get_chunk_info(0).byte_offset
    content = bytearray(path.read_bytes())
    content[offset + 20] ^= 0xFF
    path.write_bytes(content)
    with pytest.raises(FileFormatError, match="tiles 0 to 21 are damaged"):
        SweepFile(path).read(0, 21)
