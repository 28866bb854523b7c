"""Whose package it is: every hint installs ours, and another project's modules of the same name are noticed."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from geniex import distribution
from geniex.cli.main import main
from geniex.distribution import NAME, find_conflict, find_strangers, install_hint

ROOT = Path(__file__).parents[1]
TEXTS = [
    path
    for folder, pattern in (
        (ROOT, "*.md"),
        (ROOT, "Makefile"),
        (ROOT, "pyproject.toml"),
        (ROOT / "geniex", "**/*.py"),
        (ROOT / "geniex", "**/*.yaml"),
        (ROOT / "models", "*.md"),
        (ROOT / "models", "*.sh"),
        (ROOT / "spice_data", "*.md"),
        (ROOT / "spice_data", "*.yaml"),
        (ROOT / "notebooks", "*.ipynb"),
    )
    for path in sorted(folder.glob(pattern))
    if path.name != "distribution.py"
]
OURS = re.compile(
    r"(?<![\w.-])geniex(_crossbar|-crossbar)?\[[\w,]+\]|pip3? (?:install|download)[^\n]*?[ '\"]geniex(?![\w.-])"
)


def test_no_hint_but_the_one_function_installs_us() -> None:
    """``pip install geniex`` would run the code of another project."""
    assert len(TEXTS) > 200
    found = [f"{path.relative_to(ROOT)}: {hit[0]}" for path in TEXTS for hit in OURS.finditer(path.read_text())]
    assert found == [], "take hints from geniex.distribution.install_hint"


@pytest.mark.parametrize("text", ["pip install 'geniex[plot]'", "pip install geniex", "geniex-crossbar[ray]"])
def test_such_hints_would_be_found(text: str) -> None:
    assert OURS.search(text)
    assert not OURS.search(f"pip install {NAME}")


def test_hints_name_an_extra_that_there_is() -> None:
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert install_hint() == f"pip install {project['name']}"
    asked = {extra for path in TEXTS for extra in re.findall(r"install_hint\(['\"](\w+)['\"]\)", path.read_text())}
    assert {"plot", "spice", "ray", "parquet"} <= asked <= project["optional-dependencies"].keys()


def installed(folder: Path, version: str = "0.9.3", command: str = "geniex.cli:main") -> Path:
    """A distribution named geniex as pip leaves it in ``folder``, with a module of its own."""
    info = folder / f"geniex-{version}.dist-info"
    info.mkdir(parents=True)
    (folder / "geniex").mkdir(exist_ok=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: geniex\nVersion: {version}\n")
    (info / "RECORD").write_text(f"geniex/__init__.py,,\ngeniex/tokenizer.py,,\n{info.name}/METADATA,,\n")
    (info / "entry_points.txt").write_text(f"[console_scripts]\ngeniex = {command}\n")
    return info


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """A folder where our package is installed."""
    folder = tmp_path / "site"
    folder.mkdir()
    subprocess.run(["cp", "-r", str(ROOT / "geniex"), str(folder)], check=True)
    return folder


def python(site: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {"PYTHONPATH": str(site), "PATH": "/usr/bin:/bin", "HOME": str(site)}
    command = [sys.executable, *arguments]
    return subprocess.run(command, cwd=site.parent, env=environment, capture_output=True, text=True, check=False)


def test_alone_we_are_imported(site: Path) -> None:
    done = python(site, "-c", "import geniex; print(geniex.__file__)")
    assert done.stdout.strip() == str(site / "geniex/__init__.py"), done.stderr


def test_a_stranger_s_files_among_ours_are_an_error_at_import(site: Path) -> None:
    installed(site)
    done = python(site, "-c", "import geniex")
    assert done.returncode == 1
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("ImportError: the files of another project, geniex 0.9.3 in")
    assert f"pip uninstall geniex {NAME}" in last


@pytest.mark.slow
def test_a_stranger_s_init_in_place_of_ours_is_an_error_at_the_first_import_of_ours(site: Path) -> None:
    installed(site)
    (site / "geniex/__init__.py").write_text("__version__ = '0.9.3'\n")
    for code in ("import geniex.errors", "import geniex.cells", "from geniex.config import Config"):
        done = python(site, "-c", code)
        assert "ImportError: `import geniex` finds another project's package" in done.stderr, code
    done = python(site, "-m", "geniex.cli.main", "--version")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "finds another project's package" in done.stderr


@pytest.mark.slow
def test_the_command_says_so_in_a_line_and_doctor_goes_on(site: Path, tmp_path: Path) -> None:
    installed(site)
    script = tmp_path / "geniex"
    script.write_text("import sys\nfrom geniex.cli.main import main\nsys.exit(main())\n")
    done = python(site, str(script), "--version")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "are mixed with those of geniex-crossbar" in done.stderr
    done = python(site, str(script), "doctor", "--json", str(tmp_path / "told.json"))
    assert done.returncode == 0, done.stderr
    (found,) = [f for f in json.loads((tmp_path / "told.json").read_text()) if f["kind"] == "conflict"]
    assert found["found"] == f"geniex 0.9.3 in {site}"


def test_an_install_of_ours_under_the_old_name_is_no_stranger(site: Path) -> None:
    installed(site, "0.1.0", "geniex.cli.main:main")
    done = python(site, "-c", "import geniex")
    assert done.returncode == 0, done.stderr
    assert find_strangers([str(site)]) == []


def test_a_stranger_without_files_in_our_folder_is_no_error(site: Path) -> None:
    (installed(site) / "RECORD").write_text("__editable__.geniex.pth,,\n")
    assert python(site, "-c", "import geniex").returncode == 0
    assert find_strangers([str(site)]) == [f"geniex 0.9.3 in {site}"]


def test_doctor_tells_of_a_stranger_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    installed(tmp_path / "elsewhere")
    monkeypatch.setenv("COLUMNS", "500")
    monkeypatch.syspath_prepend(str(tmp_path / "elsewhere"))
    assert find_conflict() is None, "we are what is imported"
    assert main(["doctor"]) == 0
    shown = capsys.readouterr().out
    assert f"geniex 0.9.3 in {tmp_path / 'elsewhere'} has the same import name: pip uninstall" in shown


def test_where_no_stranger_is_nothing_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """An import lists one folder, and only a name in it that could be theirs makes it look closer."""

    def closer(folders: object) -> object:
        raise AssertionError(folders)

    monkeypatch.setattr(distribution, "_strangers", closer)
    assert find_conflict() is None
