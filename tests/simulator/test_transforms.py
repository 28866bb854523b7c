"""Converted models on another emulator, saved and varied: what stays as it was, and what the arrays stand for."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import integer_oracle
import pytest
import torch
from torch import Tensor, nn

from geniex.circuit import Crossbar
from geniex.emulator import CircuitEmulator, Emulator, IdealEmulator, LinearEmulator, SurrogateEmulator
from geniex.errors import ConversionError, InputError
from geniex.mapping import OFFSETS, Architecture, Arrangement, ConductanceWindow
from geniex.simulator import (
    CrossbarMatrix,
    convert,
    find_crossbar_layers,
    find_crossbar_matrices,
    load_converted,
    read_weight,
    replace_by_ideal,
    replace_emulator,
    save_converted,
    to_digital,
    vary,
)
from geniex.variation import ConductanceSpread, StuckCells, Variations

SCHEMES = [
    {"weight_scheme": weights, "offset": offset}
    for weights in ("differential", "offset", "twos_complement")
    for offset in OFFSETS
    if (weights, offset) != ("twos_complement", "analog_difference")
]
WIRED = Crossbar(8, 14, r_wire_row=10.0, r_wire_col=4.0, r_source=300.0)
ARCH = Architecture(tile=(8, 14), weight_bits=6, input_bits=6, slice_bits=3, stream_bits=3)
VARIATIONS = Variations((ConductanceSpread(0.2), StuckCells(0.05, 0.05)))
EMULATORS: dict[str, Emulator] = {
    "ideal": IdealEmulator(),
    "linear": LinearEmulator(WIRED),
    "physics": SurrogateEmulator("physics-fast", WIRED),
    "circuit": CircuitEmulator(WIRED),
}
WEIGHT = torch.randn(11, 20, generator=torch.Generator().manual_seed(0)).double()
X = torch.randn(6, 20, generator=torch.Generator().manual_seed(1)).double()
IMAGES = torch.rand(3, 6, 2, 3, generator=torch.Generator().manual_seed(4))


class Network(nn.Module):
    """A convolution in groups, then one matrix."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(6, 6, (1, 2), groups=3, bias=False)
        self.head = nn.Linear(24, 5)

    def forward(self, images: Tensor) -> Tensor:
        """(batch, 5) of (batch, 6, 2, 3)."""
        return self.head(self.conv(images).relu().flatten(1))


@pytest.fixture
def network() -> Network:
    torch.manual_seed(0)
    return Network().eval()


def converted(network: nn.Module, emulator: str = "linear", arch: Architecture = ARCH, **options: Any) -> Any:
    return convert(network, arch, EMULATORS[emulator], calibration=IMAGES, **options)


def arrange(model: Any) -> Any:
    """The model, or the matrix, with every order shuffled."""
    for k, matrix in enumerate(find_crossbar_matrices(model).values()):
        generator = torch.Generator().manual_seed(k)
        sizes = (matrix.layout.outputs, matrix.layout.inputs, matrix.architecture.tile[1])
        matrix.arrange(Arrangement.of(*(torch.randperm(size, generator=generator) for size in sizes)))
    return model


def places(model: nn.Module) -> list[Arrangement]:
    return [matrix.layout.arrangement for matrix in find_crossbar_matrices(model).values()]


def calibrate_outputs(model: nn.Module, *, bias: bool = True) -> None:
    """Give every layer gains and, also where it had none, a bias."""
    for layer in find_crossbar_layers(model).values():
        outputs = layer.packing.groups * layer.packing.outputs
        layer.output_gain = torch.linspace(0.5, 2.0, outputs)
        layer.bias = nn.Parameter(torch.linspace(-1.0, 1.0, outputs)) if bias else None


# On another emulator


@pytest.mark.parametrize("trainable", [False, True])
@pytest.mark.parametrize("name", EMULATORS)
def test_another_emulator_reads_the_same_arrays(name: str, trainable: bool, network: nn.Module) -> None:
    """As if the model had been converted with it; the original is untouched."""
    model = arrange(converted(network, "linear" if name != "linear" else "ideal", trainable=trainable))
    before = model(IMAGES)
    other = replace_emulator(model, EMULATORS[name])
    expected = arrange(converted(network, name, trainable=trainable))
    assert torch.equal(other(IMAGES), expected(IMAGES))
    assert places(other) == places(model)
    for ours, theirs in zip(*(find_crossbar_matrices(m).values() for m in (model, other)), strict=True):
        assert torch.equal(ours.conductances, theirs.conductances)
        assert type(theirs.emulator) is type(EMULATORS[name])
    assert torch.equal(model(IMAGES), before)
    assert not torch.equal(other(IMAGES), before)
    assert torch.equal(
        replace_emulator(other, find_crossbar_matrices(model)["head.matrices.0"].emulator)(IMAGES), before
    )


def test_a_surrogate_is_bound_to_each_layers_drive_and_window(network: nn.Module) -> None:
    """As ``convert`` binds it, and the caller's stays as it was."""
    surrogate = SurrogateEmulator("physics-fast", WIRED)
    bound_to = surrogate.surrogate
    arch = ARCH.replace(window=ConductanceWindow(50e3, 10.0), v_max=0.2, stream_bits=1)
    other = replace_emulator(converted(network, "linear", arch, per_layer={"head": ARCH}), surrogate)
    windows = {matrix.emulator.surrogate.window for matrix in find_crossbar_matrices(other).values()}  # type: ignore[attr-defined]
    assert windows == {arch.window, ARCH.window}
    assert torch.equal(other(IMAGES), converted(network, "physics", arch, per_layer={"head": ARCH})(IMAGES))
    assert surrogate.surrogate is bound_to


def test_scales_ranges_and_varied_cells_stay(network: nn.Module) -> None:
    arch = ARCH.replace(adc_bits=6, adc_range="calibrated", weight_scale="channel", input_scale="tensor")
    model = vary(converted(network, "physics", arch), VARIATIONS)
    calibrate_outputs(model)
    ideal = replace_by_ideal(model)
    assert set(ideal.state_dict()) == set(model.state_dict())
    for name, value in model.state_dict().items():
        assert torch.equal(ideal.state_dict()[name], value), name
    assert not torch.equal(ideal(IMAGES), model(IMAGES))


def test_a_weight_goes_along_as_trained_and_can_be_trained_on() -> None:
    layer, x = nn.Linear(20, 11), X.float()
    model: Any = convert(layer, ARCH, EMULATORS["linear"], calibration=x, trainable=True)
    with torch.no_grad():
        for weight in (layer.weight, model.matrix.weight):
            weight.neg_()
        other: Any = replace_by_ideal(model)
        assert torch.equal(other(x), convert(layer, ARCH, IdealEmulator(), calibration=x)(x))
    other(x).sum().backward()
    assert other.matrix.weight.grad is not None
    assert model.matrix.weight.grad is None


def test_what_cannot_be_exchanged_is_named(network: nn.Module) -> None:
    model = converted(network)
    with pytest.raises(ConversionError, match=r"tile.*\(8, 14\).*\(16, 16\)"):
        replace_emulator(model, LinearEmulator(Crossbar(16, 16)))
    with pytest.raises(InputError, match=r"^emulator: got Crossbar; it must be an Emulator"):
        replace_emulator(model, WIRED)  # type: ignore[arg-type]
    for nothing in (network, None):
        with pytest.raises(InputError, match=r"^model: got (Network|NoneType); .*that convert returned"):
            replace_by_ideal(nothing)  # type: ignore[arg-type]


# What arrays stand for


@pytest.mark.parametrize("scheme", SCHEMES, ids=lambda s: "-".join(s.values()))
@pytest.mark.parametrize("scale", ["power_of_two", "tensor", "channel"])
def test_the_programmed_weight_is_the_rounded_one(scheme: dict[str, str], scale: str) -> None:
    """Half a last bit from the weight, and the oracle's integers of it."""
    arch = ARCH.replace(**scheme, weight_scale=scale)
    matrix = CrossbarMatrix(WEIGHT, arch, IdealEmulator(), inputs=2.0)
    arrange(matrix)
    gains = torch.ones(()) if matrix.weight_gain is None else matrix.weight_gain.reshape(-1, 1)
    last_bit = gains.double() * 2.0**-matrix.weight_frac_bits
    found = read_weight(matrix)
    assert (found.shape, found.dtype) == (WEIGHT.shape, torch.float64)
    assert ((found - WEIGHT).abs() <= last_bit * (0.5 + 1e-9)).all()
    told = integer_oracle.weight_scale(WEIGHT.tolist(), arch)
    whole = torch.tensor(integer_oracle.whole_weights(WEIGHT.tolist(), arch, told)).double()
    # A level's conductance is known to the last bit of float64.
    torch.testing.assert_close(found / last_bit, whole, rtol=0, atol=1e-9)


@pytest.mark.parametrize(
    "scheme", [s for s in SCHEMES if s["offset"] != "ideal_before"], ids=lambda s: "-".join(s.values())
)
@pytest.mark.parametrize("spread", ["weights", "all"])
def test_the_programmed_weight_is_what_ideal_crossbars_multiply_by(scheme: dict[str, str], spread: str) -> None:
    """Of varied cells as well, bias and reference columns among them; "ideal_before" is no product then."""
    arch = ARCH.replace(
        **scheme, input_bits=20, input_frac_bits=16, adc_bits=None, adc_rounding="none", accumulator_bits=None
    )
    matrix = CrossbarMatrix(WEIGHT, arch, IdealEmulator())
    factors = 1 + 0.1 * torch.rand(matrix.conductances.shape, generator=torch.Generator().manual_seed(2)).double()
    if spread == "weights":
        factors[..., 2 * arch.outputs_per_tile :] = 1
    matrix.program(matrix.conductances * factors)
    before = read_weight(matrix)
    # Inputs are rounded to 2^-16.
    assert torch.allclose(matrix(X), X @ before.T, atol=2e-4 * float(before.abs().sum(1).max()))
    assert not torch.allclose(before, WEIGHT, atol=0.05)
    arrange(matrix)
    if spread == "weights":
        torch.testing.assert_close(read_weight(matrix), before, rtol=0, atol=1e-12)
    assert torch.allclose(matrix(X), X @ read_weight(matrix).T, atol=2e-4 * float(before.abs().sum(1).max()))


def test_the_programmed_weight_of_a_trained_matrix_is_that_of_now() -> None:
    matrix = CrossbarMatrix(WEIGHT, ARCH, IdealEmulator(), inputs=2.0, trainable=True)
    before = read_weight(matrix)
    with torch.no_grad():
        matrix.weight.neg_()  # type: ignore[union-attr]
    assert torch.equal(read_weight(matrix), -before)
    assert not read_weight(matrix).requires_grad


def test_outputs_calibrated_for_crossbars_have_no_digital_copy(network: nn.Module) -> None:
    model = converted(network, trainable=True)
    assert to_digital(model)(IMAGES).shape == (3, 5)
    calibrate_outputs(model)
    with pytest.raises(InputError, match=r"were corrected; copy the model before"):
        to_digital(model)


def test_calibrated_outputs_are_the_products_times_their_gains(network: nn.Module) -> None:
    model = converted(network, "ideal")
    conv = find_crossbar_layers(model)["conv"]
    before = model.conv(IMAGES)
    calibrate_outputs(model)
    gain, bias = conv.output_gain, conv.bias
    assert gain is not None
    assert bias is not None
    expected = before * gain.reshape(-1, 1, 1) + bias.reshape(-1, 1, 1)
    assert torch.equal(model.conv(IMAGES), expected)


@pytest.mark.parametrize(
    ("layer", "size"),
    [
        (nn.Linear(5, 4), (2, 3, 5)),
        (nn.Conv1d(4, 6, 2, groups=2), (3, 4, 7)),
        (nn.Conv2d(4, 6, (1, 2), groups=2), (3, 4, 3, 5)),
        (nn.Conv2d(4, 6, (1, 2), groups=2), (4, 3, 5)),
        (nn.ConvTranspose2d(4, 6, 2, stride=2, groups=2), (3, 4, 3, 2)),
    ],
    ids=str,
)
def test_output_vectors_are_what_the_matrices_gave_for_the_input_vectors(
    layer: nn.Module, size: tuple[int, ...]
) -> None:
    x = torch.rand(size)
    made: Any = convert(layer, ARCH, IdealEmulator(), calibration=x)
    found = made.output_vectors(made(x))
    assert torch.equal(found, made.product(made.matrix_inputs(x)))


# Saved and varied


@pytest.mark.parametrize("trainable", [False, True])
def test_a_saved_model_has_its_places(trainable: bool, network: nn.Module, tmp_path: Path) -> None:
    model = arrange(converted(network, trainable=trainable))
    loaded = load_converted(save_converted(model, tmp_path / "model"), network)
    assert places(loaded) == places(model)
    assert torch.equal(loaded(IMAGES), model(IMAGES))
    for matrix in find_crossbar_matrices(loaded).values():
        matrix.arrange(Arrangement())
    natural = converted(network, trainable=trainable)
    assert torch.equal(loaded(IMAGES), natural(IMAGES))


@pytest.mark.parametrize("bias", [False, True])
def test_a_saved_model_has_its_calibrated_outputs(bias: bool, network: nn.Module, tmp_path: Path) -> None:
    """Also a bias where the torch layer had none."""
    model = arrange(converted(network))
    before = model(IMAGES)
    calibrate_outputs(model, bias=bias)
    loaded = load_converted(save_converted(model, tmp_path / "model"), network)
    assert torch.equal(loaded(IMAGES), model(IMAGES))
    assert not torch.allclose(loaded(IMAGES), before, rtol=0.1)
    for name, layer in find_crossbar_layers(loaded).items():
        assert torch.equal(layer.output_gain, find_crossbar_layers(model)[name].output_gain)  # type: ignore[arg-type]
        assert (layer.bias is not None) == bias


@pytest.mark.parametrize("trainable", [False, True])
def test_varied_models_and_copies_keep_their_places(trainable: bool, network: nn.Module) -> None:
    model = arrange(converted(network, trainable=trainable))
    calibrate_outputs(model)
    out = model(IMAGES)
    varied = vary(model, VARIATIONS)
    assert places(varied) == places(model)
    assert not torch.equal(varied(IMAGES), out)
    for same in (vary(model, Variations()), copy.deepcopy(model)):
        assert places(same) == places(model)
        assert torch.equal(same(IMAGES), out)
        for matrix in find_crossbar_matrices(same).values():
            matrix.arrange(Arrangement())
    assert torch.equal(model(IMAGES), out)
