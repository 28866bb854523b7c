from pathlib import Path

import pytest

import geniex.shipped
from geniex.errors import GeniexError, MissingDependencyError
from geniex.shipped import models_dir, shipped_file, shipped_names


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package folder of our own inside a checkout of our own."""
    folder = tmp_path / "geniex"
    folder.mkdir()
    monkeypatch.setattr(geniex.shipped, "_PACKAGE", folder)
    return folder


def _put(folder: Path, *names: str) -> None:
    folder.mkdir()
    for name in names:
        (folder / name).write_text(name)


def test_source_checkout_reads_models_beside_the_package(package: Path) -> None:
    _put(package.parent / "models", "a.json", "a.safetensors")
    assert shipped_file("a.json").read_text() == "a.json"
    assert shipped_names(".safetensors") == ["a.safetensors"]


def test_wheel_reads_the_files_inside_the_package(package: Path) -> None:
    _put(package.parent / "models", "a.json")
    _put(package / "_models", "b.json")
    assert models_dir() == package / "_models"
    assert shipped_names() == ["b.json"]


def test_unknown_file_lists_what_ships(package: Path) -> None:
    _put(package.parent / "models", "b.json", "a.json")
    with pytest.raises(MissingDependencyError, match=r"'c\.json' not found.*a\.json, b\.json"):
        shipped_file("c.json")


@pytest.mark.parametrize("name", ["../pyproject.toml", "", "."])
def test_a_name_is_never_a_way_out_of_the_folder(package: Path, name: str) -> None:
    _put(package.parent / "models", "a.json")
    (package.parent / "pyproject.toml").write_text("")
    with pytest.raises(GeniexError):
        shipped_file(name)


def test_no_models_at_all_is_told(package: Path) -> None:
    assert shipped_names() == []
    with pytest.raises(MissingDependencyError, match="holds none"):
        shipped_file("a.json")
