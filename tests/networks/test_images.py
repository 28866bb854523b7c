"""Image sets through their real file formats."""

import gzip
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision.datasets

from geniex.errors import FileFormatError, InputError, MissingDependencyError
from geniex.networks import IMAGE_SETS, ImageSet, find_images, images, load_images

TRAIN, TEST = 7, 5


@pytest.fixture(autouse=True)
def nothing_installed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No test reads or writes the user's data."""
    monkeypatch.setattr(images, "DEBIAN_FASHION_MNIST", tmp_path / "debian")
    monkeypatch.setenv("GENIEX_DATA", str(tmp_path / "cache"))


def _idx(values: np.ndarray) -> bytes:
    """The idx format: two zeros, 8 for bytes, the rank, big-endian sizes, values."""
    sizes = b"".join(int(size).to_bytes(4, "big") for size in values.shape)
    return bytes([0, 0, 8, values.ndim]) + sizes + values.astype(np.uint8).tobytes()


def _fashion_files(folder: Path, compress: bool = True) -> dict[str, np.ndarray]:
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    content = {}
    for split, count in (("train", TRAIN), ("t10k", TEST)):
        content[f"{split}-images-idx3-ubyte"] = rng.integers(0, 256, (count, 28, 28))
        content[f"{split}-labels-idx1-ubyte"] = rng.integers(0, 10, count)
    for name, values in content.items():
        path = folder / (f"{name}.gz" if compress else name)
        path.write_bytes(gzip.compress(_idx(values)) if compress else _idx(values))
    return content


def _check_items(data: ImageSet, shape: tuple[int, int, int], classes: int) -> None:
    image, label = data[len(data) - 1]
    assert image.shape == shape == data.shape
    assert image.dtype == torch.float32
    assert isinstance(label, int)
    everything, labels = data.batch(torch.arange(len(data)))
    assert everything.min() >= 0
    assert everything.max() <= 1
    assert labels.min() >= 0
    assert labels.max() < classes
    torch.testing.assert_close(everything[-1], image, rtol=0, atol=0)


@pytest.mark.parametrize("compress", [True, False], ids=["gz", "plain"])
@pytest.mark.parametrize("place", ["root", "torchvision", "debian", "GENIEX_DATA"])
def test_fashion_mnist_is_read_where_it_lies(tmp_path: Path, place: str, compress: bool) -> None:
    root = None if place in ("debian", "GENIEX_DATA") else tmp_path / "data"
    folder = {
        "root": tmp_path / "data",
        "torchvision": tmp_path / "data" / "FashionMNIST" / "raw",
        "debian": tmp_path / "debian",
        "GENIEX_DATA": tmp_path / "cache",
    }[place]
    content = _fashion_files(folder, compress)
    train, test = (load_images("fashion-mnist", train=t, root=root, download=False) for t in (True, False))
    assert (len(train), len(test)) == (TRAIN, TEST)
    _check_items(test, (1, 28, 28), 10)
    expected = torch.from_numpy(content["train-images-idx3-ubyte"][3]).float() / 255
    torch.testing.assert_close(train[3][0][0], expected)
    assert [train[i][1] for i in range(TRAIN)] == content["train-labels-idx1-ubyte"].tolist()
    assert find_images("fashion-mnist", root) == str(folder)


def test_fashion_mnist_agrees_with_torchvision(tmp_path: Path) -> None:
    _fashion_files(tmp_path / "FashionMNIST" / "raw", compress=False)
    theirs = torchvision.datasets.FashionMNIST(tmp_path, train=True)
    ours = load_images("fashion-mnist", train=True, root=tmp_path)
    assert torch.equal(ours.pixels[:, 0], theirs.data)
    assert torch.equal(ours.labels, theirs.targets)


@pytest.mark.skipif(
    not Path("/usr/share/datasets/fashion-mnist").is_dir(), reason="needs the package dataset-fashion-mnist"
)
def test_fashion_mnist_of_the_debian_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images, "DEBIAN_FASHION_MNIST", Path("/usr/share/datasets/fashion-mnist"))
    data = load_images("fashion-mnist", train=False, download=False)
    _check_items(data, (1, 28, 28), 10)
    assert torch.bincount(data.labels).tolist() == [1000] * 10


def test_digits_split_is_whole_and_disjoint() -> None:
    sklearn_datasets = pytest.importorskip("sklearn.datasets")
    train, test = (load_images("digits", train=t) for t in (True, False))
    _check_items(train, (1, 8, 8), 10)
    theirs = sklearn_datasets.load_digits()
    assert len(train) + len(test) == len(theirs.target)
    ours = torch.cat([train.pixels, test.pixels]).double().sum()
    assert ours == theirs.images.sum()
    torch.testing.assert_close(test[0][0][0].double(), torch.from_numpy(theirs.images[4]) / 16)


@pytest.mark.parametrize("fine", [False, True], ids=["cifar10", "cifar100"])
def test_cifar_batches_are_read(tmp_path: Path, fine: bool, cifar_files) -> None:
    content = cifar_files(tmp_path, fine)
    name, test_key = ("cifar100", "test_list/test") if fine else ("cifar10", "test_list/test_batch")
    train, test = (load_images(name, train=t, root=tmp_path, download=False) for t in (True, False))
    assert (len(train), len(test)) == (3 if fine else 15, 3)
    _check_items(train, (3, 32, 32), 100 if fine else 10)
    # CIFAR's rows are the red plane, then green, then blue, each 32x32.
    expected = torch.from_numpy(content[test_key][1].reshape(3, 32, 32)).float() / 255
    torch.testing.assert_close(test[1][0], expected)
    assert test.labels.tolist() == content[f"{test_key}/labels"].tolist()
    assert find_images(name, tmp_path) is not None


def test_damaged_cifar_is_refused(tmp_path: Path, cifar_files) -> None:
    cifar_files(tmp_path, fine=False)
    with (tmp_path / "cifar-10-batches-py" / "data_batch_2").open("ab") as file:
        file.write(b"x")
    with pytest.raises(MissingDependencyError, match=r"cifar10.*corrupted"):
        load_images("cifar10", train=True, root=tmp_path, download=False)


@pytest.mark.parametrize("damage", ["half a gzip", "no gzip", "foreign idx", "half the values", "empty", "count"])
def test_damaged_idx_files_are_told(tmp_path: Path, damage: str) -> None:
    content = _fashion_files(tmp_path / "data")
    path = tmp_path / "data" / "train-images-idx3-ubyte.gz"
    whole, plain = path.read_bytes(), _idx(content["train-images-idx3-ubyte"])
    path.write_bytes(
        {
            "half a gzip": whole[: len(whole) // 2],
            "no gzip": b"<html>404</html>",
            "foreign idx": gzip.compress(b"\0\0\x0d" + plain[3:]),
            "half the values": gzip.compress(plain[: len(plain) // 2]),
            "empty": gzip.compress(b""),
            "count": gzip.compress(_idx(content["train-images-idx3-ubyte"][:-1])),
        }[damage]
    )
    with pytest.raises(FileFormatError, match="data"):
        load_images("fashion-mnist", train=True, root=tmp_path / "data", download=False)


@pytest.mark.parametrize("name", ["fashion-mnist", "cifar10", "cifar100"])
def test_missing_data_set_names_place_and_way_out(name: str, tmp_path: Path) -> None:
    assert find_images(name, tmp_path) is None
    with pytest.raises(MissingDependencyError, match=f"{name}.*{tmp_path}.*download") as raised:
        load_images(name, train=True, root=tmp_path, download=False)
    assert ("dataset-fashion-mnist" in str(raised.value)) == (name == "fashion-mnist")


def test_failed_download_is_a_missing_data_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_network(*args: object, **kwargs: object) -> None:
        raise OSError("Name or service not known")

    monkeypatch.setattr("urllib.request.urlopen", no_network)
    with pytest.raises(MissingDependencyError, match=r"cifar10.*Name or service not known"):
        load_images("cifar10", train=True, root=tmp_path)


@pytest.mark.parametrize("function", [lambda n: load_images(n, train=True), find_images])
def test_unknown_data_set_lists_the_known(function) -> None:
    with pytest.raises(InputError, match=", ".join(IMAGE_SETS)):
        function("imagenet")


def test_subset_is_seeded_and_without_repeats() -> None:
    data = ImageSet(torch.arange(50, dtype=torch.uint8).reshape(50, 1, 1, 1), torch.arange(50))
    first, again, other = data.subset(20, seed=1), data.subset(20, seed=1), data.subset(20, seed=2)
    assert torch.equal(first.labels, again.labels)
    assert not torch.equal(first.labels, other.labels)
    assert len(set(first.labels.tolist())) == 20
    assert torch.equal(first.pixels.flatten().long(), first.labels)
    with pytest.raises(InputError, match=r"count: got 51.*1 to 50"):
        data.subset(51)
