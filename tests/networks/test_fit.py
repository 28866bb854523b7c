"""Training and folding of the small networks."""

import json
from pathlib import Path

import pytest
import torch
from torch.nn import functional

from geniex.cli.main import main
from geniex.errors import InputError
from geniex.networks import NETWORKS, FashionCNN, ImageSet, load_images, load_network
from geniex.networks.train import AugmentedBatches, FitConfig, accuracy, augment, train_network


def _stripes(count: int = 64) -> ImageSet:
    """Ten classes that anyone can tell apart: a bright band whose row is the label."""
    labels = torch.arange(count) % 10
    pixels = torch.zeros(count, 1, 28, 28, dtype=torch.uint8)
    for image, label in zip(pixels, labels.tolist(), strict=True):
        image[0, 2 * label + 3 : 2 * label + 6] = 200
    return ImageSet(pixels, labels)


def test_folded_network_computes_the_same(randomised) -> None:
    network, images = randomised("fashion-cnn").double(), torch.rand(5, 1, 28, 28, dtype=torch.float64)
    folded = network.fold()
    assert not any(isinstance(m, torch.nn.BatchNorm2d) for m in folded.modules())
    assert not folded.training
    torch.testing.assert_close(folded(images), network(images), rtol=1e-12, atol=1e-12)


def test_folding_leaves_the_original_and_the_global_randomness_alone(randomised) -> None:
    network, state = randomised("fashion-cnn").train(), torch.get_rng_state()
    before = {k: v.clone() for k, v in network.state_dict().items()}
    network.fold()
    assert network.training
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(v, before[k]) for k, v in network.state_dict().items())


def test_folding_twice_is_told() -> None:
    with pytest.raises(InputError, match="no batch norms left"):
        FashionCNN(batch_norm=False).fold()


def test_every_layer_reads_values_of_one_sign(randomised) -> None:
    network, seen = randomised("fashion-cnn").fold(), []
    for layer in (network.conv1, network.conv2, network.conv3, network.classifier):
        layer.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].min().item()))
    assert network(torch.rand(3, 1, 28, 28)).shape == (3, 10)
    assert len(seen) == 4
    assert min(seen) >= 0


def test_training_learns_a_tiny_set() -> None:
    data = _stripes()
    config = FitConfig(epochs=20, batch=32, shift=0, flip=False)
    images, labels = data.batch(torch.arange(len(data)))
    trained = train_network("fashion-cnn", data, config)
    assert not trained.training
    with torch.no_grad():
        loss = functional.cross_entropy(trained(images), labels).item()
    # Guessing among ten classes costs ln 10 = 2.3.
    assert loss < 1.0
    assert accuracy(trained, data) > 0.9


@pytest.mark.parametrize("name", ["fashion-cnn", "fashion-vgg", "fashion-resnet20"])
def test_same_seed_same_weights_and_global_randomness_untouched(name: str) -> None:
    data, state = _stripes(32), torch.get_rng_state()
    first, again, other = (
        train_network(name, data, FitConfig(epochs=1, batch=16, seed=s)).state_dict() for s in (3, 3, 4)
    )
    assert all(torch.equal(first[k], again[k]) for k in first)
    assert not any(torch.equal(first[k], other[k]) for k in first if k.endswith("weight"))
    assert torch.equal(torch.get_rng_state(), state)


def test_networks_are_trained_into_the_form_that_is_stored() -> None:
    data, config = _stripes(16), FitConfig(epochs=1, batch=8)
    for name in ("fashion-cnn", "fashion-vgg", "fashion-resnet20"):
        trained = train_network(name, data, config)
        assert not trained.training
        NETWORKS[name].stored().load_state_dict(trained.state_dict())


def test_augmentation_moves_and_mirrors_only() -> None:
    generator = torch.Generator().manual_seed(0)
    image = torch.zeros(1, 2, 9, 7)
    image[0, 0, 4, 2], image[0, 1, 4, 2] = 1.0, 2.0
    copies = augment(image.expand(400, -1, -1, -1), shift=2, flip=True, generator=generator)
    assert copies.shape == (400, 2, 9, 7)
    assert torch.equal(copies[:, 1], 2 * copies[:, 0])
    places = {tuple(p) for p in copies[:, 0].nonzero()[:, 1:].tolist()}
    # Column 2 of 7 mirrors to 4; both move by -2..2, so do the rows.
    assert places == {(row, col) for row in range(2, 7) for col in range(0, 7)}
    assert torch.equal(copies.sum((1, 2, 3)), torch.full((400,), 3.0))


def test_augmentation_off_is_exactly_off() -> None:
    images = torch.rand(6, 3, 8, 8)
    assert torch.equal(augment(images, 0, False, torch.Generator()), images)


def test_batches_hold_each_image_once_and_differ_between_passes() -> None:
    data = _stripes(30)
    data.labels = torch.arange(30)
    batches = AugmentedBatches(data, FitConfig(batch=8))
    passes = [torch.cat([labels for _, labels in batches]) for _ in range(2)]
    assert len(batches) == 3
    assert all(len(set(p.tolist())) == 24 for p in passes)
    assert not torch.equal(*passes)


def test_wrong_input_is_told() -> None:
    with pytest.raises(InputError, match="fashion-cnn takes"):
        train_network("fashion-cnn", ImageSet(torch.zeros(300, 3, 32, 32), torch.zeros(300)), FitConfig())
    with pytest.raises(InputError, match=r"batch: got 128.*at most 64"):
        train_network("fashion-cnn", _stripes(), FitConfig())
    with pytest.raises(InputError, match="images: got label 10; fashion-cnn has 10 classes"):
        train_network("fashion-cnn", ImageSet(torch.zeros(300, 1, 28, 28), torch.arange(300) % 11), FitConfig())
    with pytest.raises(InputError, match="networks are fashion-cnn"):
        train_network("resnet", _stripes(), FitConfig())


@pytest.mark.parametrize(
    "wrong",
    [
        {"epochs": 0},
        {"batch": 0},
        {"learning_rate": 0.0},
        {"weight_decay": -1.0},
        {"shift": -1},
    ],
)
def test_configuration_is_checked(wrong: dict) -> None:
    with pytest.raises(InputError, match=next(iter(wrong))):
        FitConfig(**wrong)


def test_configuration_round_trips() -> None:
    config = FitConfig(epochs=3, seed=9)
    assert FitConfig.from_dict(config.to_dict()) == config


@pytest.mark.slow
def test_vgg16_is_fitted_to_the_files_of_cifar(tmp_path: Path, cifar_files) -> None:
    cifar_files(tmp_path, fine=False, each=26)
    words = ["--network", "cifar10-vgg16", "--data", "cifar10", "--data_root", tmp_path, "--epochs", 1, "--out"]
    assert main(["fit", *map(str, words), str(tmp_path / "vgg16")]) == 0
    info = json.loads((tmp_path / "vgg16.json").read_text())["info"]
    assert (info["data"], info["training_images"], info["test_images"]) == ("cifar10", 130, 26)
    network, tests = load_network(tmp_path / "vgg16"), load_images("cifar10", train=False, root=tmp_path)
    assert accuracy(network, tests) == info["accuracy"]
    # One step was made: the running means are no longer 0.
    assert all(m.running_mean.any() for m in network.modules() if isinstance(m, torch.nn.BatchNorm2d))
