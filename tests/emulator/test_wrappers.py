"""Wrappers that a user writes: their own tensors belong to their identity, and binding never loses their class."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from geniex import Architecture, Crossbar, IdealEmulator, SurrogateEmulator, convert, load_converted, save_converted
from geniex.circuit import shared_matmul
from geniex.emulator import Emulator, EmulatorWrapper, StoredEmulator, identity, register_emulator
from geniex.errors import ConversionError
from geniex.simulator import find_crossbar_matrices
from geniex.variation import NoisyEmulator, ReadNoise

ARCH = Architecture(tile=(16, 16), weight_frac_bits=8, input_frac_bits=8, adc_bits=None)
CROSSBAR = Crossbar(16, 16)


class Amplified(EmulatorWrapper):
    """Conductances times a gain, which is a buffer of the wrapper's own."""

    cacheable = True

    def __init__(self, emulator: Emulator, gain: float | Tensor = 1.0) -> None:
        super().__init__(emulator)
        self.register_buffer("gain", torch.as_tensor(gain))

    def around(self, emulator: Emulator) -> Amplified:
        return Amplified(emulator, self.gain)

    def program(self, conductances: Tensor) -> Any:
        return self.emulator.program(conductances * self.gain)

    def read(self, array: Any, voltages: Tensor) -> Tensor:
        return self.emulator.read(array, voltages)

    @classmethod
    def from_settings(
        cls, settings: Mapping[str, Any], weights: dict[str, Tensor], inner: Emulator | None
    ) -> Amplified:
        assert inner is not None
        return cls(inner, weights["gain"])


class Offset(Emulator):
    """A user's emulator with a buffer."""

    name = "offset"

    def __init__(self, gain: float = 0.9) -> None:
        super().__init__()
        self.register_buffer("gain", torch.tensor(gain))

    def program(self, conductances: Tensor) -> Tensor:
        return conductances

    def read(self, array: Tensor, voltages: Tensor) -> Tensor:
        return shared_matmul(voltages, array) * self.gain


@pytest.fixture(autouse=True)
def registry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(identity, "_registered", {})


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(20, 5), nn.ReLU(), nn.Linear(5, 3)).eval()


def test_a_cache_tells_wrappers_apart_by_their_own_tensors(tmp_path: Path) -> None:
    conductances = torch.full((2, 3), 1e-5)
    for gain in (0.5, 2.0):
        array = StoredEmulator(Amplified(IdealEmulator(), gain), cache=tmp_path).program(conductances)
        assert torch.equal(array.conductances, gain * conductances)


def test_wrappers_are_saved_with_their_own_tensors(tmp_path: Path) -> None:
    register_emulator(Amplified)
    x = torch.rand(4, 20)
    emulator = Amplified(Amplified(SurrogateEmulator("physics", CROSSBAR), 0.5), 1.5)
    model = convert(network(), ARCH, emulator)
    path = save_converted(model, tmp_path / "model")
    assert torch.equal(load_converted(path, network())(x), model(x))
    inner = SurrogateEmulator("physics", CROSSBAR)
    assert torch.equal(load_converted(path, network(), emulator=inner)(x), model(x))


@pytest.mark.parametrize("before", [True, False])
def test_a_given_emulator_is_the_saved_one_whenever_its_class_was_registered(before: bool, tmp_path: Path) -> None:
    x = torch.rand(4, 20)
    model = convert(network(), ARCH, NoisyEmulator(Offset(), ReadNoise(relative=0.1)))
    path = save_converted(model, tmp_path / "model") if before else None
    register_emulator(Offset)
    path = path or save_converted(model, tmp_path / "model")
    if not before:
        identity._registered.clear()
    expected = convert(network(), ARCH, NoisyEmulator(Offset(), ReadNoise(relative=0.1)))(x)
    assert torch.equal(load_converted(path, network(), emulator=Offset())(x), expected)
    with pytest.raises(ConversionError, match="of another circuit or other weights"):
        load_converted(path, network(), emulator=Offset(0.8))


class OwnSurrogate(SurrogateEmulator):
    def read(self, array: Any, voltages: Tensor) -> Tensor:
        return 0.5 * super().read(array, voltages)


class OwnNoise(NoisyEmulator):
    def read(self, array: Any, voltages: Tensor) -> Tensor:
        return 0.5 * super().read(array, voltages)


class OwnStored(StoredEmulator):
    def read(self, array: Any, voltages: Tensor) -> Tensor:
        return 0.5 * super().read(array, voltages)


class Scaled(SurrogateEmulator):
    """A subclass with an argument of its own, which ``around`` does not know."""

    def __init__(self, crossbar: Crossbar, gain: float) -> None:
        super().__init__("physics", crossbar)
        self.gain = gain


@pytest.mark.parametrize(
    "emulator",
    [
        OwnSurrogate("physics", CROSSBAR),
        OwnNoise(SurrogateEmulator("physics", CROSSBAR), ReadNoise(relative=1e-9)),
        OwnStored(SurrogateEmulator("physics", CROSSBAR)),
    ],
    ids=lambda emulator: type(emulator).__name__,
)
def test_a_subclass_of_a_wrapper_stays_what_it_is(emulator: EmulatorWrapper) -> None:
    x = torch.rand(4, 20)
    plain = convert(network()[:1], ARCH, SurrogateEmulator("physics", CROSSBAR), dtype=torch.float64)
    model = convert(network()[:1], ARCH, emulator, dtype=torch.float64)
    assert [type(m.emulator) for m in find_crossbar_matrices(model).values()] == [type(emulator)]
    bias = plain[0].bias
    assert torch.allclose(model(x) - bias, 0.5 * (plain(x) - bias), atol=0.01)
    assert type(emulator.with_noise_seed(3)) is type(emulator)


def test_a_subclass_that_around_does_not_know_is_refused() -> None:
    with pytest.raises(ConversionError, match=r"Scaled\.around returned a SurrogateEmulator.*override around"):
        convert(network(), ARCH, Scaled(CROSSBAR, 0.5))
