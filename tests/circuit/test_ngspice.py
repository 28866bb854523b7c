"""ngspice against the native solver, on every kind of circuit it may be given, and how it fails."""

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from circuits import WIRINGS, drives, error, tiles

from geniex.cells import Cell, LinearCell, SinhCell
from geniex.circuit import Crossbar
from geniex.circuit.spice import ngspice_version, solve, solve_ngspice, solve_tile
from geniex.circuit.spice import worker as ngspice
from geniex.errors import InputError, SpiceError

pytestmark = pytest.mark.ngspice
AGREEMENT = 1e-8
"""What the project promises; ngspice stops at steps of a tenth of it, after which its error is rounding."""


@pytest.fixture(autouse=True)
def _needs_ngspice() -> None:
    if ngspice_version() is None:
        pytest.skip("PySpice or libngspice is missing")


@dataclass(frozen=True)
class DiodeWithoutModel(LinearCell):
    """A cell that refers to a model that no one wrote."""

    def spice(self, name: str, plus: str, minus: str, g: float) -> str:
        return f"D{name} {plus} {minus} nowhere"


@dataclass(frozen=True)
class NoSolution(LinearCell):
    """A cell that has no operating point."""

    def spice(self, name: str, plus: str, minus: str, g: float) -> str:
        return f"B{name} {plus} {minus} I=ln(-1-V({plus},{minus})*V({plus},{minus}))"


def native(xbar: Crossbar, v: torch.Tensor, g: torch.Tensor) -> torch.Tensor:
    return xbar.solve(v, g, method="native", tol=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("cell", [LinearCell(), SinhCell(), SinhCell(v0=1 / 7)], ids=str)
@pytest.mark.parametrize("wiring", WIRINGS)
def test_matches_native_on_every_wiring(wiring: str, cell: Cell, generator: torch.Generator) -> None:
    # Signed drives, several a tile, on a tile without open cells and one with an open row, column and cell.
    xbar = Crossbar(4, 6, cell=cell, **WIRINGS[wiring])
    v, g = drives(3, 4, generator=generator), tiles(2, 1, 4, 6, generator=generator)
    g[1, :, 2], g[1, ..., 4], g[1, :, 0, 0] = 0, 0, 0
    currents = xbar.solve(v, g, method="ngspice")
    assert currents.dtype == torch.float64
    assert not currents[1, :, 4].any()
    assert error(currents, native(xbar, v, g)) < AGREEMENT


@pytest.mark.parametrize(("rows", "cols"), [(1, 1), (1, 9), (9, 1), (3, 13), (16, 16)])
def test_matches_native_on_every_shape(rows: int, cols: int, generator: torch.Generator) -> None:
    xbar = Crossbar(rows, cols, r_wire_row=6.0, r_wire_col=1.5)
    v, g = drives(2, rows, generator=generator), tiles(rows, cols, generator=generator)
    assert error(xbar.solve(v, g, method="ngspice"), native(xbar, v, g)) < AGREEMENT


@pytest.mark.parametrize("wiring", ["nominal", "ideal"])
def test_open_array_and_no_drive(wiring: str, generator: torch.Generator) -> None:
    xbar = Crossbar(3, 2, **WIRINGS[wiring])
    v, g = drives(3, generator=generator), tiles(3, 2, generator=generator)
    assert not xbar.solve(v, torch.zeros_like(g), method="ngspice").any()
    assert not xbar.solve(torch.zeros_like(v), g, method="ngspice").any()


@pytest.mark.parametrize(
    ("lead_v", "lead_g"),
    [((), ()), ((3,), ()), ((), (3,)), ((3,), (3,)), ((2, 1, 3), (4, 1)), ((4, 1), (2, 1, 3)), ((0,), ())],
)
def test_broadcasts_as_native_does(
    lead_v: tuple[int, ...], lead_g: tuple[int, ...], generator: torch.Generator
) -> None:
    xbar = Crossbar(3, 2)
    v, g = drives(*lead_v, 3, generator=generator), tiles(*lead_g, 3, 2, generator=generator)
    currents, expected = xbar.solve(v, g, method="ngspice"), native(xbar, v, g)
    assert currents.shape == expected.shape
    assert not currents.numel() or error(currents, expected) < AGREEMENT


def test_a_shared_tile_is_loaded_once(monkeypatch: pytest.MonkeyPatch, generator: torch.Generator) -> None:
    jobs: list[list[dict[str, list[object]]]] = []
    ask = solve._ask_worker
    monkeypatch.setattr(solve, "_ask_worker", lambda job: jobs.append(job) or ask(job))  # type: ignore[func-returns-value]
    v, g = drives(5, 1, 3, generator=generator), tiles(2, 3, 2, generator=generator)
    solve_ngspice(v, g, Crossbar(3, 2).cell, Crossbar(3, 2).wires, workers=1)
    assert [[len(tile["voltages"]) for tile in job] for job in jobs] == [[5, 5]]


def test_workers_are_replaced(monkeypatch: pytest.MonkeyPatch, generator: torch.Generator) -> None:
    monkeypatch.setattr(solve, "_SOLVES_PER_WORKER", 4)
    xbar = Crossbar(3, 2)
    v, g = drives(6, 1, 3, generator=generator), tiles(2, 3, 2, generator=generator)
    assert error(solve_ngspice(v, g, xbar.cell, xbar.wires, workers=2), native(xbar, v, g)) < AGREEMENT


def test_single_precision_is_solved_in_double(generator: torch.Generator) -> None:
    v, g = drives(3, generator=generator).float(), tiles(3, 2, generator=generator).float()
    currents = Crossbar(3, 2).solve(v, g, method="ngspice")
    assert currents.dtype == torch.float32
    assert torch.equal(currents, Crossbar(3, 2).solve(v.double(), g.double(), method="ngspice").float())


def test_one_process_solves_tile_after_tile(generator: torch.Generator) -> None:
    for rows, cols in ((4, 3), (2, 5), (4, 3)):
        xbar = Crossbar(rows, cols)
        v, g = drives(3, rows, generator=generator), tiles(rows, cols, generator=generator)
        assert error(solve_tile(v, g, xbar.cell, xbar.wires), native(xbar, v, g)) < AGREEMENT
        # Nothing of a tile that fails may answer for the next.
        with pytest.raises(SpiceError, match=r"no operating point: .*nowhere"):
            solve_tile(v, g, DiodeWithoutModel(), xbar.wires)
        with pytest.raises(SpiceError, match=r"no operating point: .*aborted"):
            solve_tile(v, g, NoSolution(), xbar.wires)


def test_failure_names_the_tile_with_the_words_of_ngspice() -> None:
    g = torch.zeros(2, 3, 1, 2, 2)
    g[1, 2] = 1e-5
    with pytest.raises(SpiceError, match=r"leading index \(1, 2, 0\) was not solved: .*no operating point: .*nowhere"):
        Crossbar(2, 2, cell=DiodeWithoutModel()).solve(torch.full((4, 2), 0.1), g, method="ngspice")


@pytest.mark.parametrize(
    ("death", "message"),
    [
        ("os.kill(os.getpid(), signal.SIGSEGV)", "SIGSEGV"),
        ("os._exit(7)", "exit status 7"),
        ("raise MemoryError('no more')", "no more"),
    ],
)
def test_dead_worker_is_an_error(death: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = tmp_path / "worker.py"
    script.write_text(f"import os, signal\n{death}\n")
    monkeypatch.setattr(ngspice, "__file__", str(script))
    with pytest.raises(SpiceError, match=f"worker died .*{message}"):
        Crossbar(2, 2).solve(torch.full((2,), 0.1), torch.full((40, 2, 2), 1e-5), method="ngspice")


@pytest.mark.slow
def test_works_in_a_script_without_main_guard(tmp_path: Path) -> None:
    script = tmp_path / "plain.py"
    script.write_text(
        "import torch\nfrom geniex.circuit import Crossbar\n"
        "v, g = torch.full((2,), 0.1), torch.full((3, 2, 2), 1e-5)\n"
        "print(tuple(Crossbar(2, 2).solve(v, g, method='ngspice').shape))\n"
    )
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=120)
    assert (done.stdout, done.stderr, done.returncode) == ("(3, 2)\n", "", 0)


@pytest.mark.parametrize("name", ["voltages", "conductances"])
def test_refuses_gradients(name: str) -> None:
    tensors = {"voltages": torch.full((2,), 0.1), "conductances": torch.full((2, 2), 1e-5)}
    tensors[name].requires_grad_()
    with pytest.raises(InputError, match=f"{name}: .*ngspice has no gradients.*method='native'"):
        Crossbar(2, 2).solve(**tensors, method="ngspice")
    with torch.no_grad():
        assert not Crossbar(2, 2).solve(**tensors, method="ngspice").requires_grad


def test_wires_of_milliohms_converge(generator: torch.Generator) -> None:
    """Their currents are rounded to more than a share of 1e-11, which a tighter abstol would wait for in vain."""
    xbar = Crossbar(12, 8, r_source=800.0, r_sink=50.0, r_wire_row=1e-3, r_wire_col=4.0, cell=SinhCell(0.3))
    v, g = drives(6, 12, low=0.0, generator=generator), tiles(12, 8, generator=generator)
    assert error(solve_tile(v, g, xbar.cell, xbar.wires), native(xbar, v, g)) < AGREEMENT


_GROWTH = """
import os, torch
from geniex.circuit import Crossbar
from geniex.circuit.spice import solve_tile

def solve(tiles):
    for _ in range(tiles):
        v, g = torch.rand(5, 8).double() / 4, 1e-5 * torch.rand(8, 8).double()
        solve_tile(v, g, crossbar.cell, crossbar.wires)
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")

crossbar = Crossbar(8, 8)
print(solve(20), solve(40))
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads Linux' memory figures")
def test_memory_hardly_grows_over_solves() -> None:
    """Bytes of a fresh process over 200 solves: a circuit left in ngspice would cost 90 kB each."""
    done = subprocess.run([sys.executable, "-c", _GROWTH], capture_output=True, text=True, check=True)
    before, after = map(int, done.stdout.split())
    assert after - before < 200 * 20e3
