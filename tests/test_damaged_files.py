"""Damaged files: each of 2,000 mutations of what geniex writes loads as it was, or is one clear error."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from torch import Tensor, nn

from geniex.circuit import Crossbar
from geniex.emulator import LinearEmulator
from geniex.errors import GeniexError
from geniex.jobs import ResultStore, digest
from geniex.mapping import Architecture, ConductanceWindow
from geniex.networks import FashionCNN, load_network, network_info, save_network
from geniex.simulator import convert, load_converted, save_converted
from geniex.study.grid.settings import PointSettings
from geniex.study.grid.spec import StudySpec
from geniex.surrogate import GeniexMLP, load_surrogate, save_surrogate
from geniex.sweep import (
    CircuitRanges,
    SweepConfig,
    SweepFile,
    SweepIndex,
    SweepSet,
    load_sweep,
    run_sweep,
    run_sweep_set,
)

Mutation = Callable[[bytes, np.random.Generator], bytes]
SMALL = SweepConfig(Crossbar(3, 2), ConductanceWindow(20e3, 8.0), 0.3, tiles=6, vectors=2, shard_tiles=6)


def _flip(data: bytes, rng: np.random.Generator) -> bytes:
    out = bytearray(data)
    out[rng.integers(len(out))] ^= 1 << rng.integers(8)
    return bytes(out)


def _overwrite(data: bytes, rng: np.random.Generator) -> bytes:
    at, size = rng.integers(len(data)), rng.integers(1, 9)
    return data[:at] + rng.bytes(size) + data[at + size :]


def _truncate(data: bytes, rng: np.random.Generator) -> bytes:
    return data[: rng.integers(len(data))]


def _insert(data: bytes, rng: np.random.Generator) -> bytes:
    at = rng.integers(len(data))
    return data[:at] + rng.bytes(rng.integers(1, 17)) + data[at:]


def _zeros(data: bytes, rng: np.random.Generator) -> bytes:
    at, size = rng.integers(len(data)), rng.integers(1, 200)
    return data[:at] + bytes(len(data[at : at + size])) + data[at + size :]


def _repeat(data: bytes, rng: np.random.Generator) -> bytes:
    """A stretch of the file over another one of it."""
    size = int(rng.integers(1, max(2, len(data) // 4)))
    to, of = rng.integers(len(data) - size, size=2)
    return data[:to] + data[of : of + size] + data[to + size :]


BYTES: tuple[Mutation, ...] = (_flip, _overwrite, _truncate, _insert, _zeros, _repeat)


def _places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The paths of all that ``value`` holds."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [place for key, v in inner for place in ((*path, key), *_places(v, (*path, key)))]


OTHERS = (None, True, -1, 0, 1e400, 1e-320, float("nan"), "", "x", "inf", [], [[]], {}, {"_type": "SinhCell"}, 10**40)


def _restructured(data: Any, rng: np.random.Generator) -> Any:
    """``data`` with a key deleted, or one value of another type in the place of one."""
    out = copy.deepcopy(data)
    places = _places(out)
    *above, key = places[rng.integers(len(places))]
    holder = out
    for step in above:
        holder = holder[step]
    if rng.random() < 0.3:
        del holder[key]
    else:
        holder[key] = OTHERS[rng.integers(len(OTHERS))]
    return out


def _json(data: bytes, rng: np.random.Generator) -> bytes:
    return json.dumps(_restructured(json.loads(data), rng)).encode()


def _yaml(data: bytes, rng: np.random.Generator) -> bytes:
    return yaml.safe_dump(_restructured(yaml.safe_load(data), rng)).encode()


def _same(a: Any, b: Any) -> bool:
    """Whether two nests of tensors and plain values are the same to the bit."""
    if isinstance(a, Tensor):
        return isinstance(b, Tensor) and a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict):
        return isinstance(b, dict) and a.keys() == b.keys() and all(_same(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)):
        return type(a) is type(b) and len(a) == len(b) and all(map(_same, a, b))
    return a == b


def _check(path: Path, load: Callable[[], Any], mutations: tuple[Mutation, ...], count: int, seed: int) -> None:
    """Load ``count`` mutations of the file ``path``: as it was, or an error of ours."""
    whole, expected, rng = path.read_bytes(), load(), np.random.default_rng(seed)
    refused = 0
    for k in range(count):
        path.write_bytes(mutations[k % len(mutations)](whole, rng))
        try:
            found = load()
        except GeniexError:
            refused += 1
        else:
            assert _same(found, expected), f"mutation {k} of {path.name} loads as other data"
    path.write_bytes(whole)
    assert _same(load(), expected)
    assert refused > count // 2


def _sweep(path: Path) -> Any:
    sweep = SweepFile(path)
    try:
        circuits = sweep.circuits(0, sweep.tiles)
        numbers = {name: value for name, value in vars(circuits).items() if isinstance(value, Tensor)}
        return [sweep.config, sweep.attributes, sweep.read(0, sweep.tiles), str(numbers)]
    finally:
        sweep.close()


@pytest.mark.parametrize("ranges", [None, CircuitRanges()], ids=["one circuit", "many circuits"])
def test_sweeps(ranges: CircuitRanges | None, tmp_path: Path) -> None:
    path = run_sweep(SMALL.replace(circuits=ranges), tmp_path / "a.h5", workers=1)
    _check(path, lambda: _sweep(path), BYTES, 300, seed=1)


def test_index_of_a_set(tmp_path: Path) -> None:
    sweeps = SweepSet(((3, 2), (2, 2)), (SMALL.crossbar.cell,), SMALL.replace(tiles=1, vectors=1))
    path = run_sweep_set(sweeps, tmp_path / "set", workers=1)
    _check(path, lambda: [SweepIndex(path).set, SweepIndex(path).digest], (*BYTES, _json, _json), 160, seed=2)


def test_surrogates(tmp_path: Path) -> None:
    surrogate = GeniexMLP(Crossbar(2, 2), ConductanceWindow(100e3, 6.0), v_max=0.25, hidden=2)
    surrogate.info = {"held_out": {"nf_rmse_pp": 1.25}, "note": "trained on nothing"}
    path = save_surrogate(surrogate, tmp_path / "net")

    def load() -> Any:
        found = load_surrogate(path)
        return [found.crossbar, found.window, found.v_max, found.info, found.options(), dict(found.state_dict())]

    _check(path, load, (*BYTES, _json, _json, _json), 300, seed=3)
    _check(path.with_suffix(".safetensors"), load, BYTES, 150, seed=4)


def test_networks(tmp_path: Path) -> None:
    weights, path = save_network(
        "fashion-cnn", FashionCNN(batch_norm=False).eval(), tmp_path / "net", {"accuracy": 0.5}
    )

    def load() -> Any:
        return [dict(load_network(path).state_dict()), network_info(path)]

    _check(path, load, (*BYTES, _json, _json), 150, seed=5)
    _check(weights, load, BYTES, 60, seed=6)


def test_converted_models(tmp_path: Path) -> None:
    model, arch = nn.Sequential(nn.Linear(3, 2)), Architecture(tile=(4, 16))
    emulator = LinearEmulator(Crossbar(4, 16))
    path = save_converted(convert(model, arch, emulator, calibration=torch.rand(4, 3)), tmp_path / "m")

    def load() -> Any:
        found = load_converted(path, nn.Sequential(nn.Linear(3, 2)))
        return [dict(found.state_dict()), found.conversion.to_dict()]

    _check(path, load, (*BYTES, _json, _json), 150, seed=7)
    _check(path.with_suffix(".safetensors"), load, BYTES, 60, seed=8)


def test_kept_results_that_are_damaged_are_not_taken(tmp_path: Path) -> None:
    store, key = ResultStore(tmp_path, "test-1"), digest("key")
    tensors, result = {"logits": torch.rand(4, 3)}, {"right": "0110", "share": 0.5}
    store.keep_tensors("x", key, tensors)
    store.keep("x", key, result)
    rng = np.random.default_rng(9)
    for path in list(tmp_path.iterdir()):
        whole = path.read_bytes()
        for k in range(120):
            path.write_bytes(((*BYTES, _json) if path.suffix == ".json" else BYTES)[k % len(BYTES)](whole, rng))
            assert store.load("x", key) in (None, result)
            found = store.load_tensors("x", key)
            assert found is None or torch.equal(found["logits"], tensors["logits"])
        path.write_bytes(whole)


SWEEP = """
crossbar: {rows: 8, cols: 4, cell: {_type: OneTransistorOneResistor, cell: {_type: SinhCell, v0: 0.25}, r_access: 10}}
circuits: {r_wire: 5, v0: [0.25, 0.3], slice_bits: [1, 2]}
tiles_from: {levels: 1, sparsity: 2.5}
tiles: 7
vectors: 2
seed: 3
"""
STUDY = """
title: Wires
network: fashion-cnn
images: 100
variation: {spread: {sigma: 0.1}}
architecture: {weight_bits: 8, slice_bits: 2}
grid:
  crossbar.r_wire: [1.0, 2.5]
  tile: {small: 16, large: [64, 64]}
baseline: {crossbar.r_wire: 1.0}
"""


@pytest.mark.filterwarnings("ignore::geniex.errors.UnitWarning")
@pytest.mark.parametrize(("text", "kind"), [(SWEEP, "sweep"), (STUDY, "study")])
def test_settings(text: str, kind: str, tmp_path: Path) -> None:
    """They have no digest, as people write them: what they say must be allowed, or one clear error."""
    path = tmp_path / "settings.yaml"
    whole, rng = text.encode(), np.random.default_rng(10)
    mutations, refused = (*BYTES, _yaml, _yaml, _yaml, _yaml), 0
    for k in range(275):
        path.write_bytes(mutations[k % len(mutations)](whole, rng))
        try:
            if kind == "sweep":
                load_sweep(path)
            else:
                [PointSettings.of(point.settings) for point in StudySpec.of(path).points()]
        except GeniexError:
            refused += 1
    assert refused > 100
