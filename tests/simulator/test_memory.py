"""The memory of a pass, as reports tell it, against what is alive when the pass is run."""

from __future__ import annotations

import copy
import json
import os
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from geniex.circuit import Crossbar
from geniex.emulator import CircuitEmulator, Emulator, IdealEmulator, LinearEmulator, StoredEmulator, SurrogateEmulator
from geniex.mapping import Architecture, ConductanceWindow
from geniex.networks import FashionCNN
from geniex.simulator import ConversionReport, convert, dry_run
from geniex.simulator.memory.live import LiveBytes
from geniex.simulator.memory.pass_memory import PassMemory
from geniex.surrogate import GeniexMLP
from geniex.variation import NoisyEmulator, ReadNoise

TILE = (32, 32)
CROSSBAR = Crossbar(*TILE)
EIGHT = Architecture(tile=TILE, weight_bits=8, input_bits=8, slice_bits=2, stream_bits=1)
SIXTEEN = Architecture.puma(tile=TILE)
CALIBRATED = EIGHT.replace(adc_range="calibrated", adc_bits=8)


class Block(nn.Module):
    """A residual block that halves the maps."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.one = nn.Conv2d(inputs, outputs, 3, 2, 1, bias=False)
        self.norm = nn.BatchNorm2d(outputs)
        self.two = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.short = nn.Conv2d(inputs, outputs, 1, 2, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.two(torch.relu(self.norm(self.one(x)))) + self.short(x))


def network(name: str, examples: int) -> tuple[nn.Module, Tensor]:
    torch.manual_seed(0)
    if name == "mlp":
        return nn.Sequential(nn.Linear(64, 96), nn.ReLU(), nn.Linear(96, 10)), torch.randn(examples, 64)
    if name == "fashion":
        return FashionCNN(), torch.rand(examples, 1, 28, 28)
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3, 1, 1), nn.ReLU(), Block(8, 16), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 10)
    )
    return model, torch.randn(examples, 3, 10, 10)


def emulator(name: str) -> Emulator:
    if name == "mlp":
        torch.manual_seed(0)
        mlp = GeniexMLP(CROSSBAR, ConductanceWindow(100e3, 6.0), 0.25, hidden=48, r_min=0.9, r_max=1.3)
        return SurrogateEmulator(mlp.requires_grad_(False), CROSSBAR)
    made = {"ideal": lambda _: IdealEmulator(), "linear": LinearEmulator, "circuit": CircuitEmulator}
    if name == "stored":
        return StoredEmulator(LinearEmulator(CROSSBAR), dtype=torch.float16)
    if name == "noisy":
        return NoisyEmulator(LinearEmulator(CROSSBAR), ReadNoise(relative=0.01))
    return made[name](CROSSBAR) if name in made else SurrogateEmulator(name, CROSSBAR)


def converted(model: nn.Module, arch: Architecture, of: Emulator, x: Tensor, **options: Any) -> nn.Module:
    out = convert(model, arch, of, calibration=x, **options)
    return out if options.get("trainable") else out.requires_grad_(False)


def peak(model: nn.Module, x: Tensor, gradients: bool) -> int:
    """What is alive at most in a pass, with gradients from inputs and, where they ask for it, weights."""
    with torch.no_grad():
        model(x[:1])  # a trainable model programs once more in its first pass
    x = x.clone().requires_grad_(gradients)
    with LiveBytes() as live, torch.set_grad_enabled(gradients):
        out = model(x)
        if gradients:
            out.backward(torch.ones_like(out))
    model.zero_grad()
    return live.account.peak


def told(report: ConversionReport) -> tuple[int, int]:
    memory = report.pass_memory
    assert isinstance(memory, PassMemory)
    return memory.bytes, memory.bytes_with_gradients


CASES: list[tuple[str, int, str, Architecture, dict[str, Any]]] = [
    ("mlp", 1, "ideal", EIGHT, {}),
    ("mlp", 200, "ideal", SIXTEEN, {"trainable": True}),
    ("mlp", 200, "linear", EIGHT, {}),
    ("mlp", 40, "linear", SIXTEEN, {"checkpoint": False}),
    ("mlp", 40, "linear", CALIBRATED, {"trainable": True, "checkpoint": True}),
    ("mlp", 40, "mlp", SIXTEEN, {"checkpoint": False}),
    ("mlp", 40, "mlp", CALIBRATED, {"trainable": True}),
    ("mlp", 40, "physics-fast", EIGHT, {"dtype": torch.float64}),
    ("mlp", 20, "physics", EIGHT, {"checkpoint": False}),
    ("mlp", 1, "physics", SIXTEEN, {}),
    ("mlp", 1, "circuit", EIGHT, {}),
    ("mlp", 12, "circuit", EIGHT, {"dtype": torch.float64, "checkpoint": False}),
    ("mlp", 20, "stored", EIGHT, {}),
    ("mlp", 40, "noisy", EIGHT, {}),
    ("res", 1, "ideal", EIGHT, {"trainable": True}),
    ("res", 40, "ideal", CALIBRATED, {"checkpoint": False}),
    ("res", 4, "linear", EIGHT, {"trainable": True}),
    ("res", 10, "mlp", EIGHT, {"trainable": True, "checkpoint": False}),
    ("res", 4, "physics-fast", SIXTEEN, {}),
    ("res", 10, "physics-fast", EIGHT, {"checkpoint": False}),
    ("res", 1, "linear", EIGHT, {"layout": "toeplitz"}),
    ("fashion", 2, "ideal", SIXTEEN, {}),
    ("fashion", 2, "linear", EIGHT, {}),
]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "examples", "kind", "arch", "options"), CASES)
def test_a_conversion_tells_the_peak_of_a_pass_within_30_percent(
    name: str, examples: int, kind: str, arch: Architecture, options: dict[str, Any]
) -> None:
    model, x = network(name, examples)
    made = converted(model, arch, emulator(kind), x, **options)
    report = made.conversion
    assert isinstance(report, ConversionReport)
    for estimate, gradients in zip(told(report), (False, True), strict=True):
        assert estimate == pytest.approx(peak(made, x, gradients), rel=0.3)
    assert report.pass_memory is not None
    assert report.pass_memory.examples == examples


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "name", "examples", "options"),
    [
        ("ideal", "res", 4, {}),
        ("ideal", "mlp", 40, {"trainable": True}),
        ("linear", "mlp", 40, {"trainable": True}),
        ("linear", "res", 4, {"checkpoint": False}),
        ("mlp", "mlp", 40, {"trainable": True, "dtype": torch.float64}),
        ("physics-fast", "res", 4, {}),
    ],
)
def test_a_dry_run_tells_it_before_anything_is_programmed(
    kind: str, name: str, examples: int, options: dict[str, Any]
) -> None:
    model, x = network(name, examples)
    made = converted(model, EIGHT, emulator(kind), x, **options)
    bare = copy.deepcopy(model).to("meta")
    for estimate, from_meta, gradients in zip(
        told(dry_run(model, EIGHT, emulator(kind), example=x, **options)),
        told(dry_run(bare, EIGHT, emulator(kind), example=x.to("meta"), **options)),
        (False, True),
        strict=True,
    ):
        true = peak(made, x, gradients)
        assert estimate == pytest.approx(true, rel=0.3)
        assert from_meta >= 0.7 * true  # with the signs that inputs may have


@pytest.mark.slow
def test_growth_is_what_further_examples_add() -> None:
    model, x = network("res", 80)
    made = converted(model, EIGHT, emulator("linear"), x[:40], checkpoint=False)
    memory = made.conversion.pass_memory  # type: ignore[union-attr]
    assert isinstance(memory, PassMemory)
    assert memory.bytes + 40 * memory.more == pytest.approx(peak(made, x, False), rel=0.3)
    assert memory.bytes_with_gradients + 40 * memory.more_with_gradients == pytest.approx(peak(made, x, True), rel=0.3)


def test_nobody_asks_and_nothing_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """A conversion costs no more for what its report can tell, and the report holds no values."""
    monkeypatch.setattr("geniex.simulator.memory.pass_memory.Meter", None)
    model, x = network("mlp", 4)
    report = converted(model, EIGHT, IdealEmulator(), x).conversion
    assert isinstance(report, ConversionReport)
    assert report.memory is not None
    monkeypatch.undo()
    assert report.pass_memory is not None


def test_reports_print_and_keep_it() -> None:
    model, x = network("mlp", 4)
    made = converted(model, EIGHT, IdealEmulator(), x)
    report = made.conversion
    assert isinstance(report, ConversionReport)
    assert "a pass of 4 examples takes " in str(report)
    assert ", with gradients " in str(report)
    again = ConversionReport.from_dict(json.loads(json.dumps(report.to_dict())))
    assert again.pass_memory == report.pass_memory
    assert str(again) == str(report)
    assert pickle.loads(pickle.dumps(report)).pass_memory == report.pass_memory
    assert copy.deepcopy(made).conversion.pass_memory == report.pass_memory  # type: ignore[union-attr]


def test_without_inputs_or_values_there_is_nothing_to_tell() -> None:
    class Looks(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(8, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.layer(x) if float(x.sum()) > 0 else self.layer(-x)

    x = torch.rand(3, 8)
    assert dry_run(Looks(), EIGHT, IdealEmulator()).pass_memory is None
    report = convert(Looks(), EIGHT, IdealEmulator(), calibration=x).conversion
    assert isinstance(report, ConversionReport)
    assert report.pass_memory is None
    assert "a pass of" not in str(report)
    # A function that runs the model tells as much as a batch does.
    by_function = convert(nn.Linear(8, 4), EIGHT, IdealEmulator(), calibration=lambda model: model(x)).conversion
    assert by_function.pass_memory.examples == 3  # type: ignore[union-attr]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["linear", "mlp", "physics-fast", "physics", "circuit"])
def test_reads_are_computed_again_by_default_with_the_same_gradients(kind: str) -> None:
    model, x = network("mlp", 2 if kind == "circuit" else 10)
    grads, peaks = [], []
    for checkpoint in (False, None):
        made = converted(model, EIGHT, emulator(kind), x, checkpoint=checkpoint)
        asked = x.clone().requires_grad_()
        made(asked).square().sum().backward()
        grads.append(asked.grad)
        with LiveBytes() as live:
            out = made(asked)
        peaks.append(live.account.now)
        assert out.requires_grad
    torch.testing.assert_close(*grads, rtol=1e-6, atol=1e-9)
    assert peaks[1] < 0.5 * peaks[0]


def test_noisy_reads_are_not_computed_again_unless_asked() -> None:
    """Another draw would be another current, and would move the generator."""
    model, x = network("mlp", 4)
    made = converted(model, EIGHT, emulator("noisy"), x)
    assert not made[0].matrix._reader(None).checkpoint  # type: ignore[index]
    made = converted(model, EIGHT, emulator("noisy"), x, checkpoint=True)
    assert made[0].matrix._reader(None).checkpoint  # type: ignore[index]


SCRIPT = """
import sys, torch
from pathlib import Path
from torch import nn
from geniex.circuit import Crossbar
from geniex.emulator import SurrogateEmulator
from geniex.mapping import Architecture
from geniex.simulator import convert

def status(name):
    line = next(x for x in Path("/proc/self/status").read_text().splitlines() if x.startswith(name))
    return int(line.split()[1]) * 1024

torch.manual_seed(0)
model, x = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10)), torch.rand(600, 64)
emulator = SurrogateEmulator("physics", Crossbar(64, 64))
made = convert(model, Architecture(), emulator, calibration=x, checkpoint=eval(sys.argv[1])).requires_grad_(False)
made(x[:1].clone().requires_grad_()).sum().backward()  # imports what backward passes need
Path("/proc/self/clear_refs").write_text("5")
before = status("VmRSS")
made(x.requires_grad_()).sum().backward()
print(status("VmHWM") - before, made.conversion.pass_memory.bytes_with_gradients)
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="Linux alone tells a part's peak memory")
@pytest.mark.parametrize(("checkpoint", "most"), [("None", 1e8), ("False", 1e9)])
def test_six_hundred_images_fit_as_the_report_tells_it(checkpoint: str, most: float) -> None:
    """Resident memory of a process of its own: 600 images of 8 x 8 through ``physics``, with gradients of the inputs.

    Blocks are given back to the system as they are freed: otherwise the heap's gaps count as well.
    """
    command, given = [sys.executable, "-c", SCRIPT, checkpoint], os.environ | {"MALLOC_MMAP_THRESHOLD_": "65536"}
    done = subprocess.run(command, env=given, capture_output=True, text=True, check=True)
    grown, estimate = map(float, done.stdout.split())
    assert estimate < most
    assert grown == pytest.approx(estimate, rel=0.3, abs=20e6)


def test_what_is_alive_is_counted_once_and_let_go() -> None:
    there = torch.ones(1000, requires_grad=True)
    with LiveBytes() as live:
        a = there.view(10, 100)  # a view of what was there before
        assert live.account.now == 0
        b = a * 2
        c = b.t()[:5].exp()
        assert live.account.now == b.nbytes + c.nbytes
        d = c.sum()
        del b, c
        assert live.account.now == d.nbytes + 4 * 50  # exp's result, which its derivative needs
        with live.apart() as apart:
            torch.ones(7)
        assert (apart.now, apart.peak) == (0, 28)
        d.backward()
    del a, d
    assert live.account.now == there.grad.nbytes  # type: ignore[union-attr]
    there.grad = None
    assert live.account.now == 0
