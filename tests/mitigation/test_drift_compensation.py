"""Drifted crossbars corrected towards what they were: exact where the decay is one factor, and on Fashion-MNIST."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from mitigation_cases import ARCH, EMULATORS, FINE, NETWORKS, Repeated, batch, converted, network
from torch import Tensor, nn
from torch.utils.data import DataLoader

from geniex.emulator import IdealEmulator, SurrogateEmulator
from geniex.errors import InputError
from geniex.mapping import Architecture
from geniex.mitigation import Correction, correct_outputs, refit_batch_norm, remap
from geniex.networks import find_images, load_images, load_network
from geniex.preset import presets
from geniex.simulator import (
    convert,
    find_crossbar_layers,
    find_crossbar_matrices,
    load_converted,
    replace_by_ideal,
    save_converted,
    undo_variation,
    vary,
)
from geniex.variation import ConductanceSpread, Drift, ReadNoise, Variations, pcm

EXACT = ARCH.replace(adc_bits=None, adc_rounding="none", accumulator_bits=None)
"""Converters that add nothing, so that a read is the product of inputs and conductances."""
FLOAT = FINE.replace(weight_bits=12, adc_rounding="none")
"""Inputs and weights that are all but continuous as well, so that a float network can stand beside."""
YEAR = 365.25 * 86400
DRIFT = Variations((Drift(YEAR, nu=0.06),))
DECAY = (YEAR / 20.0) ** -0.06
"""What is left of every conductance."""
MODES: tuple[Correction, ...] = get_args(Correction)


def gains(model: nn.Module) -> Tensor:
    found = [layer.output_gain for layer in find_crossbar_layers(model).values()]
    return torch.cat([gain.double() for gain in found if gain is not None])


def ideal(name: str, **options: Any) -> Any:
    images = batch(name).images
    return convert(network(name), EXACT, IdealEmulator(), calibration=images, dtype=torch.float64, **options)


# Closed forms


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", NETWORKS)
def test_a_uniform_decay_is_undone_by_its_inverse(name: str, mode: Correction) -> None:
    """Ideal crossbars give c x G for conductances c G, so that the gain of every output is 1 / c."""
    data, model = batch(name, 20), ideal(name)
    aged = vary(model, DRIFT)
    fitted = correct_outputs(aged, data.images, mode=mode)
    with torch.no_grad():
        assert not torch.allclose(aged(data.images), model(data.images), rtol=0.05)
        torch.testing.assert_close(fitted(data.images), model(data.images), rtol=1e-4, atol=1e-5)
    if mode == "one_factor":
        torch.testing.assert_close(gains(fitted), torch.full_like(gains(fitted), 1 / DECAY), rtol=1e-6, atol=0.0)
    for one, other in zip(*(find_crossbar_layers(m).values() for m in (model, fitted)), strict=True):
        bias = torch.zeros(()) if one.bias is None else one.bias
        assert other.bias is not None
        torch.testing.assert_close(other.bias, bias.expand_as(other.bias), rtol=1e-4, atol=1e-5)


def test_one_factor_is_least_squares_over_the_whole_layer() -> None:
    """Outputs that decay by c_1 and c_2: c = sum of c_k y_k^2 / sum of c_k^2 y_k^2."""
    x, linear = torch.rand(30, 8), nn.Linear(8, 2, bias=False)
    model: Any = convert(nn.Sequential(linear), EXACT, IdealEmulator(), calibration=x, dtype=torch.float64)
    right, aged = copy.deepcopy(model), copy.deepcopy(model)
    matrix = find_crossbar_matrices(aged)["0.matrices.0"]
    left = torch.tensor([0.3, 0.6, 0.6, 0.6], dtype=torch.float64).repeat_interleave(2)  # two slices an output
    shape = matrix.conductances.shape
    scale = torch.ones(shape[-1], dtype=torch.float64)
    scale[: len(left)] = left
    matrix.program(matrix.conductances * scale)
    with torch.no_grad():
        y, c = right(x).double().square().sum(0), torch.tensor([0.3, 0.6], dtype=torch.float64)
        torch.testing.assert_close(aged(x).double(), right(x).double() * c, rtol=1e-5, atol=1e-7)
    found = gains(correct_outputs(aged, x, reference=right, mode="one_factor"))
    torch.testing.assert_close(found, ((c * y).sum() / (c.square() * y).sum()).expand(2), rtol=1e-5, atol=0.0)
    by_output = gains(correct_outputs(aged, x, reference=right, mode="gains"))
    torch.testing.assert_close(by_output, 1 / c, rtol=1e-5, atol=0.0)


def test_an_input_that_is_always_on_becomes_an_offset() -> None:
    """One more cell on a word line that always has 1: gains of 1, and its share as the offset."""
    x = torch.cat([torch.rand(40, 7), torch.ones(40, 1)], dim=1)
    linear = nn.Linear(8, 3)
    model: Any = convert(nn.Sequential(linear), EXACT, IdealEmulator(), calibration=x, dtype=torch.float64)
    without = copy.deepcopy(linear)
    with torch.no_grad():
        without.weight[:, -1] = 0
        fitted = correct_outputs(
            convert(nn.Sequential(without), EXACT, IdealEmulator(), calibration=x, dtype=torch.float64), x, model
        )
        layer = find_crossbar_layers(fitted)["0"]
        assert layer.bias is not None
        step = 2.0 ** -find_crossbar_matrices(model)["0.matrices.0"].weight_frac_bits
        held = (linear.weight[:, -1] / step).round() * step
        torch.testing.assert_close(layer.bias - linear.bias, held, rtol=0.0, atol=8 * step)
        torch.testing.assert_close(gains(fitted), torch.ones(3, dtype=torch.float64), rtol=0.0, atol=0.1)
        torch.testing.assert_close(fitted(x), model(x), rtol=0.0, atol=8 * step)


# The reference


def test_the_default_is_what_was_asked_for_before_the_first_variation() -> None:
    """Drift on top of spread, remapped in between or not: the crossbars of before, without wires."""
    data, model = batch("mlp", 20), converted("mlp", "linear")
    once = vary(model, Variations((ConductanceSpread(0.1),)), seed=3)
    for aged in (vary(model, DRIFT), vary(once, DRIFT), vary(vary(once, DRIFT), Variations((), ReadNoise(0.01)))):
        before = undo_variation(aged)
        assert torch.equal(before(data.images), replace_by_ideal(model)(data.images))
        assert not any(matrix.varied for matrix in find_crossbar_matrices(before).values())
    for matrix, was in zip(*(find_crossbar_matrices(m).values() for m in (once, model)), strict=True):
        assert torch.equal(matrix.target_conductances, was.conductances)  # type: ignore[arg-type]
        assert not torch.equal(matrix.conductances, was.conductances)


def test_read_noise_alone_varies_no_conductance() -> None:
    noisy = vary(converted("mlp"), Variations((), ReadNoise(0.01)))
    assert not any(matrix.varied for matrix in find_crossbar_matrices(noisy).values())
    assert all(matrix.target_conductances is None for matrix in find_crossbar_matrices(noisy).values())


def test_targets_move_with_their_weights_and_with_the_model() -> None:
    data, model = batch("mlp", 20), converted("mlp", "linear")
    moved = remap(vary(model, DRIFT), "random", data).model
    assert torch.equal(undo_variation(moved)(data.images), replace_by_ideal(model)(data.images))
    wide = vary(model, DRIFT).double()
    assert all(m.target_conductances.dtype == torch.float64 for m in find_crossbar_matrices(wide).values())  # type: ignore[union-attr]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", NETWORKS)
def test_references_may_be_converted_or_float(name: str, mode: Correction) -> None:
    """The float network gives what ideal crossbars with fine steps give."""
    data, model = batch(name, 20), converted(name, "linear", FLOAT)
    aged = vary(model, DRIFT)
    fitted = correct_outputs(aged, data.images, mode=mode)
    for reference in (replace_by_ideal(model), network(name)):
        other = correct_outputs(aged, data.images, reference, mode=mode)
        torch.testing.assert_close(gains(other), gains(fitted), rtol=0.01, atol=0.01)
        assert not any(module._forward_hooks or module._forward_pre_hooks for module in reference.modules())


def test_folded_norms_of_the_reference_are_folded_too() -> None:
    data = batch("vgg", 20)
    model = convert(network("vgg"), FLOAT, IdealEmulator(), calibration=data.images, fold=True)
    fitted = correct_outputs(vary(model, DRIFT), data.images, network("vgg"), mode="one_factor")
    torch.testing.assert_close(gains(fitted), torch.full_like(gains(fitted), 1 / DECAY), rtol=0.03, atol=0.0)


def test_attention_of_the_reference_is_taken_apart() -> None:
    torch.manual_seed(0)
    net = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True).eval()
    x = torch.rand(6, 5, 8)
    model = convert(net, FLOAT, IdealEmulator(), calibration=x)
    fitted = correct_outputs(vary(model, DRIFT), x, net, mode="one_factor")
    assert set(find_crossbar_layers(fitted)) >= {"self_attn.q_proj", "self_attn.out_proj", "linear1", "linear2"}
    torch.testing.assert_close(gains(fitted), torch.full_like(gains(fitted), 1 / DECAY), rtol=0.03, atol=0.0)
    with torch.no_grad():
        torch.testing.assert_close(fitted(x), model(x), rtol=0.0, atol=0.05)
    assert isinstance(net.self_attn, nn.MultiheadAttention), "the reference stays as it was"


def test_models_in_training_mode_are_corrected_in_evaluation_mode_and_keep_theirs() -> None:
    data = batch("vgg", 20)
    aged, reference = vary(converted("vgg", "linear", EXACT), DRIFT), network("vgg")
    wanted = correct_outputs(aged, data.images, reference)
    fitted = correct_outputs(aged.train(), data.images, reference.train())
    assert torch.equal(gains(fitted), gains(wanted))
    assert fitted.training
    assert reference.training
    assert torch.equal(fitted[1].running_mean, wanted[1].running_mean)  # type: ignore[index, union-attr]


def test_a_loaded_model_asks_for_its_reference(tmp_path: Path) -> None:
    data, model = batch("mlp", 20), converted("mlp", "linear", EXACT)
    aged = vary(model, DRIFT)
    loaded = load_converted(save_converted(aged, tmp_path / "aged"), network("mlp"))
    said = r"^model: got varied matrix '0.matrices.0'; its earlier conductances are unknown.*give reference="
    for unknown in (loaded, vary(loaded, DRIFT), replace_by_ideal(loaded)):
        with pytest.raises(InputError, match=said):
            correct_outputs(unknown, data.images)
    with_it, wanted = (correct_outputs(m, data.images, network("mlp")) for m in (loaded, aged))
    assert torch.equal(gains(with_it), gains(wanted))
    plain = load_converted(save_converted(model, tmp_path / "plain"), network("mlp"))
    assert torch.equal(gains(correct_outputs(plain, data.images)), gains(correct_outputs(model, data.images)))
    # So does one that was programmed since, and one that took over another's state.
    programmed = copy.deepcopy(aged)
    for matrix in find_crossbar_matrices(programmed).values():
        matrix.program(matrix.conductances)
    taken = converted("mlp", "linear", EXACT)
    taken.load_state_dict(aged.state_dict())
    for unknown in (programmed, taken):
        with pytest.raises(InputError, match=said):
            correct_outputs(unknown, data.images)


class Once(Repeated):
    """Calls the layer once that is called twice."""

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.again(self.first(x).relu()).relu())


def wide() -> nn.Module:
    return nn.Sequential(nn.Linear(9, 18), nn.ReLU(), nn.Linear(18, 8), nn.Tanh(), nn.Linear(8, 4)).eval()


OTHER_SIZE = r"layer '0' with \(groups, outputs, inputs\) = \(1, 18, 9\); the model's has \(1, 17, 9\)"


@pytest.mark.parametrize(
    ("name", "reference", "said"),
    [
        ("mlp", lambda: "before", r"str; it must be a torch module with the right outputs"),
        ("mlp", lambda: nn.Linear(9, 4), r"Linear; it must have the layers of the corrected model: "),
        ("mlp", wide, OTHER_SIZE),
        ("mlp", lambda: convert(wide(), ARCH, IdealEmulator(), calibration=torch.rand(4, 9)), OTHER_SIZE),
        ("repeated", lambda: converted("mlp"), r"Sequential without layer 'first'"),
        ("repeated", Once, r"layer 'again', which is called another number of times"),
        ("mlp", lambda: nn.Sequential(*network("mlp"), nn.Linear(4, 4)), None),
    ],
)
@pytest.mark.parametrize("batches", [1, 3])
def test_other_references_are_refused(name: str, reference: Callable[[], Any], said: str | None, batches: int) -> None:
    model, data = converted(name), list(batch(name, 20).images.chunk(batches))
    if said is None:  # layers behind those of the model do no harm
        assert gains(correct_outputs(model, data, reference())).isfinite().all()
        return
    with pytest.raises(InputError, match=rf"^reference: got {said}"):
        correct_outputs(model, data, reference())


# Data


@pytest.mark.slow
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", ["resnet", "repeated"])
def test_how_data_are_cut_makes_no_difference(name: str, mode: Correction) -> None:
    images = batch(name, 20).images
    aged = vary(converted(name, "linear", EXACT), Variations((Drift(YEAR, nu=0.06, spread=0.005),)))
    wanted = gains(correct_outputs(aged, images, mode=mode))
    for data in (
        list(images.split(7)),
        (x for x in images.split(20)),
        (x for x in images.split(3)),
        lambda model: [model(x) for x in images.split(9)],
        DataLoader(images, batch_size=6, shuffle=True),  # type: ignore[arg-type]
    ):
        torch.testing.assert_close(gains(correct_outputs(aged, data, mode=mode)), wanted, rtol=2e-3, atol=2e-3)


def test_calls_by_keyword_are_made_again_as_they_were() -> None:
    class Named(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = network("mlp")

        def forward(self, *, images: Tensor) -> Tensor:
            return self.body(images)

    images = batch("mlp", 20).images
    model = convert(Named().eval(), EXACT, EMULATORS["linear"], calibration=lambda model: model(images=images))
    aged = vary(model, DRIFT)
    wanted = gains(correct_outputs(aged, lambda model: model(images=images)))
    cut = gains(correct_outputs(aged, lambda model: [model(images=x) for x in images.split(8)]))
    torch.testing.assert_close(cut, wanted, rtol=1e-3, atol=1e-3)
    plain = vary(converted("mlp", "linear", EXACT), DRIFT)
    torch.testing.assert_close(gains(correct_outputs(plain, images)), wanted, rtol=0.1, atol=0.1)


def test_layers_that_are_not_called_are_told() -> None:
    class Choice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Linear(9, 4), nn.Linear(9, 4)

        def forward(self, x: Tensor, second: bool = False) -> Tensor:
            return self.second(x) if second else self.first(x)

    images, arch = batch("mlp").images, ARCH.replace(input_frac_bits=5)
    model = convert(Choice().eval(), arch, EMULATORS["linear"])
    with pytest.warns(UserWarning, match="uncorrected: 'second'"):
        fitted: Any = correct_outputs(model, images)
    assert fitted.first.output_gain is not None
    assert fitted.second.output_gain is None

    def both(model: nn.Module) -> None:
        model(images)
        model(images, second=True)

    assert all(layer.output_gain is not None for layer in find_crossbar_layers(correct_outputs(model, both)).values())
    with pytest.raises(InputError, match=r"^data: got a function that runs a part of the model"):
        correct_outputs(model, lambda model: model.first(images))


# A year on Fashion-MNIST, on the circuit of the GENIEx paper


def small_mlp() -> nn.Module:
    """Four layers, trained for six epochs on 5000 images."""
    images, labels = load_images("fashion-mnist", train=True).batch(torch.arange(5000))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        hidden = (nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU())
        net = nn.Sequential(nn.Flatten(), nn.Linear(784, 64), nn.ReLU(), *hidden, nn.Linear(64, 10))
        optimiser = torch.optim.Adam(net.parameters(), 2e-3)
        for _ in range(6):
            for at in torch.randperm(5000).split(100):
                optimiser.zero_grad()
                nn.functional.cross_entropy(net(images[at]), labels[at]).backward()
                optimiser.step()
    return net.eval()


@pytest.mark.slow
@pytest.mark.parametrize(("name", "count"), [("fashion-cnn", 200), ("mlp", 1000)])
def test_a_year_of_drift_costs_no_more_than_read_noise_explains(name: str, count: int) -> None:
    """With wires, by the surrogate: less than 2 points beside the crossbars of before with the same read noise."""
    if find_images("fashion-mnist") is None:
        pytest.skip("Fashion-MNIST is not on this machine")
    net = load_network("fashion-cnn").eval() if name == "fashion-cnn" else small_mlp()
    images, labels = load_images("fashion-mnist", train=False).batch(torch.arange(count))
    seen = load_images("fashion-mnist", train=True).batch(torch.arange(128))[0]
    preset = presets["geniex-64"]
    arch = preset.architecture(weight_bits=8, input_bits=8)
    model = convert(net, arch, SurrogateEmulator("physics-fast", preset.crossbar), calibration=seen)
    noise = pcm(YEAR).read_noise

    @torch.no_grad()
    def accuracy(model: nn.Module) -> float:
        return 100 * float((model(images).argmax(-1) == labels).float().mean())

    noisy, aged = vary(model, Variations((), noise)), vary(model, Variations(DRIFT.steps, noise))
    explained, lost = accuracy(noisy), accuracy(aged)
    assert lost < explained - 20, "drift must cost something"
    for mode in MODES:
        assert accuracy(correct_outputs(aged, seen, mode=mode)) > explained - 2, mode


def test_drift_is_a_power_law_of_the_time_since_programming() -> None:
    """G(t) = G (t / 20 s)^-0.06 in every cell, without spread."""
    model = ideal("mlp")
    for seconds in (20.0, 3600.0, YEAR):
        aged = vary(model, Variations((Drift(seconds, nu=0.06),)))
        for was, now in zip(*(find_crossbar_matrices(m).values() for m in (model, aged)), strict=True):
            left = math.pow(seconds / 20.0, -0.06)
            torch.testing.assert_close(now.conductances, was.conductances * left, rtol=1e-12, atol=0.0)


def test_refitted_norms_of_a_drifted_model_are_those_of_its_outputs() -> None:
    data = batch("vgg", 20)
    aged = vary(converted("vgg", "linear", EXACT), DRIFT)
    fitted = correct_outputs(refit_batch_norm(aged, data.images), data.images)
    assert gains(fitted).isfinite().all()


def test_data_come_in_every_form() -> None:
    """A tensor, a loader of (x, y), mappings by the argument's name and a function correct a model alike."""

    class ByName(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(20, 4)

        def forward(self, images: Tensor) -> Tensor:
            return self.linear(images)

    torch.manual_seed(0)
    model, x = ByName(), torch.rand(24, 20)
    arch = Architecture(tile=(16, 16), weight_bits=8, input_bits=8)
    drifted = vary(convert(model, arch, IdealEmulator(), calibration=x), Variations((Drift(3e7, nu=0.06),)))
    labelled = torch.utils.data.TensorDataset(x, torch.zeros(24, dtype=torch.int64))
    forms: list[Any] = [
        x,
        (x,),
        {"images": x},
        [x[:10], x[10:]],
        [{"images": x[:10]}, {"images": x[10:]}],
        torch.utils.data.DataLoader(labelled, batch_size=10),
        lambda network: network(images=x),
    ]
    results = [correct_outputs(drifted, data, mode="one_factor")(x) for data in forms]
    for result in results[1:]:
        torch.testing.assert_close(result, results[0])
    assert (results[0] - model(x)).norm() < 0.2 * (drifted(x) - model(x)).norm()
