"""Arrays in half precision and arrays on disk, against the emulator that made them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from geniex.circuit import Crossbar
from geniex.emulator import Emulator, IdealEmulator, LinearEmulator, StoredEmulator, SurrogateEmulator, map_tensors
from geniex.errors import InputError
from geniex.mapping import Architecture, ConductanceWindow
from geniex.simulator import convert, load_converted, save_converted
from geniex.surrogate import PhysicsSurrogate
from geniex.variation import NoisyEmulator, ReadNoise

CROSSBAR = Crossbar(12, 10, r_wire=8.0)
WINDOW = ConductanceWindow(100e3, 6.0)
ARCH = Architecture(tile=(12, 10), weight_bits=6, input_bits=6, adc_bits=10)


def conductances(*lead: int) -> Tensor:
    return WINDOW.g_off + torch.rand(*lead, 12, 10) * (WINDOW.g_on - WINDOW.g_off)


@pytest.fixture
def programmed(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many arrays each call of a physics surrogate's ``program`` was given."""
    calls: list[int] = []
    program = PhysicsSurrogate.program

    def counted(self: PhysicsSurrogate, conductances: Tensor, *rest: Any) -> Any:
        calls.append(conductances.shape[:-2].numel())
        return program(self, conductances, *rest)

    monkeypatch.setattr(PhysicsSurrogate, "program", counted)
    return calls


@pytest.mark.parametrize(("dtype", "rounding"), [(torch.float16, 2**-11), (torch.bfloat16, 2**-8)])
@pytest.mark.parametrize("name", ["linear", "physics-fast", "physics"])
def test_half_precision_rounds_and_no_more(name: str, dtype: torch.dtype, rounding: float) -> None:
    inner: Emulator = LinearEmulator(CROSSBAR) if name == "linear" else SurrogateEmulator(name, CROSSBAR)
    small = StoredEmulator(inner, dtype=dtype)
    g, v = conductances(3), 0.25 * torch.rand(5, 1, 12)
    whole, half = inner.program(g), small.program(g)
    exact, got = inner.read(whole, v), small.read(half, v)
    assert got.dtype == torch.float32
    # Sums of differences lose more than one rounding, but not many.
    assert 0 < (got / exact - 1).abs().max() < 4 * rounding
    # As one part of the tiles is read, or moved.
    part = map_tensors(half, lambda t: t[1:])
    assert torch.equal(small.read(part, v), got[:, 1:])

    def size(array: Any) -> int:
        sizes: list[int] = []
        map_tensors(array, lambda t: sizes.append(t.nbytes) or t)
        return sum(sizes)

    assert size(half) < 0.55 * size(whole)


def test_a_cached_array_is_not_programmed_again(tmp_path: Path, programmed: list[int]) -> None:
    g, v = conductances(4, 2), 0.25 * torch.rand(4, 1, 12)

    def cached(crossbar: Crossbar = CROSSBAR) -> StoredEmulator:
        programmed.clear()
        return StoredEmulator(SurrogateEmulator("physics", crossbar), cache=tmp_path)

    first = cached()
    expected = first.read(first.program(g), v)
    assert programmed == [8]
    second = cached()
    assert torch.equal(second.read(second.program(g), v), expected)
    assert programmed == [1], "one tile tells what an array is made of"
    # Other conductances, another circuit, other streams, and a torn file are programmed.
    second.program(g * 1.01)
    assert programmed == [1, 8]
    cached(CROSSBAR.replace(r_sink=10.0)).program(g)
    assert programmed == [8]
    for stream_bits in (4, 1):
        bound = cached().bind(Architecture(tile=(12, 10), stream_bits=stream_bits))
        bound.read(bound.program(g), v)
        assert programmed == [8]
    for file in tmp_path.iterdir():
        file.write_bytes(file.read_bytes()[:100])
    again = cached()
    assert torch.equal(again.read(again.program(g), v), expected)
    assert programmed == [8]


def test_gradients_are_those_of_what_is_stored() -> None:
    """Programmed in full where gradients are wanted: float16 would not hold them."""
    plain = LinearEmulator(CROSSBAR)
    found = []
    for emulator in (plain, StoredEmulator(plain, dtype=torch.float16)):
        g = torch.full((2, 12, 10), 5e-6, requires_grad=True)
        (1e8 * emulator.read(emulator.program(g), torch.full((2, 12), 0.2)).sum()).backward()
        found.append(g.grad)
    assert torch.equal(*found)
    half = StoredEmulator(plain, dtype=torch.float16)
    assert half.read(half.program(conductances(2).double()), torch.rand(2, 12).double()).dtype == torch.float64


def test_networks_run_on_stored_arrays_and_are_saved_so(tmp_path: Path) -> None:
    model, x = nn.Sequential(nn.Linear(30, 8), nn.ReLU(), nn.Linear(8, 3)), torch.rand(6, 30)
    plain = SurrogateEmulator("physics-fast", CROSSBAR)
    expected = convert(model, ARCH, plain, calibration=x)(x)
    for emulator in (StoredEmulator(plain, cache=tmp_path), StoredEmulator(plain, cache=tmp_path)):
        assert torch.equal(convert(model, ARCH, emulator, calibration=x)(x), expected)
    assert len(list(tmp_path.glob("*.safetensors"))) == 2
    small = convert(model, ARCH, StoredEmulator(plain, dtype=torch.float16), calibration=x)
    assert (small(x) - expected).norm() < 0.05 * expected.norm()
    loaded = load_converted(save_converted(small, tmp_path / "model"), model)
    assert torch.equal(loaded(x), small(x))
    unpacked = load_converted(tmp_path / "model", model, emulator=StoredEmulator(plain))
    assert torch.equal(unpacked(x), expected), "a wrapper that is given takes the place of the saved one"
    ideal = convert(model, ARCH, StoredEmulator(IdealEmulator()), calibration=x)
    assert torch.equal(ideal(x), convert(model, ARCH, IdealEmulator(), calibration=x)(x))


def test_bad_input_is_named() -> None:
    with pytest.raises(InputError, match=r"dtype: got torch.int8; it must be one of torch.float16, torch.bfloat16"):
        StoredEmulator(IdealEmulator(), dtype=torch.int8)
    with pytest.raises(InputError, match=r"emulator: got NoisyEmulator; a cache needs an emulator whose class"):
        StoredEmulator(NoisyEmulator(IdealEmulator(), ReadNoise(relative=0.1)), cache="nowhere")
    with pytest.raises(InputError, match="emulator: got str"):
        StoredEmulator("physics")
