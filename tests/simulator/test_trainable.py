"""Matrices and models whose weights are trained: gradients, what they cost, and the way back to torch's layers."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from geniex.circuit import Crossbar
from geniex.emulator import IdealEmulator, LinearEmulator, SurrogateEmulator
from geniex.errors import InputError
from geniex.mapping import Architecture
from geniex.simulator import (
    CrossbarConv,
    CrossbarMatrix,
    convert,
    fold_batch_norm,
    load_converted,
    save_converted,
    to_digital,
)
from geniex.workspace import workspace_limit

ARCH = Architecture(tile=(8, 12), weight_bits=6, input_bits=6, slice_bits=3, stream_bits=3, weight_frac_bits=None)
SCHEMES = {
    "differential": {"weight_scheme": "differential"},
    "twos_complement": {"weight_scheme": "twos_complement", "offset": "reference_column"},
}
WIRED = Crossbar(8, 12, r_wire=10.0)
WEIGHT = torch.randn(7, 20, generator=torch.Generator().manual_seed(0))
INPUTS = torch.rand(330, 20, generator=torch.Generator().manual_seed(1))


class Grouped(nn.Module):
    """Every kind of layer that puts weights elsewhere than torch does."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 4, 3, groups=2)
        self.norm = nn.BatchNorm2d(4)
        self.depthwise = nn.Conv2d(4, 4, 3, groups=4, bias=False)
        self.up = nn.ConvTranspose2d(4, 6, (3, 2), groups=2, stride=2)
        self.attention = nn.MultiheadAttention(6, 2, kdim=4, vdim=4, batch_first=True)
        self.out = nn.Linear(6, 3)

    def forward(self, images: Tensor) -> Tensor:
        """(batch, 3) of (batch, 2, 8, 8)."""
        maps = self.depthwise(self.norm(self.conv(images)))
        queries, keys = self.up(maps.relu()).flatten(2).mT, maps.flatten(2).mT
        return self.out(self.attention(queries, keys, keys)[0].mean(1))


def made(**options: Any) -> CrossbarMatrix:
    emulator = options.pop("emulator", None) or SurrogateEmulator("physics-fast", WIRED)
    arch = options.pop("arch", ARCH)
    return CrossbarMatrix(WEIGHT, arch, emulator, inputs=1.0, **{"trainable": True, **options})


def gradients(matrix: CrossbarMatrix) -> tuple[Tensor, Tensor, Tensor]:
    """The output and its gradients in inputs and weights."""
    x = INPUTS.clone().requires_grad_()
    out = matrix(x)
    return (out.detach(), *torch.autograd.grad(out.square().sum(), (x, matrix.weight)))


def kept_bytes(matrix: CrossbarMatrix) -> int:
    """Bytes that a forward pass keeps for the backward pass."""
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        out = matrix(INPUTS.clone().requires_grad_())
    assert out.requires_grad
    return sum(kept.values())


@pytest.fixture
def small_workspace() -> Iterator[None]:
    with workspace_limit(1 << 17):
        yield


@pytest.mark.parametrize("kind", ["linear", "surrogate", "ideal"])
@pytest.mark.usefixtures("small_workspace")
def test_checkpoints_change_memory_and_nothing_else(kind: str) -> None:
    emulator = {"linear": LinearEmulator(WIRED), "ideal": IdealEmulator()}.get(kind)
    # In float32 an emulator may round otherwise where no gradient is wanted of it.
    plain, lean = (made(emulator=emulator, dtype=torch.float64, checkpoint=lean) for lean in (False, True))
    assert plain._reader(None).chunk(len(INPUTS), plain.tiles)[0] < len(INPUTS) / 3, "there must be several chunks"
    for one, other in zip(gradients(plain), gradients(lean), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-6)
    if kind != "surrogate":
        return
    assert kept_bytes(lean) < 0.3 * kept_bytes(plain)
    for matrix in (plain, lean):  # what the reads alone keep
        matrix.weight.requires_grad_(False)
    assert kept_bytes(lean) < 0.05 * kept_bytes(plain)


def test_ideal_gradients_are_those_of_the_plain_product_whatever_the_emulator_gives() -> None:
    matrix = made()
    crossbars = gradients(matrix)
    matrix.gradients = "ideal"
    out, in_inputs, in_weight = gradients(matrix)
    assert torch.equal(out, crossbars[0])
    # With the crossbar's outputs: the error goes back through x @ weight.T.
    torch.testing.assert_close(in_inputs, 2 * out @ WEIGHT, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(in_weight, 2 * out.T @ INPUTS, rtol=1e-5, atol=1e-4)
    assert not torch.allclose(in_weight, crossbars[2], rtol=1e-2)


def test_a_copy_and_a_loaded_matrix_read_the_weight_that_they_hold() -> None:
    matrix = made()
    with torch.no_grad():
        matrix.weight.mul_(-1)
    copied, loaded = copy.deepcopy(matrix), made()
    loaded.load_state_dict(matrix.state_dict())
    assigned = made()
    assigned.load_state_dict(matrix.state_dict(), assign=True)
    expected = CrossbarMatrix(-WEIGHT, ARCH, SurrogateEmulator("physics-fast", WIRED), inputs=1.0)(INPUTS)
    with torch.no_grad():  # otherwise they are programmed anyway
        for other in (copied, loaded, assigned):
            assert torch.equal(other.reads(INPUTS[:2]).actual, matrix.reads(INPUTS[:2]).actual)
            assert torch.equal(other(INPUTS), expected)


@pytest.mark.parametrize("scale", ["power_of_two", "tensor", "channel"])
@pytest.mark.parametrize("scheme", SCHEMES)
def test_clipped_weights_are_all_that_the_scale_can_hold(scale: str, scheme: str) -> None:
    matrix = made(emulator=IdealEmulator(), arch=ARCH.replace(weight_scale=scale, **SCHEMES[scheme]))
    with torch.no_grad():
        matrix.weight.mul_(3)
        before = matrix(INPUTS)
        matrix.clip_weight()
        assert torch.equal(matrix(INPUTS), before), "tiles held no more before"
        assert matrix.weight.abs().max() < 2.9 * WEIGHT.abs().max()
    (gradient,) = torch.autograd.grad(matrix(INPUTS).sum(), matrix.weight)
    assert (gradient != 0).all(), "no weight is stuck beyond the end"


@pytest.mark.parametrize("fold", [True, False])
def test_every_layer_has_gradients_and_a_way_back(fold: bool) -> None:
    torch.manual_seed(0)
    model, images = Grouped().eval(), torch.rand(2, 2, 8, 8)
    converted = convert(model, ARCH, IdealEmulator(), calibration=images, trainable=True, fold=fold)
    before = to_digital(converted)
    original = fold_batch_norm(model) if fold else model
    assert list(before.state_dict()) == list(original.state_dict())
    for name, value in original.state_dict().items():
        assert torch.equal(before.state_dict()[name], value), name
    torch.testing.assert_close(before(images), original(images))
    assert not hasattr(before, "conversion")
    converted(images).square().sum().backward()
    for name, parameter in converted.named_parameters():
        # A key's bias shifts all scores of a query alike.
        assert parameter.grad.abs().sum() > 0 or name == "attention.k_proj.bias", name
        assert torch.isfinite(parameter.grad).all()
    torch.optim.SGD(converted.parameters(), lr=0.01).step()
    after = to_digital(converted)
    assert all(not torch.equal(a, b) for a, b in zip(after.parameters(), before.parameters(), strict=True))
    # What the crossbars hold is what the copy holds: put onto crossbars again, it is the same.
    again = convert(model, ARCH, IdealEmulator(), calibration=images, trainable=True, fold=fold)
    again.load_state_dict(converted.state_dict())
    assert torch.equal(again(images), converted(images))


def test_zeros_between_groups_are_not_trained() -> None:
    torch.manual_seed(0)
    conv = nn.Conv2d(4, 8, 1, groups=4)
    arch = ARCH.replace(tile=(64, 64))
    images = torch.rand(2, 4, 5, 5)
    converted = convert(conv, arch, IdealEmulator(), calibration=images, trainable=True)
    weight, within = converted.matrix.weight, torch.block_diag(*[torch.ones(2, 1)] * 4).bool()
    assert weight.shape == (8, 4)
    before = converted(images)
    with torch.no_grad():
        weight.add_((~within).float())
    assert torch.equal(converted(images), before)
    assert torch.equal(to_digital(converted).weight, conv.weight)
    converted(images).sum().backward()
    assert torch.equal(weight.grad != 0, within)


def test_a_saved_model_stays_trainable(tmp_path: Any) -> None:
    torch.manual_seed(0)
    model, images = Grouped().eval(), torch.rand(2, 2, 8, 8)
    converted = convert(model, ARCH, IdealEmulator(), calibration=images, trainable=True)
    with torch.no_grad():
        for parameter in converted.parameters():
            parameter.mul_(0.9)
    loaded = load_converted(save_converted(converted, tmp_path / "tuned"), model)
    assert torch.equal(loaded(images), converted(images))
    saved, there = converted.state_dict(), to_digital(loaded).state_dict()
    assert {name for name, _ in loaded.named_parameters()} == {name for name, _ in converted.named_parameters()}
    assert torch.equal(there["out.weight"], saved["out.matrices.0.weight"])


def test_weights_on_crossbars_alone_have_no_way_back() -> None:
    converted = convert(nn.Sequential(nn.Linear(4, 3)), ARCH, IdealEmulator(), calibration=torch.rand(2, 4))
    with pytest.raises(InputError, match=r"layer '0'.*trainable=True"):
        to_digital(converted)
    with pytest.raises(InputError, match="trainable"):
        converted[0].matrix.clip_weight()


@pytest.mark.slow
@pytest.mark.parametrize("checkpoint", [False, True])
def test_trainable_layers_keep_to_one_device_under_fake_cuda(checkpoint: bool) -> None:
    options: dict[str, Any] = {"trainable": True, "checkpoint": checkpoint}
    with FakeTensorMode(), torch.device("cuda"):
        emulator = SurrogateEmulator("physics-fast", WIRED)
        conv = CrossbarConv(
            nn.Conv2d(2, 4, 3, groups=2), ARCH.replace(weight_frac_bits=4), emulator, inputs=1.0, **options
        )
        out = conv(torch.empty(5, 2, 6, 6))
    # torch's engine runs no backward pass without the device.
    assert (out.shape, out.device.type, out.requires_grad) == ((5, 4, 4, 4), "cuda", True)
    assert {p.device.type for p in conv.parameters()} == {"cuda"}


@pytest.mark.parametrize("signed", [True, False])
@pytest.mark.parametrize("input_bits", [1, 2, 6])
@pytest.mark.parametrize("emulator", [IdealEmulator(), LinearEmulator(WIRED)], ids=["ideal", "linear"])
def test_input_gradients_are_the_same_for_every_width_of_streams(
    emulator: IdealEmulator | LinearEmulator, input_bits: int, signed: bool
) -> None:
    """Two's complement streams carry the derivative of the streams of two passes, which a linear read-out has."""
    x = INPUTS[:5].double() - (0.5 if signed else 0.0)
    arch = ARCH.replace(input_bits=input_bits, input_frac_bits=input_bits - 1, adc_bits=None, adc_rounding="none")
    gradients = []
    for change in ({"stream_bits": 1}, {"stream_bits": 1, "input_scheme": "passes"}, {"stream_bits": 2}):
        matrix = CrossbarMatrix(WEIGHT.double(), arch.replace(**change), emulator)
        given = x.clone().requires_grad_()
        (matrix(given) * torch.arange(7.0)).sum().backward()
        assert given.grad is not None
        gradients.append(given.grad)
    inside = (x.abs() < 0.4) if signed else (x < 0.4)  # the ranges of the schemes end at different inputs
    if input_bits == 1:
        inside &= x < 0  # one bit is a sign in two's complement and in passes, with other values
        gradients = gradients[1:]
    for gradient in gradients[1:]:
        torch.testing.assert_close(gradient[inside], gradients[0][inside], rtol=1e-6, atol=1e-9)
    assert gradients[0][inside].abs().sum() > 0 or not inside.any()


def test_one_bit_streams_train_as_wider_ones_do() -> None:
    """The projection of the input gradient onto the float layer's own is what wires leave of it."""
    linear, x = nn.Linear(20, 7), INPUTS[:16]
    for stream_bits in (1, 2, 3):
        converted = convert(linear, ARCH.replace(stream_bits=stream_bits), LinearEmulator(WIRED), calibration=INPUTS)
        ours, torchs = x.clone().requires_grad_(), x.clone().requires_grad_()
        (converted(ours) * torch.arange(7.0)).sum().backward()
        (linear(torchs) * torch.arange(7.0)).sum().backward()
        assert ours.grad is not None
        assert torchs.grad is not None
        projection = (ours.grad * torchs.grad).sum() / torchs.grad.square().sum()
        assert 0.7 < projection < 1.05


def test_a_trained_accumulator_has_room_for_every_weight_of_the_range() -> None:
    linear, x = nn.Linear(20, 7, bias=False), torch.full((2, 20), 0.98)
    with torch.no_grad():
        linear.weight.mul_(0.01)[0, 0] = 0.5
    arch = ARCH.replace(weight_bits=12, input_bits=8, input_scale="tensor")
    arch = arch.replace(accumulator_bits=28, accumulator_overflow="saturate")
    converted = convert(linear, arch, IdealEmulator(), calibration=INPUTS, trainable=True)
    with torch.no_grad():
        converted.matrix.weight.fill_(0.49)  # type: ignore[union-attr]
    torch.testing.assert_close(converted(x), x @ torch.full((20, 7), 0.49), rtol=2e-2, atol=0)


def test_a_trained_weight_that_is_no_number_is_told() -> None:
    converted = convert(nn.Linear(20, 7), ARCH, IdealEmulator(), calibration=INPUTS, trainable=True)
    with torch.no_grad():
        converted.matrix.weight[1, 2] = torch.nan  # type: ignore[union-attr]
        with pytest.raises(InputError, match="weight: got NaN or infinity"):
            converted(INPUTS[:2])
