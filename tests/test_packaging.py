"""The wheel as a user gets it: installed apart from the checkout, it is typed, complete and lazy."""

import json
import os
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

import geniex
from geniex import distribution

ROOT = Path(__file__).parents[1]


def run(*command: str, cwd: Path, **environment: str) -> str:
    done = subprocess.run(command, cwd=cwd, env=os.environ | environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    build = (sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(ROOT))
    run(*build, cwd=folder)
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("installed")
    pip = (
        sys.executable,
        "-m",
        "pip",
        "install",
        "--quiet",
        "--no-deps",
        "--target",
        str(folder),
        str(wheel),
    )
    run(*pip, cwd=folder)
    return folder


@pytest.mark.slow
def test_the_wheel_holds_what_ships_and_nothing_else(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    assert "geniex/py.typed" in names
    assert any(name.endswith("dist-info/licenses/LICENSE") for name in names)
    configs = {str(path.relative_to(ROOT)) for path in (ROOT / "geniex/study/configs").rglob("*.yaml")}
    assert configs <= set(names)
    assert "geniex/study/configs/xchangr.yaml" in configs
    models = {f"geniex/_models/{path.name}" for path in (ROOT / "models").iterdir()}
    assert models <= set(names)
    assert not [name for name in names if any(word in name for word in ("rival", "bars", "nodal", "campaign"))]
    assert {name.split("/")[0] for name in names} == {"geniex", f"geniex_crossbar-{geniex.__version__}.dist-info"}


@pytest.mark.slow
def test_an_installed_wheel_loads_a_shipped_network_and_runs_it(installed: Path, tmp_path: Path) -> None:
    # The current directory is neither the checkout nor the installation.
    code = """
import json, torch, geniex
from geniex.networks import load_network
logits = load_network("fashion-cnn")(torch.zeros(2, 1, 28, 28))
print(json.dumps([geniex.__file__, list(logits.shape)]))
"""
    where, shape = json.loads(run(sys.executable, "-c", code, cwd=tmp_path, PYTHONPATH=str(installed)))
    assert Path(where).parent == installed / "geniex"
    assert shape == [2, 10]


@pytest.mark.slow
def test_an_installed_wheel_is_timed_alone_outside_a_checkout_and_beside_its_rivals_inside(
    installed: Path, tmp_path: Path
) -> None:
    code = "from geniex.bench.extension import load_extension; print(type(load_extension()).__name__)"
    for folder, found in ((tmp_path, "NoneType"), (ROOT, "Checkout")):
        # -P: the checkout's own geniex must not take the place of the installed one.
        shown = run(sys.executable, "-P", "-c", code, cwd=folder, PYTHONPATH=str(installed))
        assert shown.strip() == found


@pytest.mark.slow
def test_an_installed_wheel_has_the_command(installed: Path, tmp_path: Path) -> None:
    shown = run(str(installed / "bin" / "geniex"), "--version", cwd=tmp_path, PYTHONPATH=str(installed))
    assert shown == f"geniex {geniex.__version__}\n"


def test_one_version_everywhere() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["version"] == geniex.__version__
    assert project["name"] == distribution.NAME == geniex.__distribution__
    assert f"\nversion: {geniex.__version__}\n" in (ROOT / "CITATION.cff").read_text()
    assert f"\n## [{geniex.__version__}]" in (ROOT / "CHANGELOG.md").read_text()


def test_import_geniex_imports_no_torch(tmp_path: Path) -> None:
    code = "import geniex, sys; dir(geniex); print(*sys.modules)"
    assert not {"torch", "numpy", "lightning"} & set(run(sys.executable, "-c", code, cwd=tmp_path).split())


@pytest.mark.parametrize("name", geniex.__all__)
def test_every_public_name_resolves_and_is_documented(name: str) -> None:
    thing = getattr(geniex, name)
    assert name in dir(geniex)
    assert name == "__version__" or name.islower() or thing.__doc__


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="Crosbar"):
        _ = geniex.Crosbar
