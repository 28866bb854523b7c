"""Saved models of every kind compute the same to the bit: noisy, stored, varied, trained, corrected, assembled."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from geniex.circuit import Crossbar
from geniex.emulator import Emulator, IdealEmulator, LinearEmulator, StoredEmulator, SurrogateEmulator
from geniex.emulator.identity import _registered
from geniex.errors import ConversionError, InputError
from geniex.mapping import Architecture, ConductanceWindow
from geniex.simulator import (
    CrossbarConv,
    CrossbarLinear,
    CrossbarMatrix,
    convert,
    find_crossbar_layers,
    find_crossbar_matrices,
    load_converted,
    save_converted,
    vary,
)
from geniex.surrogate import GeniexMLP, register_surrogate
from geniex.variation import ConductanceSpread, NoisyEmulator, ReadNoise, StuckCells, Variations

CROSSBAR = Crossbar(8, 6)
ARCH = Architecture(
    tile=(8, 6), window=ConductanceWindow(100e3, 6.0), weight_bits=6, slice_bits=2, input_bits=6, stream_bits=2
)
NOISE = ReadNoise(relative=0.05, current=1e-9)


class Network(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 4, 3, padding=1, groups=2)
        self.norm = nn.BatchNorm2d(4)
        self.head = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.norm(self.conv(x)).relu().mean((-1, -2)))


@pytest.fixture
def x() -> Tensor:
    return torch.rand(4, 2, 5, 5, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def network(x: Tensor) -> Network:
    torch.manual_seed(0)
    network = Network()
    network(x)  # moves the norm's statistics
    return network.eval()


def mlp() -> Emulator:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        surrogate = GeniexMLP(CROSSBAR, ARCH.window, ARCH.v_max, hidden=8, r_min=0.9, r_max=1.3)
        return SurrogateEmulator(surrogate, CROSSBAR)


INNER: dict[str, Callable[[], Emulator]] = {
    "ideal": IdealEmulator,
    "linear": lambda: LinearEmulator(CROSSBAR),
    "physics": lambda: SurrogateEmulator("physics-fast", CROSSBAR),
    "mlp": mlp,
}
WRAPPED: dict[str, Callable[[Emulator, Path], Emulator]] = {
    "noisy": lambda inner, _: NoisyEmulator(inner, NOISE, seed=7),
    "float16": lambda inner, _: StoredEmulator(inner, dtype=torch.float16),
    "bfloat16": lambda inner, _: StoredEmulator(inner, dtype=torch.bfloat16),
    "cached": lambda inner, path: StoredEmulator(inner, cache=path / "cache"),
    "noisy, stored": lambda inner, path: NoisyEmulator(
        StoredEmulator(inner, dtype=torch.float16, cache=path / "cache"), NOISE, seed=7
    ),
}


def reads(model: nn.Module, x: Tensor, count: int = 2) -> list[Tensor]:
    with torch.no_grad():
        return [model(x) for _ in range(count)]


def same(one: list[Tensor], other: list[Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def wrapped(model: nn.Module) -> list[Any]:
    """The settings of all emulators from the outermost on, and which matrices share one."""
    matrices = find_crossbar_matrices(model).values()
    chains = []
    for matrix in matrices:
        chain, emulator = [], matrix.emulator
        while emulator is not None:
            chain.append((type(emulator), emulator.settings()))
            emulator = emulator.inner
        chains.append(chain)
    ids = [id(matrix.emulator) for matrix in matrices]
    return [chains, [ids.index(one) for one in ids]]


@pytest.mark.slow
@pytest.mark.parametrize("trainable", [False, True])
@pytest.mark.parametrize("wrapper", WRAPPED)
@pytest.mark.parametrize("inner", INNER)
def test_wrapped_emulators_are_made_again(
    inner: str, wrapper: str, trainable: bool, network: nn.Module, x: Tensor, tmp_path: Path
) -> None:
    """From the seed on, in the saved order of reads; layers go on sharing what they shared."""
    emulator = WRAPPED[wrapper](INNER[inner](), tmp_path)
    arch = ARCH.replace(adc_bits=8, adc_range="calibrated")
    saved = convert(network, arch, emulator, calibration=x, trainable=trainable, fold=True)
    expected = reads(saved, x)
    path = save_converted(saved, tmp_path / "model")  # the generator has advanced
    loaded = load_converted(path, Network())
    assert same(reads(loaded, x), expected)
    assert wrapped(loaded) == wrapped(saved)
    assert loaded.conversion == saved.conversion


def test_noise_of_a_varied_model_is_each_matrix_own(network: nn.Module, x: Tensor, tmp_path: Path) -> None:
    variations = Variations((ConductanceSpread(0.1), StuckCells(0.02, 0.02)), read_noise=NOISE)
    for start in (
        convert(network, ARCH, mlp(), calibration=x),
        convert(network, ARCH, NoisyEmulator(LinearEmulator(CROSSBAR), NOISE, seed=2), calibration=x),
        convert(network, ARCH, mlp(), calibration=x, trainable=True),
    ):
        varied = vary(start, variations, seed=5)
        expected = reads(varied, x)
        path = save_converted(varied, tmp_path / "varied")
        loaded = load_converted(path, network)
        assert same(reads(loaded, x), expected)
        assert wrapped(loaded) == wrapped(varied)
        # Of many emulators around one network the weights are there once, in memory too.
        assert path.with_suffix(".safetensors").stat().st_size < 40_000
        workers = {id(m.emulator.worker) for m in find_crossbar_matrices(loaded).values()}
        assert len(workers) == 1


def test_outputs_that_were_corrected_and_how_a_layer_is_trained_are_kept(
    network: nn.Module, x: Tensor, tmp_path: Path
) -> None:
    saved = convert(network, ARCH, LinearEmulator(CROSSBAR), calibration=x, trainable=True, checkpoint=True)
    for layer in find_crossbar_layers(saved).values():
        outputs = layer.packing.groups * layer.packing.outputs
        layer.output_gain = torch.linspace(0.5, 2.0, outputs)
        layer.bias = None
    for matrix in find_crossbar_matrices(saved).values():
        matrix.gradients = "ideal"
    saved.norm.bias.requires_grad_(False)  # type: ignore[union-attr, operator]
    matrix.weight.requires_grad_(False)  # type: ignore[union-attr]
    loaded = load_converted(save_converted(saved, tmp_path / "m"), network)
    assert same(reads(loaded, x), reads(saved, x))
    assert all(m.checkpoint and m.gradients == "ideal" for m in find_crossbar_matrices(loaded).values())
    grads = []
    for model in (saved, loaded):
        model(x).square().sum().backward()
        grads.append({name: p.grad for name, p in model.named_parameters()})
    assert list(grads[0]) == list(grads[1])
    for name, grad in grads[0].items():
        assert (grad is None) == (name in ("norm.bias", "head.2.matrices.0.weight"))
        assert grads[1][name] is None if grad is None else torch.equal(grad, grads[1][name])  # type: ignore[arg-type]


# Models that users put together


class Assembled(nn.Module):
    """Torch layers, of which some are exchanged for crossbar layers or converted models."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(2, 2, 3, padding=1)
        self.body = Network()
        self.mix = nn.TransformerEncoderLayer(3, 1, 4, batch_first=True)
        self.tail = nn.ModuleDict({"a": nn.Linear(3, 3), "b": nn.Linear(3, 2, bias=False)})
        self.again = self.tail["a"]

    def forward(self, x: Tensor) -> Tensor:
        y = self.body(self.stem(x))
        return self.tail["b"](self.again(self.tail["a"](self.mix(y[:, None])[:, 0])))


def assembled(build: Callable[[], Emulator], x: Tensor, **options: Any) -> Assembled:
    torch.manual_seed(3)
    model = Assembled().eval()
    with torch.no_grad():
        maps = model.stem(x)
    model.stem = CrossbarConv(model.stem, ARCH, build(), inputs=1.0, layout="toeplitz", map_size=(5, 5), **options)
    model.body = convert(model.body, ARCH, build(), calibration=maps, fold=True, per_layer={"head.2": None}, **options)
    other = ARCH.replace(stream_bits=1)
    model.tail["a"] = model.again = CrossbarLinear(model.tail["a"], other, build(), inputs=3.0, **options)
    model.tail["b"] = CrossbarLinear(model.tail["b"], other, build(), inputs=3.0, **options)
    return model.eval()


@pytest.mark.slow
@pytest.mark.parametrize("trainable", [False, True])
@pytest.mark.parametrize("wrapper", ["bare", *WRAPPED])
@pytest.mark.parametrize("inner", INNER)
def test_assembled_models_are_loaded_into_the_same_torch_model(
    inner: str, wrapper: str, trainable: bool, x: Tensor, tmp_path: Path
) -> None:
    """Only what was converted changes: the encoder layer stays torch's own, fast path and all."""
    emulator = INNER[inner]() if wrapper == "bare" else WRAPPED[wrapper](INNER[inner](), tmp_path)
    saved = assembled(lambda: emulator, x, trainable=trainable)
    expected = reads(saved, x)
    loaded: Any = load_converted(save_converted(saved, tmp_path / "model"), Assembled())
    assert same(reads(loaded, x), expected)
    # What is not wrapped has nothing that goes on from read to read: one may serve where there were several.
    compared = slice(1 if wrapper == "bare" else 2)
    assert wrapped(loaded)[compared] == wrapped(saved)[compared]
    assert loaded.tail["a"] is loaded.again
    assert loaded.body.conversion == saved.body.conversion
    assert not hasattr(loaded, "conversion")
    assert loaded.mix.activation_relu_or_gelu == saved.mix.activation_relu_or_gelu
    assert type(loaded.body.norm) is nn.Identity
    assert type(loaded.body.head[2]) is nn.Linear


def test_a_varied_assembled_model(x: Tensor, tmp_path: Path) -> None:
    model = vary(assembled(mlp, x), Variations((ConductanceSpread(0.1),), read_noise=NOISE), seed=3)
    expected = reads(model, x)
    assert same(reads(load_converted(save_converted(model, tmp_path / "model"), Assembled()), x), expected)


@pytest.mark.parametrize("wrapper", ["noisy", "float16"])
def test_a_single_layer_is_a_model(wrapper: str, tmp_path: Path) -> None:
    linear, x = nn.Linear(12, 5), torch.rand(4, 12)
    for saved in (
        CrossbarLinear(linear, ARCH, WRAPPED[wrapper](mlp(), tmp_path), inputs=1.0),
        convert(linear, ARCH, WRAPPED[wrapper](mlp(), tmp_path), calibration=x),
    ):
        expected = reads(saved, x)
        loaded = load_converted(save_converted(saved, tmp_path / "one"), nn.Linear(12, 5))
        assert same(reads(loaded, x), expected)
        assert getattr(loaded, "conversion", None) == getattr(saved, "conversion", None)


def test_bare_matrices_are_refused_by_name(x: Tensor, tmp_path: Path) -> None:
    model: Any = assembled(IdealEmulator, x)
    model.extra = CrossbarMatrix(torch.rand(2, 3), ARCH, IdealEmulator(), inputs=1.0)
    with pytest.raises(InputError, match=r"model: got 'extra' on its own; a CrossbarMatrix is saved as part of"):
        save_converted(model, tmp_path / "m")


def test_another_assembled_model_is_refused(x: Tensor, tmp_path: Path) -> None:
    path = save_converted(assembled(IdealEmulator, x), tmp_path / "m")
    with pytest.raises(ConversionError, match=r"m\.json: .*not the network that was converted"):
        load_converted(path, Network())
    other: Any = Assembled()
    other.tail["a"] = other.again = nn.Linear(3, 4)
    with pytest.raises(ConversionError, match=r"layer 'tail.a' was saved as a CrossbarLinear of \[1, 3, 3\], and is"):
        load_converted(path, other)


# Emulators and surrogates of users


class Own(IdealEmulator):
    """A user's own."""

    name = "own"

    def read(self, array: Any, voltages: Tensor) -> Tensor:
        return 0.9 * super().read(array, voltages)

    def response(self, array: Any) -> None:  # type: ignore[override]
        return None


def test_an_emulator_that_is_given_stands_within_the_saved_wrappers(
    network: nn.Module, x: Tensor, tmp_path: Path
) -> None:
    saved = vary(convert(network, ARCH, Own(), calibration=x), Variations(read_noise=NOISE), seed=5)
    expected = reads(saved, x)
    path = save_converted(saved, tmp_path / "m")
    with pytest.raises(ConversionError, match=r"it was a .*\.Own, which is not geniex' own: pass emulator=Own\("):
        load_converted(path, network)
    assert same(reads(load_converted(path, network, emulator=Own()), x), expected)
    quiet = load_converted(path, network, emulator=StoredEmulator(Own()))
    assert same(reads(quiet, x), reads(convert(network, ARCH, Own(), calibration=x), x))
    with pytest.raises(ConversionError, match="another circuit or other weights"):
        load_converted(path, network, emulator=IdealEmulator())


def test_a_given_emulator_stays_the_callers(network: nn.Module, x: Tensor, tmp_path: Path) -> None:
    noisy = NoisyEmulator(mlp(), NOISE, seed=7)
    saved = convert(network, ARCH, noisy, calibration=x)
    expected = reads(saved, x)
    path = save_converted(saved, tmp_path / "m")
    bound = noisy.bind(ARCH)
    reads(CrossbarMatrix(torch.rand(3, 4), ARCH, bound, inputs=1.0), torch.rand(2, 4))
    loaded = load_converted(path, network, emulator=bound)
    assert same(reads(loaded, x), expected)
    loaded.double()
    assert {p.dtype for p in noisy.worker.parameters()} == {torch.float32}  # type: ignore[attr-defined]


class OwnSurrogate(GeniexMLP):
    """A user's own."""


def test_a_surrogate_of_ones_own_is_registered(
    network: nn.Module, x: Tensor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(1)
    surrogate = OwnSurrogate(CROSSBAR, ARCH.window, ARCH.v_max, hidden=8, r_min=0.9, r_max=1.3)
    saved = convert(network, ARCH, SurrogateEmulator(surrogate, CROSSBAR), calibration=x)
    path = save_converted(saved, tmp_path / "m")
    with pytest.raises(ConversionError, match=r"it was a .*OwnSurrogate, .*register_emulator"):
        load_converted(path, network)
    monkeypatch.setitem(_registered, "OwnSurrogate", OwnSurrogate)
    assert register_surrogate(OwnSurrogate) is OwnSurrogate
    assert same(reads(load_converted(path, network), x), reads(saved, x))


def test_circuits_outside_the_validated_range_load_as_they_were_made(
    network: nn.Module, x: Tensor, tmp_path: Path
) -> None:
    crossbar = CROSSBAR.replace(r_wire=20.0)
    with pytest.warns(UserWarning, match=r"r_wire_row = 20 ohm lies outside the validated range of 0 to 10 ohm"):
        emulator = SurrogateEmulator("physics-fast", crossbar, outside="warn")
    with pytest.warns(UserWarning, match="r_wire"):
        saved = convert(network, ARCH, emulator, calibration=x)
    path = save_converted(saved, tmp_path / "m")
    with pytest.warns(UserWarning, match="r_wire"):
        loaded = load_converted(path, network)
    assert same(reads(loaded, x), reads(saved, x))


def test_what_a_file_tells_of_emulators_is_plain(network: nn.Module, x: Tensor, tmp_path: Path) -> None:
    emulator = NoisyEmulator(StoredEmulator(LinearEmulator(CROSSBAR), dtype=torch.float16), NOISE, seed=7)
    path = save_converted(convert(network, ARCH, emulator, calibration=x), tmp_path / "m")
    (told,) = json.loads(path.read_text())["emulators"]
    assert (told["type"], told["seed"], told["noise"]["relative"]) == ("NoisyEmulator", 7, 0.05)
    assert {k: told["emulator"][k] for k in ("type", "dtype", "cache")} == {
        "type": "StoredEmulator",
        "dtype": "float16",
        "cache": None,
    }
    assert told["emulator"]["emulator"]["crossbar"] == CROSSBAR.to_dict()
