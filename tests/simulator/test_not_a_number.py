"""NaN and infinity at a crossbar's inputs: NaN stays in its own rows and groups, infinity clips."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from geniex import Architecture, CircuitEmulator, IdealEmulator, LinearEmulator, SurrogateEmulator, convert
from geniex.circuit import Crossbar
from geniex.emulator import StoredEmulator
from geniex.errors import InputError
from geniex.simulator import CrossbarMatrix
from geniex.variation import NoisyEmulator, ReadNoise

CROSSBAR = Crossbar(16, 16)
EMULATORS: dict[str, Any] = {
    "ideal": IdealEmulator,
    "linear": lambda: LinearEmulator(CROSSBAR),
    "circuit": lambda: CircuitEmulator(CROSSBAR),
    "physics": lambda: SurrogateEmulator("physics", CROSSBAR),
    "physics-fast": lambda: SurrogateEmulator("physics-fast", CROSSBAR),
    "stored": lambda: StoredEmulator(LinearEmulator(CROSSBAR), dtype=torch.float16),
    "noisy": lambda: NoisyEmulator(LinearEmulator(CROSSBAR), ReadNoise()),
}
ARCH = Architecture(tile=(16, 16), weight_bits=6, input_bits=6)
nan, inf = math.nan, math.inf


def images(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("emulator", EMULATORS)
@pytest.mark.parametrize("adc_bits", [None, 8])
@pytest.mark.parametrize("offset", ["analog_difference", "ideal_before"])
def test_nan_comes_out_of_its_rows_alone(emulator: str, adc_bits: int | None, offset: str) -> None:
    x = images(6, 40)
    arch = ARCH.replace(adc_bits=adc_bits, offset=offset, input_frac_bits=3)
    matrix = CrossbarMatrix(images(5, 40), arch, EMULATORS[emulator]())
    clean, spoiled = matrix(x), x.clone()
    spoiled[1], spoiled[4, 7] = nan, nan
    product = matrix(spoiled)
    rows = torch.tensor([False, True, False, False, True, False])
    assert product[rows].isnan().all()
    assert torch.equal(product[~rows], clean[~rows])


@pytest.mark.parametrize("streams", [1, 4])
def test_infinite_inputs_clip_as_the_largest_do(streams: int) -> None:
    x = images(3, 40)
    matrix = CrossbarMatrix(images(5, 40), ARCH.replace(stream_bits=streams, input_frac_bits=3), IdealEmulator())
    for sign in (1, -1):
        infinite, large = x.clone(), x.clone()
        infinite[1, 3], large[1, 3] = sign * inf, sign * 1e9
        assert torch.equal(matrix(infinite), matrix(large))
        assert matrix(infinite).isfinite().all()


def finite_positions(layer: nn.Module, x: Tensor) -> Tensor:
    """Where torch's own layer gives numbers, for inputs in which NaN alone is not finite."""
    return ~layer(x).isnan()


@pytest.mark.parametrize("layout", ["dense", "block_diagonal", "toeplitz", "compacted"])
@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv2d(4, 6, 3),
        nn.Conv2d(4, 6, 3, stride=2, padding=1, dilation=2),
        nn.Conv2d(4, 6, 2, groups=2),
        nn.Conv2d(4, 4, 3, groups=4, padding=1, padding_mode="circular"),
        nn.ConvTranspose2d(4, 6, 2, stride=2, groups=2),
    ],
    ids=str,
)
def test_convolutions_spoil_what_torch_spoils(layer: nn.Module, layout: str) -> None:
    x = images(3, 4, 7, 7)
    converted = convert(layer, ARCH.replace(tile=(40, 40)), IdealEmulator(), calibration=x, layout=layout)  # type: ignore[arg-type]
    spoiled = x.clone()
    spoiled[0, 1, 3, 4] = spoiled[2, 2, 0, 0] = nan
    found, expected = converted(spoiled), finite_positions(layer, spoiled)
    assert torch.equal(found.isfinite(), expected)
    assert torch.equal(found[expected], converted(x)[expected])
    assert torch.equal(converted(spoiled[0]).isfinite(), expected[0])


def test_sequences_and_attention_spoil_what_torch_spoils() -> None:
    linear, x = nn.Linear(10, 4), images(2, 5, 10)
    converted = convert(linear, ARCH, IdealEmulator(), calibration=x)
    x[1, 2, 3] = nan
    assert torch.equal(converted(x).isfinite(), finite_positions(linear, x))


@pytest.mark.parametrize("trainable", [True, False])
@pytest.mark.parametrize("gradients", ["emulator", "ideal"])
def test_gradients_of_the_other_rows_stay(trainable: bool, gradients: str) -> None:
    matrix = CrossbarMatrix(images(5, 40), ARCH.replace(input_frac_bits=3), IdealEmulator(), trainable=trainable)
    matrix.gradients = gradients  # type: ignore[assignment]
    x = images(3, 40).requires_grad_()
    matrix(x).sum().backward()
    assert x.grad is not None
    expected = x.grad.clone()
    spoiled = x.detach().clone()
    spoiled[1, 5], spoiled[2, 0] = nan, inf
    spoiled.requires_grad_()
    out = matrix(spoiled)
    out[[0, 2]].sum().backward()
    assert spoiled.grad is not None
    assert torch.equal(spoiled.grad[0], expected[0])
    assert spoiled.grad.isfinite().all()


@pytest.mark.slow
@pytest.mark.parametrize("emulator", ["ideal", "linear", "physics-fast"])
@pytest.mark.parametrize("adc_bits", [None, 8])
@pytest.mark.filterwarnings("ignore:.*ADC changes its sums")
def test_compiled_code_does_the_same(emulator: str, adc_bits: int | None) -> None:
    model = nn.Sequential(nn.Linear(40, 12), nn.ReLU(), nn.Linear(12, 3))
    x = images(6, 40)
    converted = convert(model, ARCH.replace(adc_bits=adc_bits), EMULATORS[emulator](), calibration=x)
    spoiled = x.clone()
    spoiled[2, 3], spoiled[4, 0] = nan, inf
    with torch.no_grad():
        eager = converted(spoiled)
        compiled = torch.compile(converted, backend="eager")(spoiled)
    assert eager[2].isnan().all()
    assert eager[[0, 1, 3, 4, 5]].isfinite().all()
    torch.testing.assert_close(compiled, eager, equal_nan=True)


@pytest.mark.parametrize("value", [nan, inf])
def test_weights_that_are_no_numbers_are_refused(value: float) -> None:
    model = nn.Sequential(nn.Linear(4, 3))
    with torch.no_grad():
        model[0].weight[1, 2] = value
    with pytest.raises(ValueError, match=r"layer '0': weight: got NaN or infinity; every weight must be finite"):
        convert(model, ARCH.replace(input_frac_bits=3), IdealEmulator())


def test_calibration_inputs_must_be_numbers() -> None:
    with pytest.raises(InputError, match="NaN or infinity"):
        convert(nn.Linear(4, 3), ARCH, IdealEmulator(), calibration=torch.tensor([[0.0, nan, 1.0, 2.0]]))
