"""Converted models on disk and on the move: they compute to the last bit what they did before."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from geniex.circuit import Crossbar
from geniex.emulator import CircuitEmulator, IdealEmulator, LinearEmulator, SurrogateEmulator
from geniex.errors import ConversionError, FileFormatError, InputError
from geniex.mapping import Architecture
from geniex.simulator import (
    convert,
    find_crossbar_matrices,
    load_converted,
    save_converted,
)
from geniex.surrogate import GeniexMLP

CROSSBAR = Crossbar(16, 16, r_wire=10.0)
ARCH = Architecture(tile=(16, 16), weight_bits=8, input_bits=8)
SCALED = ARCH.replace(
    adc_bits=7,
    adc_range="calibrated",
    adc_granularity="column",
    weight_scale="channel",
    input_scale="tensor",
    input_calibration="percentile",
)


class Mixed(nn.Module):
    """Grouped, transposed and tied layers, attention, a norm to fold, a parameter and a buffer of its own."""

    def __init__(self, channels: int = 4) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, channels, 3, bias=False)
        self.norm = nn.BatchNorm2d(channels)
        self.up = nn.ConvTranspose2d(channels, 6, 2, stride=2, groups=2)
        self.attention = nn.MultiheadAttention(6, 2, batch_first=True)
        self.head = nn.Linear(6, 6)
        self.again = self.head
        self.scale = nn.Parameter(torch.rand(6))
        self.register_buffer("shift", torch.rand(6))

    def forward(self, x: Tensor) -> Tensor:
        x = self.up(self.norm(self.conv(x)).relu()).flatten(2).transpose(1, 2)
        x = x + self.attention(x, x, x, need_weights=False)[0]
        return self.again(self.head(x) * self.scale + self.shift)


@pytest.fixture
def x() -> Tensor:
    return torch.rand(2, 1, 6, 6, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def model() -> nn.Module:
    torch.manual_seed(0)
    return Mixed().eval()


def shell() -> nn.Module:
    with torch.device("meta"):
        return Mixed()


def mlp() -> SurrogateEmulator:
    torch.manual_seed(1)
    return SurrogateEmulator(GeniexMLP(CROSSBAR, ARCH.window, ARCH.v_max, hidden=8, r_min=0.9, r_max=1.3), CROSSBAR)


EMULATORS = {
    "ideal": lambda: IdealEmulator(),
    "linear": lambda: LinearEmulator(CROSSBAR),
    "circuit": lambda: CircuitEmulator(CROSSBAR, tol=1e-5),
    "geniex-mlp": mlp,
    "physics": lambda: SurrogateEmulator("physics-fast", CROSSBAR),
}


@pytest.mark.slow
@pytest.mark.parametrize("arch", [ARCH, SCALED], ids=["plain", "scaled"])
@pytest.mark.parametrize("name", EMULATORS)
@pytest.mark.filterwarnings("ignore::geniex.errors.ConversionWarning")
def test_a_loaded_model_computes_the_same(
    name: str, arch: Architecture, model: nn.Module, x: Tensor, tmp_path: Path
) -> None:
    per_layer = {"head": arch.replace(stream_bits=1), "*.k_proj": None}
    saved = convert(model, arch, EMULATORS[name](), calibration=x, fold=True, per_layer=per_layer)
    path = save_converted(saved, tmp_path / "deep" / "model")
    loaded = load_converted(path, shell())
    assert torch.equal(loaded(x), saved(x))
    assert loaded.conversion == saved.conversion
    assert loaded.head is loaded.again
    assert type(loaded.attention.k_proj) is nn.Linear
    kept, now = find_crossbar_matrices(saved), find_crossbar_matrices(loaded)
    assert {k: m.layout for k, m in kept.items()} == {k: m.layout for k, m in now.items()}
    assert {k: m.architecture for k, m in kept.items()} == {k: m.architecture for k, m in now.items()}
    assert torch.equal(load_converted(path, shell(), emulator=EMULATORS[name]())(x), saved(x))


def test_conductances_put_there_by_hand_are_kept(model: nn.Module, x: Tensor, tmp_path: Path) -> None:
    saved = convert(model, ARCH, LinearEmulator(CROSSBAR), calibration=x)
    for matrix in find_crossbar_matrices(saved).values():
        matrix.program(matrix.conductances * 0.9)
    assert torch.equal(load_converted(save_converted(saved, tmp_path / "m"), model)(x), saved(x))


def test_another_network_is_refused(model: nn.Module, x: Tensor, tmp_path: Path) -> None:
    path = save_converted(convert(model, ARCH, IdealEmulator(), calibration=x), tmp_path / "m")
    with pytest.raises(
        ConversionError, match=r"not the network.*'conv' was saved as a CrossbarConv of \[1, 4, 9\], and .*6, 9"
    ):
        load_converted(path, Mixed(6))
    with pytest.raises(ConversionError, match=r"not the network.*names no layer"):
        load_converted(path, nn.Sequential(nn.Conv2d(1, 4, 3)))
    other = Mixed()
    other.register_buffer("more", torch.zeros(1))
    with pytest.raises(ConversionError, match=r"(?s)not the network.*more"):
        load_converted(path, other)


class Own(IdealEmulator):
    """A user's own."""


def test_another_emulator_is_refused(model: nn.Module, x: Tensor, tmp_path: Path) -> None:
    path = save_converted(convert(model, ARCH, mlp(), calibration=x), tmp_path / "m")
    with pytest.raises(ConversionError, match="converted with a GeniexMLP of another circuit or other weights"):
        load_converted(path, shell(), emulator=LinearEmulator(CROSSBAR))
    trained = mlp()
    trained.surrogate.output.bias.data += 1
    with pytest.raises(ConversionError, match="another circuit or other weights"):
        load_converted(path, shell(), emulator=trained)
    own = save_converted(convert(model, ARCH, Own(), calibration=x), tmp_path / "own")
    with pytest.raises(ConversionError, match=r"it was a .*\.Own, which is not geniex' own: pass emulator=Own\("):
        load_converted(own, shell())
    assert load_converted(own, shell(), emulator=Own())(x).isfinite().all()


def test_damaged_and_foreign_files_are_named(model: nn.Module, x: Tensor, tmp_path: Path) -> None:
    path = save_converted(convert(model, ARCH, IdealEmulator(), calibration=x), tmp_path / "m")
    weights, head = path.with_suffix(".safetensors"), json.loads(path.read_text())
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-1])
    with pytest.raises(FileFormatError, match=r"m\.safetensors does not belong to m\.json"):
        load_converted(path, shell())
    weights.write_bytes(whole)
    path.write_text(json.dumps(head | {"schema_version": 9}))
    with pytest.raises(FileFormatError, match=r"schema version 9, but this version of geniex .* reads 2"):
        load_converted(path, shell())
    path.write_text("{}")
    with pytest.raises(FileFormatError, match="does not describe a converted model"):
        load_converted(path, shell())
    path.write_text("{")
    with pytest.raises(FileFormatError, match="is not valid JSON"):
        load_converted(path, shell())
    path.unlink()
    with pytest.raises(FileFormatError, match="is missing"):
        load_converted(path, shell())
    with pytest.raises(InputError, match="no layer on crossbars: give a model that convert returned"):
        save_converted(model, tmp_path / "n")


def test_a_surrogates_weights_move_with_the_model(model: nn.Module, x: Tensor) -> None:
    """And those of the caller's emulator, or of another model made with it, stay where they are."""
    emulator = mlp()
    one, other = (convert(model, ARCH, emulator, calibration=x) for _ in range(2))
    expected = other(x)
    one.to("meta")
    for matrix in find_crossbar_matrices(one).values():
        surrogate = matrix.emulator.surrogate  # type: ignore[attr-defined]
        assert {p.device.type for p in surrogate.parameters()} == {"meta"}
    assert torch.equal(other(x), expected)
    assert next(emulator.surrogate.parameters()).device.type == "cpu"
    half = copy.deepcopy(other).half()
    assert {p.dtype for p in find_crossbar_matrices(half)["head.matrices.0"].emulator.surrogate.parameters()} == {
        torch.float32
    }
    double = copy.deepcopy(other).double()
    assert torch.allclose(double(x.double()), expected.double(), atol=1e-4)


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("name", ["linear", "geniex-mlp", "physics"])
def test_a_model_moved_to_a_gpu_computes_there(name: str, model: nn.Module, x: Tensor) -> None:
    here = convert(model, ARCH, EMULATORS[name](), calibration=x)
    expected = here(x)
    there = here.to("cuda")(x.cuda())
    assert there.device.type == "cuda"
    assert torch.allclose(there.cpu(), expected, atol=1e-3)
    made_there = convert(model.cuda(), ARCH, EMULATORS[name](), calibration=x.cuda())
    assert torch.allclose(made_there(x.cuda()).cpu(), expected, atol=1e-3)


@pytest.mark.filterwarnings("ignore::geniex.errors.ConversionWarning")
def test_copies_and_state_of_grouped_layers_round_trip(model: nn.Module, x: Tensor) -> None:
    one = convert(model, SCALED, LinearEmulator(CROSSBAR), calibration=x)
    assert torch.equal(copy.deepcopy(one)(x), one(x))
    other = convert(Mixed().eval(), SCALED, LinearEmulator(CROSSBAR), calibration=3 * x)
    assert not torch.equal(other(x), one(x))
    other.load_state_dict(one.state_dict())
    assert torch.equal(other(x), one(x))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_autocast_leaves_the_arrays_alone(model: nn.Module, x: Tensor, dtype: torch.dtype) -> None:
    """Attention's own products are what autocast rounds; the layers on crossbars it does not touch."""
    one = convert(model, ARCH, IdealEmulator(), calibration=x)
    with torch.autocast("cpu", dtype=dtype):
        assert torch.equal(one.up(one.conv(x)), one.up(one.conv(x)))
        assert torch.allclose(one(x).float(), one(x), atol=0.05)
    outside = one.up(one.conv(x))
    with torch.autocast("cpu", dtype=dtype):
        assert torch.equal(one.up(one.conv(x)), outside)
