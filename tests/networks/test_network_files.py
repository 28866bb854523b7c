"""Networks on disk, the shipped one among them."""

import json
from pathlib import Path

import pytest
import torch

from geniex.errors import CheckpointError, GeniexError, InputError
from geniex.files import write_sealed_json
from geniex.networks import (
    NETWORKS,
    FashionCNN,
    find_images,
    load_images,
    load_network,
    network_info,
    save_network,
    shipped_networks,
)
from geniex.networks.train import accuracy
from geniex.shipped import shipped_file


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    save_network("fashion-cnn", FashionCNN().fold(), tmp_path / "net", {"accuracy": 0.5})
    return tmp_path / "net"


def test_saved_network_comes_back(tmp_path: Path) -> None:
    torch.manual_seed(1)
    network, images = FashionCNN().fold(), torch.rand(2, 1, 28, 28)
    paths = save_network("fashion-cnn", network, tmp_path / "deep" / "net", {"accuracy": 0.25})
    for path in ("net", "net.json", "net.safetensors"):
        again = load_network(tmp_path / "deep" / path)
        assert not again.training
        assert torch.equal(again(images), network(images))
    assert network_info(tmp_path / "deep" / "net") == {"accuracy": 0.25}
    assert sorted(p.name for p in (tmp_path / "deep").iterdir()) == ["net.json", "net.safetensors"]
    assert sorted(paths) == sorted((tmp_path / "deep").iterdir())


@pytest.mark.parametrize("name", NETWORKS)
def test_every_network_comes_back_to_the_bit(name: str, tmp_path: Path, randomised) -> None:
    network = NETWORKS[name].finish(randomised(name))
    images = torch.rand(2, *network.input_shape)
    save_network(name, network, tmp_path / "net", {})
    state = torch.get_rng_state()
    again = load_network(tmp_path / "net")
    assert torch.equal(torch.get_rng_state(), state)
    assert not again.training
    assert [str(module) for module in again.modules()] == [str(module) for module in network.modules()]
    assert torch.equal(again(images), network(images))
    norms = [module for module in again.modules() if isinstance(module, torch.nn.BatchNorm2d)]
    assert bool(norms) == (name != "fashion-cnn")
    assert all(norm.running_var.std() > 0 for norm in norms)


def test_bytes_are_the_same_each_time(tmp_path: Path, saved: Path) -> None:
    save_network("fashion-cnn", load_network(saved), tmp_path / "other", network_info(saved))
    for suffix in (".json", ".safetensors"):
        assert saved.with_suffix(suffix).read_bytes() == (tmp_path / "other").with_suffix(suffix).read_bytes()


def _described(saved: Path, **changes: object) -> None:
    path = saved.with_suffix(".json")
    write_sealed_json(path, json.loads(path.read_text()) | changes)


DAMAGE = {
    "truncated weights": lambda p: p.with_suffix(".safetensors").write_bytes(b"\x10\0\0"),
    "no weights": lambda p: p.with_suffix(".safetensors").unlink(),
    "no description": lambda p: p.with_suffix(".json").unlink(),
    "half a description": lambda p: p.with_suffix(".json").write_text('{"format": "geniex-net'),
    "binary description": lambda p: p.with_suffix(".json").write_bytes(b"\xff\xfe\x00"),
    "a list": lambda p: p.with_suffix(".json").write_text("[]"),
    "foreign": lambda p: p.with_suffix(".json").write_text("{}"),
    "newer": lambda p: _described(p, schema_version=2),
    "changed": lambda p: p.with_suffix(".json").write_text(p.with_suffix(".json").read_text().replace("net", "met", 1)),
    "unknown network": lambda p: _described(p, network="resnet"),
    "networks": lambda p: _described(p, network=["fashion-cnn"]),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damaged_files_are_told_by_path(saved: Path, damage: str) -> None:
    DAMAGE[damage](saved)
    with pytest.raises(CheckpointError, match="net"):
        load_network(saved)


def test_weights_of_another_architecture_are_told(tmp_path: Path) -> None:
    save_network("fashion-cnn", FashionCNN(batch_norm=True).eval(), tmp_path / "unfolded", {})
    with pytest.raises(CheckpointError, match=r"(?s)unfolded.* does not hold a fashion-cnn: .*norm1"):
        load_network(tmp_path / "unfolded")
    save_network("cifar100-resnet20", NETWORKS["cifar10-resnet20"].make(), tmp_path / "ten", {})
    with pytest.raises(CheckpointError, match=r"(?s)ten.* does not hold a cifar100-resnet20: .*classifier"):
        load_network(tmp_path / "ten")


def test_unknown_names_are_told() -> None:
    with pytest.raises(
        InputError, match=r"network: got 'no-such-net'; no such file; the shipped networks are fashion-cnn"
    ):
        load_network("no-such-net")
    with pytest.raises(InputError, match=r"network: got 'physics'; no such file; the shipped networks are fashion-cnn"):
        load_network("physics")  # a surrogate that ships
    with pytest.raises(GeniexError, match="is missing"):
        load_network("no/such/net")
    with pytest.raises(InputError, match="networks are fashion-cnn"):
        save_network("no-such-net", FashionCNN().fold(), Path("net"), {})


def test_shipped_networks_are_told_by_their_names(monkeypatch: pytest.MonkeyPatch) -> None:
    there = ["fashion-cnn.json", "fashion-vgg-10.json", "fashion-vgg-2.json", "fashion-vgg-x.json", "physics.json"]
    monkeypatch.setattr("geniex.networks.checkpoint.shipped_names", lambda suffix="": there)
    assert shipped_networks() == ["fashion-cnn", "fashion-vgg-10", "fashion-vgg-2"]


def test_the_study_networks_ship() -> None:
    studied = [f"{kind}-{seed}" for kind in ("fashion-resnet20", "fashion-vgg") for seed in range(3)]
    assert set(studied) <= set(shipped_networks())
    for name in studied:
        assert network_info(name)["accuracy"] >= 0.91
        assert network_info(name)["settings"]["seed"] == int(name[-1])
        assert shipped_file(f"{name}.safetensors").stat().st_size < 5e6


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["fashion-cnn", "fashion-vgg-0", "fashion-vgg-1", "fashion-vgg-2", "fashion-resnet20-2"]
)
def test_shipped_network_is_as_accurate_as_its_card_says(name: str) -> None:
    info = network_info(name)
    if find_images("fashion-mnist") is None:
        pytest.skip("needs Fashion-MNIST")
    images = load_images("fashion-mnist", train=False).subset(2000, seed=0)
    # Four standard errors of a share estimated on 2000 of the 10000 images.
    assert abs(accuracy(load_network(name), images) - info["accuracy"]) < 0.025
    card = shipped_file(f"{name.rstrip('012').rstrip('-')}.md").read_text()
    assert f"{100 * info['accuracy']:.2f}" in card


def test_shipped_network_survives_eight_bits() -> None:
    """8 bits with the sign and power-of-two steps cost less than 0.3 points."""
    if find_images("fashion-mnist") is None:
        pytest.skip("needs Fashion-MNIST")
    images = load_images("fashion-mnist", train=False).subset(4000, seed=0)
    network, coarse = load_network("fashion-cnn"), load_network("fashion-cnn")
    calibration = load_images("fashion-mnist", train=True).subset(500, seed=0)
    _quantise(coarse, calibration.batch(torch.arange(500))[0])
    assert accuracy(network, images) - accuracy(coarse, images) < 0.003


def _quantise(network: FashionCNN, calibration: torch.Tensor) -> None:
    """Round weights and layer inputs to 7 bits and a sign, each layer at its own power-of-two step."""

    def rounded(values: torch.Tensor, top: float) -> torch.Tensor:
        step = 2.0 ** (torch.tensor(top).log2().ceil().item() - 7)
        return (values / step).round().clamp(-127, 127) * step

    layers = (network.conv1, network.conv2, network.conv3, network.classifier)
    tops: dict[torch.nn.Module, float] = {}
    hooks = [m.register_forward_pre_hook(lambda m, x: tops.update({m: x[0].max().item()})) for m in layers]
    with torch.no_grad():
        network(calibration)
        for hook in hooks:
            hook.remove()
        for layer in layers:
            layer.weight.copy_(rounded(layer.weight, layer.weight.abs().max().item()))
            layer.register_forward_pre_hook(lambda m, x: (rounded(x[0], tops[m]),))
