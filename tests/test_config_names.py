"""How files name configuration classes: geniex' own by a fixed list, a user's own once they are registered."""

import importlib
import inspect
import json
import pkgutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

import geniex
from geniex.cells import Cell, SinhCell
from geniex.circuit import Crossbar
from geniex.cli.main import main
from geniex.config import _SHIPPED, Config, register_config
from geniex.errors import InputError
from geniex.mapping import ConductanceWindow
from geniex.surrogate import GeniexMLP, load_surrogate, save_surrogate
from geniex.sweep import SweepConfig, SweepFile, run_sweep

OWN = """
from dataclasses import dataclass
from geniex.cells import Cell
from geniex.config import register_config

@register_config
@dataclass(frozen=True)
class CubeCell(Cell):
    vs: float = 0.5
    def current(self, u, g):
        return g * u * (1 + (u / self.vs) ** 2)
    def spice(self, name, plus, minus, g):
        raise NotImplementedError
"""


def _python(code: str, *arguments: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code, *arguments], cwd=cwd, capture_output=True, text=True)


def _own(scope: str = "") -> type[Cell]:
    """A new class of a user's, ``Wire``."""

    @dataclass(frozen=True)
    class Wire(Cell):
        gain: float = 2.0

        def current(self, u: torch.Tensor, g: torch.Tensor) -> torch.Tensor:
            return self.gain * g * u

        def spice(self, name: str, plus: str, minus: str, g: float) -> str:
            return ""

    Wire.__qualname__ = f"{scope}Wire"
    return Wire


def test_the_list_of_names_is_complete() -> None:
    found = {}
    for module in pkgutil.walk_packages(geniex.__path__, "geniex."):
        for name, kind in vars(importlib.import_module(module.name)).items():
            own = isinstance(kind, type) and issubclass(kind, Config) and kind.__module__ == module.name
            if own and kind is not Config and not inspect.isabstract(kind) and not name.startswith("_"):
                # Doctests define classes in their modules' names too; those are nobody's attributes.
                found[name] = module.name
    assert found == _SHIPPED


@pytest.mark.slow
@pytest.mark.parametrize("name", ["SinhCell", "Drift", "Remapping", "SweepConfig"])
def test_a_name_needs_no_import(name: str) -> None:
    code = "import sys; from geniex.config import Config, _target; print(_target(Config, {'_type': sys.argv[1]}, {}))"
    assert name in _python(code, name).stdout
    code = "from geniex.config import Config; print(Config.from_dict({'_type': 'SinhCell', 'v0': 0.4}))"
    assert _python(code).stdout.startswith("SinhCell(v0=0.4")


def test_the_list_of_choices_does_not_depend_on_imports(monkeypatch: pytest.MonkeyPatch) -> None:
    code = (
        "from geniex.config import Config\ntry: Config.from_dict({'_type': 'Sinh'})\nexcept ValueError as e: print(e)"
    )
    said = _python(code).stdout
    assert "_type: got 'Sinh'; it must be one of Architecture, " in said
    assert "SinhCell" in said
    monkeypatch.setattr("geniex.config._registered", {})
    with pytest.raises(InputError, match="one of LinearCell, OneTransistorOneResistor, SinhCell, TabulatedCell"):
        Cell.from_dict({"_type": "Sinh"})


def test_a_class_of_the_same_name_is_not_taken_for_ours() -> None:
    kind = dataclass(frozen=True)(type("SinhCell", (_own(),), {"__module__": "mine"}))
    assert isinstance(Config.from_dict({"_type": "SinhCell"}), SinhCell)
    allowed = r"mine\.SinhCell; files would take it for geniex' own geniex\.cells\.sinh\.SinhCell"
    for attempt in (
        lambda: register_config(kind),
        lambda: Config.from_dict({"_type": "SinhCell"}, register=(kind,)),
        kind().to_dict,
        Crossbar(2, 2, cell=kind()).to_dict,
    ):
        with pytest.raises(InputError, match=allowed):
            attempt()


def test_a_class_of_a_users_own_is_found_once_it_is_registered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("geniex.config._registered", {})
    kind = _own()
    told = json.loads(json.dumps(Crossbar(2, 3, cell=kind(gain=3.0)).to_dict()))
    with pytest.raises(InputError, match=r"_type: got 'Wire'; .* registered first, see .*register_config"):
        Config.from_dict(told)
    assert Config.from_dict(told, register=(kind,)) == Crossbar(2, 3, cell=kind(gain=3.0))
    with pytest.raises(InputError, match="_type"):  # ``register`` holds for one call
        Config.from_dict(told)
    assert kind.from_dict(kind(gain=4.0).to_dict()) == kind(gain=4.0)  # the class itself tells what is meant
    assert register_config(kind) is kind
    assert Config.from_dict(told) == Crossbar(2, 3, cell=kind(gain=3.0))
    again = register_config(_own())  # a notebook's cell runs twice
    assert type(Cell.from_dict(told["cell"])) is again
    with pytest.raises(InputError, match="is already registered under that name: rename one"):
        register_config(_own(scope="Other."))
    for wrong in (object, Cell.current, "Wire"):
        with pytest.raises(InputError, match=r"register: got .* it must be a dataclass that derives from Config"):
            register_config(wrong)  # type: ignore[type-var, arg-type]


@pytest.mark.parametrize("data", [{}, {"v0": 0.2}, {"_type": "Cell"}, {"_type": ["SinhCell"]}, {"_type": None}])
def test_what_names_no_class_that_can_be_made_is_refused(data: dict[str, object]) -> None:
    with pytest.raises(InputError, match=r"_type: got .*; it must be one of .*LinearCell"):
        Cell.from_dict(data)


def test_infinity_survives_standard_json() -> None:
    @dataclass(frozen=True)
    class Range(Config):
        low: float
        highs: tuple[float, ...]
        word: str

    range_ = Range(-float("inf"), (1.0, float("inf")), "inf")
    assert Range.from_dict(json.loads(json.dumps(range_.to_dict(), allow_nan=False))) == range_


def test_a_sweep_of_an_unregistered_cell_is_refused_before_it_is_solved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("geniex.config._registered", {})
    config = SweepConfig(Crossbar(2, 2, cell=_own()()), ConductanceWindow(20e3, 8.0), 0.3, tiles=1, vectors=1)
    with pytest.raises(InputError, match="register_config"):
        run_sweep(config, tmp_path / "own.h5", workers=1)
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_files_and_workers_know_a_registered_cell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A sweep from YAML by the shell, in two processes; then its file, and a checkpoint, in a process that imports."""
    (tmp_path / "my_cells.py").write_text(OWN)
    (tmp_path / "own.yaml").write_text(
        "crossbar: {rows: 3, cols: 2, cell: {_type: CubeCell, vs: 0.3}}\nwindow: {r_on: 2.e+4, on_off: 8}\n"
        "v_max: 0.3\ntiles: 4\nvectors: 2\nshard_tiles: 2\n"
    )
    shell = "import sys; from geniex.cli.main import main; sys.exit(main(sys.argv[1:]))"
    verb = ("sweep", "own.yaml", "--out", "own.h5", "--workers", "2")
    refused = _python(shell, *verb, cwd=tmp_path)
    assert refused.returncode == 2
    assert "register_config" in refused.stderr
    done = _python(shell, "--import", "my_cells", *verb, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    monkeypatch.setattr("geniex.config._registered", {})
    monkeypatch.syspath_prepend(tmp_path)
    kind = importlib.import_module("my_cells").CubeCell
    assert SweepFile(tmp_path / "own.h5").crossbar == Crossbar(3, 2, cell=kind(vs=0.3))
    surrogate = GeniexMLP(Crossbar(3, 2, cell=kind()), ConductanceWindow(20e3, 8.0), v_max=0.3, hidden=2)
    save_surrogate(surrogate, tmp_path / "net")
    assert load_surrogate(tmp_path / "net").crossbar.cell == kind()


def test_a_module_that_cannot_be_imported_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--import", "no_such_module", "doctor"]) == 2
    assert "geniex: --import: got no_such_module; it cannot be imported" in capsys.readouterr().err
    assert main(["--import"]) == 2
    assert "write geniex --import MODULE VERB" in capsys.readouterr().err
