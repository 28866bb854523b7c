"""The store of results: only whole files of the same key and meaning are taken, and a full disk loses nothing."""

from __future__ import annotations

import errno
import json
import math
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from geniex.errors import JobError
from geniex.jobs import ResultStore, digest
from geniex.simulator.arguments import Arguments, Examples

KEY, OTHER = digest("a"), digest("b")
TENSORS = {"logits": torch.rand(3, 4, dtype=torch.float64), "seconds": torch.tensor(0.5)}


def same(a: dict[str, Tensor] | None, b: dict[str, Tensor]) -> bool:
    return a is not None and a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in b)


def test_what_is_kept_comes_back(tmp_path: Path) -> None:
    store = ResultStore(tmp_path / "new" / "folder", "test-1")
    assert store.load("x", KEY) is None
    assert store.load_tensors("x", KEY) is None
    result = {"share": 0.1 + 0.2, "most": math.inf, "list": [1, None, "text"]}
    store.keep("x", KEY, result)
    store.keep_tensors("x", KEY, TENSORS)
    again = ResultStore(tmp_path / "new" / "folder", "test-1")
    assert again.load("x", KEY) == result
    assert same(again.load_tensors("x", KEY), TENSORS)
    assert again.load("x", OTHER) is None
    assert sorted(path.suffix for path in store.folder.iterdir()) == [".json", ".safetensors"]  # type: ignore[union-attr]


def test_without_a_folder_nothing_is_kept() -> None:
    store = ResultStore(None, "test-1")
    store.keep("x", KEY, 1)
    store.keep_tensors("x", KEY, TENSORS)
    assert (store.load("x", KEY), store.load_tensors("x", KEY)) == (None, None)


def test_a_name_is_for_people_and_safe_for_files(tmp_path: Path) -> None:
    store = ResultStore(tmp_path, "test-1")
    store.keep("../../etc/my stage", KEY, 1)
    (path,) = tmp_path.iterdir()
    assert path.name == f"------etc-my-stage-{KEY[:24]}.json"


def _files(store: ResultStore) -> dict[str, Path]:
    assert store.folder is not None
    return {path.suffix: path for path in store.folder.iterdir()}


@pytest.mark.parametrize("damage", ["cut", "empty", "flip", "foreign", "swapped", "older", "folder"])
def test_a_file_that_is_damaged_or_of_another_result_is_not_taken(tmp_path: Path, damage: str) -> None:
    store, other = ResultStore(tmp_path / "a", "test-1"), ResultStore(tmp_path / "b", "test-1")
    older = ResultStore(tmp_path / "c", "test-0")
    for one, key in (store, KEY), (other, OTHER), (older, KEY):
        one.keep("x", key, {"value": 41})
        one.keep_tensors("x", key, TENSORS)
    for suffix, path in _files(store).items():
        whole = path.read_bytes()
        changed = {"cut": whole[:-3], "empty": b"", "foreign": b"[1, 2]"}
        flipped = {".json": whole.replace(b"41", b"40"), ".safetensors": whole[:-1] + bytes([whole[-1] ^ 1])}
        if damage == "folder":
            path.unlink()
            path.mkdir()
        elif damage in ("swapped", "older"):
            shutil.copy(_files(other if damage == "swapped" else older)[suffix], path)
        else:
            path.write_bytes(changed[damage] if damage in changed else flipped[suffix])
    assert store.load("x", KEY) is None
    assert store.load_tensors("x", KEY) is None
    if damage == "folder":
        return
    store.keep("x", KEY, {"value": 41})
    store.keep_tensors("x", KEY, TENSORS)
    assert store.load("x", KEY) == {"value": 41}
    assert same(store.load_tensors("x", KEY), TENSORS)


def test_a_full_disk_is_told_and_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = ResultStore(tmp_path, "test-1")
    store.keep("x", KEY, 1)
    store.keep_tensors("x", KEY, TENSORS)
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr("geniex.files.os.fsync", full)
        told = r"x-.*No space left on device; finished results are kept in .*: free some space and repeat the call"
        for key in (KEY, OTHER):
            with pytest.raises(JobError, match=told):
                store.keep("x", key, 2)
            with pytest.raises(JobError, match=told):
                store.keep_tensors("x", key, {"logits": torch.zeros(2)})
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before
    assert store.load("x", KEY) == 1
    store.keep("x", OTHER, 2)
    assert store.load("x", OTHER) == 2


def test_a_folder_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(JobError, match=r"file: .*; choose another folder for the results"):
        ResultStore(tmp_path / "file", "test-1")


def test_digests_tell_everything_apart() -> None:
    x = torch.arange(6.0)
    told: list[Any] = [
        x, x.double(), x.view(2, 3), {"a": x}, {"b": x}, [1, 2], {"a": 1}, "a", None, 1.0, {},
        Arguments((x,)), Arguments((x,), {"return_dict": False}), Arguments((), {"x": x}),
        Examples([Arguments((x,))]), Examples([Arguments((x[:3],)), Arguments((x[3:].double(),))]),
    ]  # fmt: skip
    assert len({digest(value) for value in told}) == len(told)
    assert digest({"a": 1, "b": 2}) == digest({"b": 2, "a": 1})
    assert digest(x) == digest(x.clone())
    assert digest("a", "b") != digest("ab")
    assert json.dumps(digest(x)) == f'"{digest(x)}"'
