"""The model that is converted is the model that computes: torch's own output on ideal tiles with enough bits."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize, prune

from geniex.emulator import IdealEmulator
from geniex.errors import ConversionError, InputError
from geniex.mapping import Architecture
from geniex.simulator import (
    convert,
    dry_run,
    find_crossbar_layers,
    fold_batch_norm,
    load_converted,
    save_converted,
    to_digital,
)
from geniex.study.accuracy import predict_accuracy

ARCH = Architecture(tile=(16, 16), weight_bits=24, input_bits=24, adc_bits=None, accumulator_bits=None)
X = torch.rand(3, 5, generator=torch.Generator().manual_seed(0))
MAPS = torch.rand(3, 2, 6, 6, generator=torch.Generator().manual_seed(0))


def on_ideal(model: nn.Module, calibration: Any = X, **options: Any) -> nn.Module:
    return convert(model, ARCH, IdealEmulator(), calibration=calibration, **options)


def network(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(5, 6), nn.ReLU(), nn.Linear(6, 4))


def conv_network(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    norm = nn.BatchNorm2d(4)
    norm.running_mean, norm.running_var = torch.rand(4), torch.rand(4) + 0.5
    return nn.Sequential(nn.Conv2d(2, 4, 3), norm, nn.ReLU(), nn.ConvTranspose2d(4, 2, 2))


@torch.no_grad()
def assert_same(converted: nn.Module, model: nn.Module, *inputs: Tensor) -> None:
    wanted = model.eval()(*inputs)
    assert (converted(*inputs) - wanted).abs().max() < 1e-5 * wanted.abs().max()


# Weights that torch computes from other tensors


def old(norm: Callable[..., Any]) -> Callable[[nn.Module], object]:
    def apply(layer: nn.Module) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # it is deprecated, and much used
            norm(layer)

    return apply


class Doubled(nn.Module):
    """A parametrization of a user's own."""

    def forward(self, weight: Tensor) -> Tensor:
        return 2 * weight


DERIVED: dict[str, Callable[[Any], object]] = {
    "pruned": lambda layer: prune.l1_unstructured(layer, "weight", 0.5),
    "pruned twice": lambda layer: [prune.random_unstructured(layer, "weight", 0.3) for _ in range(2)],
    "pruned bias": lambda layer: prune.random_unstructured(layer, "bias", 0.5),
    "old weight norm": old(nn.utils.weight_norm),
    "old spectral norm": old(nn.utils.spectral_norm),
    "weight norm": parametrizations.weight_norm,
    "spectral norm": parametrizations.spectral_norm,
    "orthogonal": parametrizations.orthogonal,
    "own": lambda layer: parametrize.register_parametrization(layer, "weight", Doubled()),
    "two of them": lambda layer: (parametrizations.weight_norm(layer), prune.l1_unstructured(layer, "bias", 0.5)),
}


@pytest.mark.parametrize("make", [network, conv_network])
@pytest.mark.parametrize("way", DERIVED)
@pytest.mark.filterwarnings("ignore:.*calibration inputs are 0")
def test_effective_weights_are_programmed_after_loading_too(way: str, make: Callable[[int], nn.Sequential]) -> None:
    model, other, inputs = make(0), make(1), X if make is network else MAPS
    for net in model, other:
        DERIVED[way](net[0])
        DERIVED[way](net[-1])
    other.eval()(inputs)
    assert_same(on_ideal(model.eval(), inputs), model, inputs)
    model.load_state_dict(other.state_dict())  # attributes that were computed before are stale now
    state = {key: value.clone() for key, value in model.state_dict().items()}
    converted = on_ideal(model, inputs)
    assert_same(converted, other, inputs)
    assert not any("orig" in key or key.endswith(("_v", "_mask")) for key in converted.state_dict())
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())
    assert_same(model, other, inputs)


def test_models_in_training_mode_and_with_graphs_are_copied() -> None:
    """A weight that was computed in a forward pass is no leaf, which deepcopy refuses."""
    model = network()
    for layer in (model[0], model[2]):
        DERIVED["old weight norm"](layer)
    model(X).sum().backward()
    assert not model[0].weight.is_leaf
    assert_same(on_ideal(model), model.eval(), X)


@pytest.mark.parametrize("way", [way for way in DERIVED if way != "pruned bias"])
def test_derived_weights_cannot_be_trained_on_crossbars(way: str) -> None:
    model = network()
    DERIVED[way](model[0])
    with pytest.raises(
        ConversionError, match=r"layer '0': its (weight|bias) is computed from other tensors.*make it"
    ) as told:
        on_ideal(model, trainable=True)
    remedy = str(told.value).split("first with ")[1].split(",  or")[0].split(", or keep")[0]
    kept = on_ideal(model, trainable=True, per_layer={"0": None})
    assert_same(kept, model, X)
    if way in ("pruned", "old weight norm", "own"):
        eval(remedy, {"torch": torch, "layer": model[0]})
        assert_same(on_ideal(model, trainable=True), model, X)


def test_layers_that_share_a_tensor_under_different_masks() -> None:
    one, other = nn.Linear(5, 5, bias=False), nn.Linear(5, 5, bias=False)
    other.weight = one.weight
    for layer, amount in ((one, 0.3), (other, 0.7)):
        prune.l1_unstructured(layer, "weight", amount)
    model = nn.Sequential(one, other)
    assert_same(on_ideal(model), model, X)


def test_derived_weights_are_folded_as_they_are() -> None:
    model, other = conv_network(0).eval(), conv_network(1).eval()
    for net in model, other:
        DERIVED["pruned"](net[0])
    model.load_state_dict(other.state_dict())
    converted = on_ideal(model, MAPS, fold=True)
    assert converted.conversion.layer("1").where == "folded"
    assert_same(converted, other, MAPS)


def test_digital_layers_keep_computing_their_weights() -> None:
    model = nn.Sequential(nn.Embedding(9, 5), nn.Linear(5, 4))
    prune.l1_unstructured(model[0], "weight", 0.5)
    tokens = torch.arange(9)
    assert_same(on_ideal(model, tokens), model, tokens)


def test_attention_with_derived_weights() -> None:
    model = nn.MultiheadAttention(8, 2, batch_first=True).eval()
    prune.l1_unstructured(model, "in_proj_weight", 0.5)
    parametrizations.weight_norm(model.out_proj)
    x = torch.rand(2, 4, 8)
    converted = on_ideal(model, (x, x, x))
    assert torch.allclose(converted(x, x, x)[0], model(x, x, x)[0], atol=1e-5)
    assert len(find_crossbar_layers(converted)) == 4


def test_a_pruned_model_is_loaded_by_the_model_as_it_was(tmp_path: Path) -> None:
    model = network()
    DERIVED["pruned"](model[0])
    saved = on_ideal(model)
    loaded = load_converted(save_converted(saved, tmp_path / "m"), model)
    assert torch.equal(loaded(X), saved(X))


class SetFromOutside(nn.Module):
    """A layer whose weight is computed by its owner in each pass."""

    def __init__(self) -> None:
        super().__init__()
        self.made, self.layer, self.last = nn.Linear(1, 25), nn.Linear(5, 5), nn.Linear(5, 2)
        del self.layer.weight
        self.layer.weight = torch.zeros(5, 5)

    def forward(self, x: Tensor) -> Tensor:
        self.layer.weight = self.made(x.mean().reshape(1)).reshape(5, 5)
        return self.last(self.layer(x))


class Assigning(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(5, 5)

    def forward(self, x: Tensor) -> Tensor:
        self.layer.weight = nn.Parameter(torch.eye(5))
        return self.layer(x)


def test_weights_that_something_else_sets_stay_digital() -> None:
    torch.manual_seed(0)
    model = SetFromOutside()
    converted = on_ideal(model)
    assert converted.conversion.layer("layer").reason == "its weight is not a parameter, because something else sets it"
    assert_same(converted, model, 0.5 * X)
    with pytest.raises(AttributeError, match="on crossbars, but the module around it sets it"):
        convert(Assigning(), ARCH.replace(input_frac_bits=12), IdealEmulator())(X)


# Hooks


def doubled_input(module: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return (2 * args[0],)


def shifted_input(module: nn.Module, args: Any, kwargs: Any) -> tuple[Any, Any]:
    return tuple(x + 1 for x in args), {key: value + 1 for key, value in kwargs.items()}


def squared(module: nn.Module, args: Any, output: Tensor) -> Tensor:
    return output.square()


def shifted(module: nn.Module, args: Any, kwargs: Any, output: Tensor) -> Tensor:
    return output - 3


def hook_up(layer: nn.Module) -> None:
    """Hooks whose order matters."""
    layer.register_forward_pre_hook(doubled_input)
    layer.register_forward_pre_hook(shifted_input, with_kwargs=True)
    layer.register_forward_hook(squared)
    layer.register_forward_hook(shifted, with_kwargs=True, always_call=True)
    layer.register_forward_hook(squared, prepend=True)


@pytest.mark.parametrize("make", [network, conv_network])
def test_hooks_run_on_crossbar_layers_in_their_order(make: Callable[[], nn.Sequential], tmp_path: Path) -> None:
    model, inputs = make().eval(), X if make is network else MAPS
    for layer in (model[0], model[-1]):
        hook_up(layer)
    converted = on_ideal(model, inputs)
    assert_same(converted, model, inputs)
    assert_same(on_ideal(model[0], inputs), model[0], inputs)
    loaded = load_converted(save_converted(converted, tmp_path / "m"), model)
    assert torch.equal(loaded(inputs), converted(inputs))
    trained = on_ideal(model, inputs, trainable=True)
    assert_same(trained, model, inputs)
    assert torch.allclose(to_digital(trained)(inputs), model(inputs))


def test_a_hook_is_given_the_crossbar_layer_and_backward_hooks_run_too() -> None:
    model = network()
    seen: list[tuple[str, str, Any]] = []

    def told(name: str) -> Callable[..., None]:
        return lambda module, *rest: seen.append((name, type(module).__name__, rest))

    model[0].register_forward_hook(told("forward"))
    model[0].register_full_backward_pre_hook(told("before"))
    model[0].register_full_backward_hook(told("backward"))
    converted, x = on_ideal(model), X.clone().requires_grad_()
    seen.clear()
    converted(x).sum().backward()
    assert [entry[:2] for entry in seen] == [(name, "CrossbarLinear") for name in ("forward", "before", "backward")]
    found = seen[2][2]
    seen.clear()
    model(x).sum().backward()
    for mine, wanted in zip(found, seen[2][2], strict=True):
        assert torch.allclose(mine[0], wanted[0], atol=1e-5)


class Recorder:
    """Keeps outputs, as profilers and feature extractors do."""

    def __init__(self) -> None:
        self.seen: list[Tensor] = []

    def __call__(self, module: nn.Module, args: Any, output: Tensor) -> None:
        self.seen.append(output)

    def method(self, module: nn.Module, args: Any, output: Tensor) -> None:
        self.seen.append(output)

    def named(self, name: str, module: nn.Module, args: Any, output: Tensor) -> None:
        self.seen.append(output)


class Owner(nn.Module):
    """A module whose own method is a hook of its layer."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.last = nn.Linear(5, 5), nn.Linear(5, 2)
        self.kept: list[Tensor] = []
        self.layer.register_forward_hook(self.keep)

    def keep(self, module: nn.Module, args: Any, output: Tensor) -> None:
        self.kept.append(output)

    def forward(self, x: Tensor) -> Tensor:
        self.kept.clear()
        self.layer(x)
        return self.last(self.kept[0])


def test_who_records_goes_on_recording_and_a_module_records_for_itself() -> None:
    model, recorder = network(), Recorder()
    model[0].register_forward_hook(recorder.method)
    model[2].register_forward_hook(partial(recorder.named, "2"))
    model[1].register_forward_hook(recorder)
    converted = on_ideal(model)
    recorder.seen.clear()
    converted(X)
    assert [tuple(output.shape) for output in recorder.seen] == [(3, 6), (3, 6), (3, 4)]
    owner = Owner()
    copied = on_ideal(owner)
    assert_same(copied, owner, X)
    assert len(copied.kept) == 1
    assert copied.kept is not owner.kept
    assert on_ideal(owner, trainable=True)(X).shape == (3, 2)


def test_hooks_of_attention_stay_and_those_that_torch_never_runs_do_not() -> None:
    class Alone(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attention = nn.MultiheadAttention(8, 2, batch_first=True)

        def forward(self, x: Tensor) -> Tensor:
            return self.attention(x, x, value=x)[0]

    model, x = Alone().eval(), torch.rand(2, 4, 8)
    model.attention.register_forward_hook(lambda module, args, output: (output[0] + 1, output[1]))
    model.attention.register_forward_pre_hook(
        lambda module, args, kwargs: (args, {"value": 2 * kwargs["value"]}), with_kwargs=True
    )
    model.attention.out_proj.register_forward_hook(squared)
    converted = on_ideal(model, x)
    assert_same(converted, model, x)
    trained = on_ideal(model, x, trainable=True)
    assert torch.allclose(to_digital(trained)(x), model(x), atol=1e-6)


@pytest.mark.parametrize("which", [0, 1])
def test_a_norm_is_not_folded_past_a_hook(which: int) -> None:
    model = conv_network().eval()
    model[which].register_forward_hook(squared)
    assert torch.equal(fold_batch_norm(model)(MAPS), model(MAPS))
    converted = on_ideal(model, MAPS, fold=True)
    assert converted.conversion.layer("1").where == "digital"
    assert_same(converted, model, MAPS)
    before = conv_network().eval()
    before[0].register_forward_pre_hook(doubled_input)
    folded = on_ideal(before, MAPS, fold=True)
    assert folded.conversion.layer("1").where == "folded"
    assert_same(folded, before, MAPS)


# References


class Referring(nn.Module):
    """Refers to its layers past torch's back, as some do to share them or to choose by name."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(5, 5), nn.Linear(5, 3)])
        self.again = [self.layers[0], (self.layers[1],)]
        self.by_name = {"last": self.layers[1]}
        self.call = self.layers[0].forward
        self.__dict__["alias"] = self.layers[0]

    def forward(self, x: Tensor) -> Tensor:
        x = self.alias(self.again[0](x))  # type: ignore[operator]
        return self.by_name["last"](x) + self.again[1][0](x.flip(-1))  # type: ignore[index]


def test_references_from_lists_and_the_like_are_to_the_crossbars() -> None:
    torch.manual_seed(0)
    model = Referring()
    layers = model.layers
    coarse = convert(model, ARCH.replace(weight_bits=3), IdealEmulator(), calibration=X)
    assert coarse.again[0] is coarse.alias is coarse.layers[0] is not layers[0]
    assert coarse.by_name["last"] is coarse.again[1][0] is coarse.layers[1]
    assert coarse.call.__self__ is coarse.layers[0]
    assert_same(on_ideal(model), model, X)
    assert model.again[0] is model.layers[0] is layers[0]


class Aside(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.last = nn.Linear(5, 2)
        self.blocks = [nn.Linear(5, 5), nn.Sequential(nn.Linear(5, 5))]

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x)
        return self.last(x)


def test_layers_in_plain_lists_are_reported() -> None:
    model = Aside()
    converted = on_ideal(model)
    assert_same(converted, model, X)
    told = {layer.name: layer.reason for layer in converted.conversion.layers if layer.where == "digital"}
    assert told == dict.fromkeys(
        ("blocks[0]", "blocks[1]"), "not a submodule: keep it in an nn.ModuleList or nn.ModuleDict"
    )


class Sized(nn.Module):
    """Asks its layers for their sizes."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv2d(2, 4, 3), nn.Linear(64, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        assert x.shape[1] == self.conv.out_channels
        assert self.conv.kernel_size == (3, 3)
        return self.head(x.reshape(-1, self.head.in_features))


def test_layers_keep_their_sizes() -> None:
    assert_same(on_ideal(model := Sized(), MAPS), model, MAPS)


def test_forwards_that_were_exchanged_on_an_instance_are_kept() -> None:
    model = network()
    plain = model[0].forward
    model[0].forward = lambda x: plain(x) + 1  # type: ignore[method-assign]
    converted = on_ideal(model)
    assert converted.conversion.layer("0").reason == "computes something else than Linear"
    assert_same(converted, model, X)


# Shared and tied parameters


class Language(nn.Module):
    """A head that is the embedding's transpose, and two layers of one weight."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.head = nn.Embedding(7, 5), nn.Linear(5, 7, bias=False)
        self.one, self.two = nn.Linear(5, 5), nn.Linear(5, 5)
        self.head.weight, self.two.weight = self.embedding.weight, self.one.weight

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(self.two(self.one(self.embedding(tokens)).tanh()))


def test_tied_parameters_have_one_value_or_are_refused_by_name() -> None:
    torch.manual_seed(0)
    model, tokens = Language(), torch.arange(7)
    assert_same(on_ideal(model, tokens), model, tokens)
    with pytest.raises(ConversionError, match=r"embedding.weight and head.weight share one parameter.*'head': None"):
        on_ideal(model, tokens, trainable=True)
    with pytest.raises(ConversionError, match=r"one.weight and two.weight share one parameter.*'two': None"):
        on_ideal(model, tokens, trainable=True, per_layer={"head": None})
    kept = on_ideal(model, tokens, trainable=True, per_layer={"head": None, "one": None, "two": None}, allow_empty=True)
    assert kept.head.weight is kept.embedding.weight
    model.requires_grad_(False)
    assert_same(on_ideal(model, tokens, trainable=True), model, tokens)


def test_a_tie_ends_where_its_layers_stay_digital() -> None:
    torch.manual_seed(0)
    model, tokens = Language(), torch.arange(7)
    model.two.weight = nn.Parameter(torch.rand(5, 5))
    converted = on_ideal(model, tokens, trainable=True, per_layer={"head": None})
    assert converted.head.weight is converted.embedding.weight
    assert_same(converted, model, tokens)


def test_a_module_in_two_places_is_converted_once_and_trained_once() -> None:
    shared = nn.Linear(5, 5)
    model = nn.Sequential(shared, nn.Tanh(), shared)
    converted = on_ideal(model, trainable=True)
    assert converted[0] is converted[2]
    assert len(converted.conversion.layers) == 1
    assert_same(converted, model, X)
    with torch.no_grad():
        converted[0].matrix.weight.mul_(0.5)
        shared.weight.mul_(0.5)
    assert_same(converted, model, X)


def test_functional_call_exchanges_trained_weights() -> None:
    model = network()
    converted = on_ideal(model, trainable=True)
    weights = {name: 0.5 * p.detach() for name, p in converted.named_parameters()}
    found = torch.func.functional_call(converted, weights, X)
    halved = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in halved.parameters():
            parameter.mul_(0.5)
        assert torch.allclose(found, halved(X), atol=1e-5)
    assert_same(converted, model, X)


# Gradients


def test_nothing_asks_for_a_gradient_unless_it_is_trained() -> None:
    model = conv_network().eval()
    converted = on_ideal(model, MAPS)
    assert not any(p.requires_grad for p in converted.parameters())
    assert not converted(MAPS).requires_grad
    assert converted(MAPS.clone().requires_grad_()).requires_grad
    assert all(p.requires_grad for p in model.parameters())


def test_trained_models_need_the_gradients_that_they_needed(tmp_path: Path) -> None:
    model = conv_network().eval()
    model[0].weight.requires_grad_(False)
    model[3].bias.requires_grad_(False)
    model[1].weight.requires_grad_(False)
    converted = on_ideal(model, MAPS, trainable=True)
    saved = load_converted(save_converted(converted, tmp_path / "m"), model)
    for made in converted, saved:
        assert not made[0].matrix.weight.requires_grad
        assert made[0].bias.requires_grad
        assert made[3].matrix.weight.requires_grad
        assert not made[3].bias.requires_grad
        assert (made[1].weight.requires_grad, made[1].bias.requires_grad) == (False, True)
    assert not any(
        p.requires_grad
        for p in load_converted(save_converted(on_ideal(model, MAPS), tmp_path / "n"), model).parameters()
    )


# What cannot be converted


def test_lazy_modules_are_told_to_be_run_first() -> None:
    for model in nn.Sequential(nn.LazyLinear(4)), nn.Sequential(nn.LazyConv2d(4, 3)), nn.LazyBatchNorm1d():
        with pytest.raises(ConversionError, match=r"layer '0?': a Lazy.* has no weights yet: run a batch through"):
            on_ideal(model)
    model = nn.Sequential(nn.LazyLinear(4))
    model(X)
    assert_same(on_ideal(model), model, X)


def test_a_converted_model_is_not_converted_again() -> None:
    converted = on_ideal(network())
    for again in converted, nn.Sequential(nn.ReLU(), converted), nn.Sequential(converted[0].matrix):
        with pytest.raises(ConversionError, match=r"layer '.*' is on crossbars already: convert the original model"):
            on_ideal(again)
        with pytest.raises(ConversionError, match="on crossbars already"):
            dry_run(again, ARCH, IdealEmulator())
    back = to_digital(on_ideal(network(), trainable=True))
    assert_same(on_ideal(back), network(), X)


@pytest.mark.parametrize(
    ("model", "why"),
    [
        (nn.LSTM(5, 5), r"the model \(LSTM\): no crossbar form for this kind of layer"),
        (nn.ReLU(), "it has no layer with weights"),
        (nn.Sequential(nn.LayerNorm(5)), r"0 \(LayerNorm\): no matrix product"),
        (nn.Sequential(*(nn.LayerNorm(5) for _ in range(10))), r"7 \(LayerNorm\): no matrix product, and 2 more"),
    ],
)
def test_a_model_of_which_nothing_goes_onto_crossbars_is_refused(model: nn.Module, why: str) -> None:
    with pytest.raises(ConversionError, match=rf"no layer goes onto crossbars: .*{why}.*allow_empty=True"):
        on_ideal(model, lambda m: None)
    converted = on_ideal(model, lambda m: None, allow_empty=True)
    assert converted.conversion.arrays == 0
    assert dry_run(model, ARCH, IdealEmulator()).arrays == 0


def test_rules_that_leave_nothing_are_told() -> None:
    with pytest.raises(ConversionError, match=r"0 \(Linear\): by rule; 2 \(Linear\): by rule"):
        on_ideal(network(), per_layer={"*": None})
    with pytest.raises(ConversionError, match=r"never called on the inputs given"):
        on_ideal(network(), lambda model: None)


def test_accuracy_of_a_model_off_crossbars_is_refused() -> None:
    from geniex.circuit import Crossbar

    class Recurrent(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lstm = nn.LSTM(5, 3, batch_first=True)

        def forward(self, x: Tensor) -> Tensor:
            return self.lstm(x)[0][:, -1]

    loader = [(torch.rand(4, 6, 5), torch.tensor([0, 1, 2, 0]))]
    with pytest.raises(ConversionError, match=r"lstm \(LSTM\): no crossbar form for this kind of layer"):
        predict_accuracy(Recurrent(), loader, crossbar=Crossbar(16, 16), architecture=ARCH, circuit_images=0)


class Quantised(nn.Module):
    """As torch.ao's modules keep their weights: outside of parameters."""

    def __init__(self) -> None:
        super().__init__()
        self._packed_params = torch.randint(-8, 8, (5, 5))

    def forward(self, x: Tensor) -> Tensor:
        return x @ self._packed_params.float()


def test_quantised_modules_are_told() -> None:
    with pytest.raises(ConversionError, match=r"0 \(Quantised\): quantised weights that are no parameters"):
        on_ideal(nn.Sequential(Quantised()))
    model = nn.Sequential(Quantised(), nn.Linear(5, 2))
    assert_same(on_ideal(model), model, X)


def with_weight(weight: Tensor) -> nn.Sequential:
    model = network()
    model[0].weight = nn.Parameter(weight, requires_grad=False)
    return model


@pytest.mark.parametrize(
    ("weight", "reason"),
    [
        (torch.rand(6, 5, dtype=torch.complex64), "weights of torch.complex64"),
        (torch.ones(6, 5, dtype=torch.int8), "weights of torch.int8"),
        (torch.rand(6, 5, dtype=torch.float32).to(torch.float8_e4m3fn), "weights of torch.float8_e4m3fn"),
        (torch.rand(6, 5).to_sparse(), "sparse weight"),
    ],
)
def test_weights_that_no_cell_can_hold_stay_digital(weight: Tensor, reason: str) -> None:
    model = with_weight(weight)
    converted = on_ideal(model, lambda m: m[2](torch.rand(2, 6)))
    assert reason in converted.conversion.layer("0").reason
    assert list(find_crossbar_layers(converted)) == ["2"]
    with pytest.raises(ConversionError, match=rf"per_layer\['0'\]: Linear cannot run on crossbars: {reason}"):
        on_ideal(model, lambda m: m[2](torch.rand(2, 6)), per_layer={"0": ARCH})


@pytest.mark.filterwarnings("ignore:Sparse CSR tensor support is in beta")
def test_a_layer_of_sparse_weights_computes_on() -> None:
    model = network()
    model[0].weight = nn.Parameter(model[0].weight.detach().to_sparse_csr(), requires_grad=False)
    converted = on_ideal(model)
    wanted = model(X)
    assert (converted(X) - wanted).abs().max() < 1e-5 * wanted.abs().max()


def test_what_is_no_module_or_cannot_be_copied_is_told() -> None:
    with pytest.raises(ConversionError, match=r"model: got a dict; it must be a torch.nn.Module"):
        on_ideal({})  # type: ignore[arg-type]
    model = network()
    model.stream = open(__file__)  # noqa: SIM115
    with model.stream, pytest.raises(ConversionError, match=r"model: it cannot be copied: TypeError: .*TextIOWrapper"):
        on_ideal(model)


# Compiled and wrapped models


@pytest.mark.filterwarnings("ignore:`torch.jit:FutureWarning")
def test_scripted_and_traced_models_are_refused_and_their_parts_stay_digital() -> None:
    model = network().eval()
    for compiled in torch.jit.script(model), torch.jit.trace(model, X):
        with pytest.raises(ConversionError, match=r"compiled by torch.jit.*convert the module that it was made from"):
            on_ideal(compiled)
    mixed = nn.Sequential(torch.jit.script(nn.Linear(5, 6)), nn.Linear(6, 2))
    converted = on_ideal(mixed)
    assert converted.conversion.layer("0").reason == "compiled by torch.jit"
    assert_same(converted, mixed, X)


@pytest.mark.filterwarnings("ignore:`torch.jit:FutureWarning")
@pytest.mark.parametrize("make", [network, conv_network])
def test_converted_models_cannot_be_traced_or_scripted(make: Callable[[], nn.Sequential]) -> None:
    inputs = X if make is network else MAPS
    converted = on_ideal(make().eval(), inputs)
    with pytest.raises(InputError, match=r"x: got a tensor that torch.jit.trace records"):
        torch.jit.trace(converted, inputs)
    with pytest.raises(ConversionError, match=r"torch.jit.script cannot compile"):
        torch.jit.script(converted)


@pytest.mark.parametrize("make", [network, conv_network])
def test_vmap_and_complex_inputs_are_refused_in_one_line(make: Callable[[], nn.Sequential]) -> None:
    inputs = X if make is network else MAPS
    converted = on_ideal(make().eval(), inputs)
    for mapped in converted, converted[0], torch.func.grad(lambda x: converted(x).sum()):
        with pytest.raises(InputError, match=r"x: got a tensor that torch.vmap batches; .*give the whole batch"):
            torch.vmap(mapped)(inputs)
    with pytest.raises(InputError, match=r"x: got torch.complex64 .* it must be a floating-point tensor"):
        converted(inputs.to(torch.complex64))


def test_function_transforms_that_do_not_batch_work() -> None:
    model = network()
    converted = on_ideal(model)
    found, wanted = (torch.func.jacrev(m)(X[0]) for m in (converted, model))
    assert torch.allclose(found, wanted, atol=1e-5)


def test_wrapped_models_are_converted_inside() -> None:
    model = network().eval()
    model[0].register_forward_hook(squared)
    wrapped = nn.DataParallel(model)
    wrapped.register_forward_hook(shifted, with_kwargs=True)
    converted = on_ideal(wrapped)
    assert list(find_crossbar_layers(converted)) == ["0", "2"]
    assert_same(converted, wrapped, X)
    around = nn.Sequential(nn.DataParallel(nn.Linear(5, 5)), nn.Linear(5, 2))
    assert_same(on_ideal(around), around, X)
    assert type(around[0]) is nn.DataParallel


def test_compiled_models_are_converted_inside() -> None:
    model = network().eval()
    compiled = torch.compile(model, backend="eager")
    compiled(X)
    inner = nn.Sequential(torch.compile(nn.Linear(5, 6), backend="eager"), nn.Linear(6, 2)).eval()
    inner(X)
    in_place = network().eval()
    in_place.compile(backend="eager")
    in_place(X)
    for given in compiled, inner, in_place:
        converted = on_ideal(given)
        assert len(find_crossbar_layers(converted)) == 2
        wanted = given(X)
        assert (converted(X) - wanted).abs().max() < 1e-5 * wanted.abs().max()
    again = torch.compile(on_ideal(model), backend="eager")
    assert torch.allclose(again(X), model(X), atol=1e-5)


@pytest.mark.parametrize("sizes", [(4, 0), (0, 4)])
@pytest.mark.filterwarnings("ignore:Initializing zero-element tensors")
def test_a_layer_without_weights_stays_digital(sizes: tuple[int, int]) -> None:
    model = nn.ModuleList([nn.Linear(4, 3), nn.Linear(*sizes)])
    arch = Architecture(input_frac_bits=12)
    report = convert(model, arch, IdealEmulator()).conversion
    assert (report.layer("0").where, report.layer("1").where) == ("crossbar", "digital")  # type: ignore[union-attr]
    assert report.layer("1").reason == "it has no weights"  # type: ignore[union-attr]
