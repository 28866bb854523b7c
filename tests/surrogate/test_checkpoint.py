"""Checkpoints: exact round trips, and a clear error for everything that can be wrong with two files."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import safetensors.torch
import torch

from geniex.circuit import Crossbar
from geniex.emulator import SurrogateEmulator
from geniex.errors import CheckpointError, InputError
from geniex.files import write_sealed_json
from geniex.surrogate import (
    GeniexMLP,
    PhysicsSurrogate,
    Surrogate,
    checkpoint,
    list_shipped_surrogates,
    load_surrogate,
    register_surrogate,
    save_surrogate,
)


@pytest.fixture
def saved(untrained, tmp_path: Path) -> Path:
    untrained.info = {"held_out": {"nf_rmse_pp": 1.25}}
    return save_surrogate(untrained, tmp_path / "runs" / "v0.25")


def edit(path: Path, **changes: object) -> None:
    write_sealed_json(path, json.loads(path.read_text()) | changes)


@pytest.mark.parametrize("suffix", ["", ".json", ".safetensors"])
def test_round_trip_is_exact(untrained, saved, suffix):
    loaded = load_surrogate(saved.with_suffix("") if not suffix else saved.with_suffix(suffix))
    assert loaded.info == {"held_out": {"nf_rmse_pp": 1.25}}
    assert (loaded.crossbar, loaded.window, loaded.v_max) == (
        untrained.crossbar,
        untrained.window,
        untrained.v_max,
    )
    assert loaded.scalers == untrained.scalers
    for name, tensor in untrained.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor)
    v, g = torch.rand(4, 5, dtype=torch.float64) / 4, torch.full((5, 3), 5e-6, dtype=torch.float64)
    assert torch.equal(loaded(v, g), untrained(v, g))


def test_files_from_before_half_precision_load_as_they_are(untrained, saved):
    head = json.loads(saved.read_text())
    del head["half"]
    write_sealed_json(saved, head)
    assert torch.equal(load_surrogate(saved).hidden.weight, untrained.hidden.weight)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_weights_load_in_the_precision_they_were_saved_in(untrained, tmp_path, dtype):
    """Also where all of them are numbers of float16, whose file then is in float16."""
    for weight in untrained.half().to(dtype).state_dict().values():
        assert weight.dtype is dtype
    path = save_surrogate(untrained, tmp_path / "half")
    for name, weight in load_surrogate(path).state_dict().items():
        assert weight.dtype is dtype
        assert torch.equal(weight, untrained.state_dict()[name])
    stored = safetensors.torch.load_file(path.with_suffix(".safetensors"))
    assert {t.dtype for t in stored.values()} == {torch.float16 if dtype is torch.float32 else dtype}


def test_saving_leaves_nothing_else_and_replaces_what_was_there(untrained, saved):
    save_surrogate(untrained, saved)
    assert sorted(p.name for p in saved.parent.iterdir()) == ["v0.25.json", "v0.25.safetensors"]


def test_loading_leaves_the_random_state_alone(saved):
    before = torch.get_rng_state()
    load_surrogate(saved)
    assert torch.equal(torch.get_rng_state(), before)


def test_truncated_weights(saved):
    weights = saved.with_suffix(".safetensors")
    weights.write_bytes(weights.read_bytes()[:-10])
    with pytest.raises(CheckpointError, match=r"v0\.25\.safetensors is damaged or does not .*geniex train"):
        load_surrogate(saved)


@pytest.mark.parametrize("gone", [".json", ".safetensors"])
def test_one_file_of_two(saved, gone):
    saved.with_suffix(gone).unlink()
    with pytest.raises(CheckpointError, match=f"{gone} is missing.*geniex train"):
        load_surrogate(saved.with_suffix(""))


def test_weights_of_another_surrogate(saved):
    weights = saved.with_suffix(".safetensors")
    other = {name: t + 1 for name, t in safetensors.torch.load_file(weights).items()}
    safetensors.torch.save_file(other, weights)
    with pytest.raises(CheckpointError, match=r"is damaged or does not belong to v0\.25\.json"):
        load_surrogate(saved)


def test_shapes_that_disagree(saved):
    settings = json.loads(saved.read_text())["settings"]
    edit(saved, settings=settings | {"hidden": 21})
    with pytest.raises(CheckpointError, match=r"tensor 'hidden.bias' has shape \(20,\).*describes \(21,\)"):
        load_surrogate(saved)


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"format": "other"}', "\x00"])
def test_foreign_json(saved, text):
    saved.write_text(text)
    with pytest.raises(CheckpointError, match=r"v0\.25\.json (is not valid JSON|does not describe)"):
        load_surrogate(saved)


def test_another_schema_version(saved):
    edit(saved, schema_version=7)
    with pytest.raises(CheckpointError, match=r"schema version 7, but this version of geniex .* reads 1"):
        load_surrogate(saved)


@pytest.mark.parametrize(
    "changes",
    [{"crossbar": {"rows": -1}}, {"settings": {"depth": 3}}, {"v_max": "high"}, {"info": 3}],
)
def test_incomplete_description(saved, changes):
    edit(saved, **changes)
    with pytest.raises(CheckpointError, match="is not a complete description"):
        load_surrogate(saved)


def test_an_unknown_class_is_named(saved):
    edit(saved, type="Oracle")
    with pytest.raises(
        CheckpointError, match=r"v0\.25\.json is a surrogate of class 'Oracle': known classes are GeniexMLP, P"
    ):
        load_surrogate(saved)


class Own(GeniexMLP):
    """A user's own surrogate."""


def test_a_class_of_ones_own_loads_once_it_is_registered(untrained, tmp_path, monkeypatch):
    monkeypatch.setattr("geniex.emulator.identity._registered", {})
    own = Own(untrained.crossbar, untrained.window, untrained.v_max, **untrained.options())
    path = save_surrogate(own, tmp_path / "own")
    with pytest.raises(
        CheckpointError, match=r"class 'Own': known classes are GeniexMLP, PhysicsSurrogate; import the module"
    ):
        load_surrogate(path)
    assert register_surrogate(Own) is register_surrogate(Own) is Own
    assert type(load_surrogate(path)) is Own
    other = type("Own", (GeniexMLP,), {"__module__": "elsewhere"})
    with pytest.raises(
        InputError, match=r"kind: got elsewhere\.Own; .*\.Own is registered under that name: rename one"
    ):
        register_surrogate(other)
    for wrong in (int, untrained, Surrogate):
        with pytest.raises(InputError, match=r"kind: got .*; it must be a class that derives from Surrogate"):
            register_surrogate(wrong)


@pytest.mark.parametrize("name", ["GeniexMLP", "PhysicsSurrogate"])
def test_no_class_takes_the_place_of_ours(name, untrained, saved):
    """Neither by being defined, as it was once, nor by being registered; and its own file is not written."""
    thief = type(name, (GeniexMLP,), {"__module__": "elsewhere"})
    with pytest.raises(InputError, match=rf"got elsewhere\.{name}; files would take it for geniex' own"):
        register_surrogate(thief)
    stolen = thief(untrained.crossbar, untrained.window, untrained.v_max)
    with pytest.raises(InputError, match="give your class another name"):
        save_surrogate(stolen, saved)
    assert type(load_surrogate(saved)) is GeniexMLP
    assert type(load_surrogate("physics")) is PhysicsSurrogate


def test_unknown_name_lists_the_shipped_ones():
    with pytest.raises(InputError, match=r"'geniex-mlp-17'.*or one of") as caught:
        load_surrogate("geniex-mlp-17")
    assert all(name in str(caught.value) for name in list_shipped_surrogates())


def test_shipped_name(untrained, tmp_path, monkeypatch):
    save_surrogate(untrained, tmp_path / "toy")
    (tmp_path / "cnn.json").write_text("{}")
    (tmp_path / "cnn.safetensors").write_bytes(b"")
    monkeypatch.setattr("geniex.shipped.models_dir", lambda: tmp_path)
    monkeypatch.setattr(checkpoint, "models_dir", lambda: tmp_path)
    assert list_shipped_surrogates() == ["toy"]
    assert load_surrogate("toy").crossbar == untrained.crossbar


def test_every_shipped_surrogate_loads_and_networks_are_better_than_the_ideal_product():
    for name in list_shipped_surrogates():
        surrogate = load_surrogate(name)
        if isinstance(surrogate, GeniexMLP):
            held_out = surrogate.info["held_out"]
            assert held_out["nf_rmse_pp"] < 0.25 * held_out["ideal_nf_rmse_pp"]


@pytest.mark.slow
def test_loading_imports_no_lightning():
    code = "import sys; from geniex.surrogate import load_surrogate; sys.exit('lightning' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_what_is_no_surrogate_is_named_as_it_is():
    crossbar = Crossbar(16, 16)
    with pytest.raises(InputError, match=r"^surrogate: got an object of type SurrogateEmulator; .* as \.surrogate$"):
        SurrogateEmulator(SurrogateEmulator("physics", crossbar), crossbar)
