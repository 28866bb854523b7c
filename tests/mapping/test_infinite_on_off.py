"""Cells that conduct nothing when they are off, G_off = 0: a window like any other, from levels to layers."""

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from geniex.cells import LinearCell, OneTransistorOneResistor, SinhCell, TabulatedCell
from geniex.circuit import Crossbar
from geniex.cli.main import main
from geniex.config import Config
from geniex.emulator import CircuitEmulator, IdealEmulator, LinearEmulator, SurrogateEmulator
from geniex.errors import ConversionError, InputError
from geniex.mapping import Architecture, ConductanceWindow
from geniex.mapping.architecture import OFFSETS
from geniex.simulator import convert, find_crossbar_matrices, load_converted, save_converted, vary
from geniex.study.grid import run_study
from geniex.sweep import SweepConfig, SweepFile, load_sweep, run_sweep
from geniex.variation import ConductanceSpread, Drift, RangeSpread, Variations

INFINITE = ConductanceWindow(r_on=20e3, on_off=float("inf"))
NEARLY = ConductanceWindow(r_on=20e3, on_off=9999.0)
SINH = Crossbar(8, 16, cell=SinhCell())
CELLS = (
    SinhCell(),
    OneTransistorOneResistor(SinhCell(), r_access=1e3),
    TabulatedCell((0.0, 0.1, 0.2, 0.4), ((0.0, 1e-6, 2.1e-6, 5e-6), (0.0, 5e-6, 1.1e-5, 3e-5)), extrapolation="linear"),
)


@pytest.fixture
def model() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        net = nn.Sequential(nn.Linear(10, 6), nn.ReLU(), nn.Linear(6, 4)).double()
    with torch.no_grad():
        net[0].weight[2], net[0].weight[:, 3] = 0.0, 0.0  # rows and columns of cells that are all off
    return net


@pytest.fixture
def x(generator: torch.Generator) -> Tensor:
    return torch.randn(7, 10, dtype=torch.float64, generator=generator)


def test_levels() -> None:
    codes = torch.arange(16)
    g = INFINITE.to_conductance(codes, 16, dtype=torch.float64)
    assert torch.equal(g, codes.double() * INFINITE.step(16))
    assert (INFINITE.g_off, g[0].item(), INFINITE.step(16)) == (0.0, 0.0, 1 / 20e3 / 15)
    assert torch.equal(INFINITE.to_code(g, 16), codes)
    with pytest.raises(InputError, match="must lie in the window, 0 to 5e-05 S"):
        INFINITE.to_code(torch.tensor([-1e-5]), 16)
    for wrong in (float("nan"), -float("inf"), "inf", None):
        with pytest.raises(InputError, match=r"on_off: got .*, or infinite"):
            ConductanceWindow(20e3, wrong)  # type: ignore[arg-type]


def test_files(tmp_path: Path) -> None:
    text = json.dumps(Architecture(window=INFINITE).to_dict(), allow_nan=False)
    assert Config.from_dict(json.loads(text)) == Architecture(window=INFINITE)
    path = tmp_path / "sweep.yaml"
    for written in ("inf", ".inf", "'inf'"):
        path.write_text(
            "crossbar: {rows: 3, cols: 2}\nv_max: 0.3\ntiles: 3\nvectors: 2\n"
            f"window: {{r_on: 20000, on_off: {written}}}\n"
        )
        config = load_sweep(path)
        assert isinstance(config, SweepConfig)
        assert config.window == INFINITE
    file = SweepFile(run_sweep(config, tmp_path / "a.h5", workers=1))
    conductances, voltages, currents = file.read(0, 3)
    assert file.window == INFINITE
    assert conductances.min() == 0
    torch.testing.assert_close(currents, config.crossbar.solve(voltages, conductances[:, None]), rtol=1e-8, atol=0)


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["differential", "offset", "twos_complement"])
@pytest.mark.parametrize("offset", OFFSETS)
def test_a_layer_is_the_product_on_ideal_tiles_and_the_circuit_on_the_others(
    offset: str, scheme: str, model: nn.Module, x: Tensor
) -> None:
    if (offset, scheme) == ("analog_difference", "twos_complement"):
        pytest.skip("there is no such architecture")
    arch = Architecture(
        tile=(8, 16), window=INFINITE, offset=offset, weight_scheme=scheme, adc_bits=None, adc_rounding="none",
        accumulator_bits=None,
    )  # fmt: skip
    ideal = convert(model, arch, IdealEmulator(), calibration=x)(x)
    assert ideal.isfinite().all()
    torch.testing.assert_close(ideal, model(x), rtol=1e-3, atol=1e-3)  # 16-bit fixed point
    wires = Crossbar(8, 16, r_source=0.0, r_sink=0.0, r_wire=0.0, cell=LinearCell())
    for emulator in (LinearEmulator(wires), CircuitEmulator(wires)):
        torch.testing.assert_close(convert(model, arch, emulator, calibration=x)(x), ideal, rtol=1e-6, atol=1e-6)
    # Nothing happens on the way from large ratios to the limit.
    for cell in CELLS:
        emulator = CircuitEmulator(SINH.replace(cell=cell))
        found, near = (
            convert(model, arch.replace(window=window), emulator, calibration=x)(x) for window in (INFINITE, NEARLY)
        )
        assert found.isfinite().all()
        torch.testing.assert_close(found, near, rtol=0.01, atol=0.01)
        assert (found - ideal).abs().max() > 1e-4, "the circuit's own effects are there"


def test_programmed_cells_report_and_files(model: nn.Module, x: Tensor, tmp_path: Path) -> None:
    converted = convert(model, Architecture(tile=(8, 16), window=INFINITE), CircuitEmulator(SINH), calibration=x)
    cells = torch.cat([part.flatten() for m in find_crossbar_matrices(converted).values() for part in m.conductances])
    assert cells.min() == 0
    counts = sum(torch.tensor(layer.histogram.counts) for layer in converted.conversion.layers if layer.histogram)
    assert counts[0] == (cells == 0).sum()
    assert counts.sum() == cells.numel()
    json.dumps(json.loads(save_converted(converted, tmp_path / "m").read_text()), allow_nan=False)
    assert torch.equal(load_converted(tmp_path / "m", model)(x), converted(x))
    aged = Variations((ConductanceSpread(0.1), RangeSpread(0.2, 0.2), Drift(3600.0, nu=0.05)))
    assert vary(converted, aged, seed=1)(x).isfinite().all()


@pytest.mark.ngspice
def test_off_cells_are_left_out_of_the_netlist() -> None:
    from geniex.circuit.spice.netlist import write_cells

    crossbar = Crossbar(3, 2)
    codes = torch.tensor([[0, 15], [0, 3], [7, 0]])
    g = INFINITE.to_conductance(codes, 16, dtype=torch.float64)
    assert write_cells(g, crossbar.cell, crossbar.wires).count("sinh") == 3
    v = torch.tensor([0.2, 0.1, 0.25], dtype=torch.float64)
    torch.testing.assert_close(crossbar.solve(v, g, method="ngspice"), crossbar.solve(v, g), rtol=1e-8, atol=0)


@pytest.mark.parametrize("name", ["physics", "physics-fast"])
def test_surrogates_refuse_it_by_name(name: str, model: nn.Module, x: Tensor) -> None:
    with pytest.raises(ConversionError, match="on_off = inf"):
        convert(
            model,
            Architecture(tile=(64, 64), window=INFINITE),
            SurrogateEmulator(name, Crossbar(64, 64)),
            calibration=x,
        )


@pytest.mark.slow
def test_studies_take_it_from_the_shell(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    study = tmp_path / "s.yaml"
    study.write_text(
        "network: fashion-cnn\nimages: 4\ncalibration_images: 4\nemulator: ideal\ngrid: {window.on_off: [6, .inf]}\n"
    )
    rows = run_study(study, tmp_path / "out").to_dict()["rows"]
    assert rows[0]["accuracy"] == rows[1]["accuracy"]
    json.loads((tmp_path / "out" / "report.json").read_text(), parse_constant=lambda word: pytest.fail(word))
    study.write_text("network: fashion-cnn\nimages: 4\ncalibration_images: 4\nemulator: ideal\n")
    assert main(["study", str(study), "--out", str(tmp_path / "two"), "--set", "window.on_off=inf"]) == 0, (
        capsys.readouterr()
    )
