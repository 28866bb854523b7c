"""Labelled image sets as tensors: Fashion-MNIST, scikit-learn's digits, CIFAR-10 and CIFAR-100."""

from __future__ import annotations

import gzip
import os
import zlib
from collections.abc import Callable, Iterable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from geniex.errors import FileFormatError, InputError, MissingDependencyError

DEBIAN_FASHION_MNIST = Path("/usr/share/datasets/fashion-mnist")
"""The folder into which the Debian package dataset-fashion-mnist puts its files."""


class ImageSet(Dataset[tuple[Tensor, int]]):
    """Images (count, C, H, W) and their labels in memory; item i is (float32 image in [0, 1], int label).

    Args:
        pixels: the images, uint8 (count, C, H, W).
        labels: their labels, int64 (count,).
        full_scale: the pixel value that becomes 1.0.
    """

    def __init__(self, pixels: Tensor, labels: Tensor, full_scale: int = 255) -> None:
        self.pixels, self.labels, self.full_scale = pixels, labels, full_scale

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.pixels[index].float() / self.full_scale, int(self.labels[index])

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W) of every image."""
        channels, height, width = self.pixels.shape[1:]
        return channels, height, width

    def batch(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """The images (len(indices), C, H, W), float32 in [0, 1], and int64 labels at ``indices``, gathered at once."""
        return self.pixels[indices].float() / self.full_scale, self.labels[indices]

    def subset(self, count: int, seed: int = 0) -> ImageSet:
        """A set of ``count`` images drawn without replacement; the same seed gives the same images."""
        if not 1 <= count <= len(self):
            raise InputError("count", count, f"it must be 1 to {len(self)}, the number of images in the set")
        chosen = torch.randperm(len(self), generator=torch.Generator().manual_seed(seed))[:count]
        return ImageSet(self.pixels[chosen], self.labels[chosen], self.full_scale)


class MovedBatches:
    """Batches of another loader, moved to a device."""

    def __init__(self, loader: Iterable[tuple[Tensor, Tensor]], device: torch.device) -> None:
        self.loader, self.device = loader, device

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        for images, labels in self.loader:
            yield images.to(self.device), labels.to(self.device)


def data_root() -> Path:
    """The folder of downloaded data: ``$GENIEX_DATA``, or ``~/.cache/geniex``."""
    return Path(os.environ.get("GENIEX_DATA") or Path.home() / ".cache" / "geniex")


def load_images(name: str, train: bool, root: Path | None = None, download: bool = True) -> ImageSet:
    """The training or the test images of a data set, float32 in [0, 1] with int labels.

    Args:
        name: "fashion-mnist" (1x28x28), "digits" (1x8x8), "cifar10" or "cifar100" (3x32x32).
        train: load the training images, else the test images. "digits" has no split of its own: every fifth
            image is a test image.
        root: folder that holds the data or receives the download; None means ``data_root()``. Fashion-MNIST is also
            looked for in the Debian package dataset-fashion-mnist.
        download: fetch a set that is not on this machine.

    Raises:
        MissingDependencyError: the set is not on this machine and cannot be downloaded.
        FileFormatError: the files of the set are damaged.
    """
    if name not in _LOADERS:
        raise InputError("data set", repr(name), f"the data sets are {', '.join(_LOADERS)}")
    return _LOADERS[name](name, train, data_root() if root is None else Path(root), download)


def find_images(name: str, root: Path | None = None) -> str | None:
    """The place of the data set on this machine, or None; this reads no data and downloads nothing."""
    if name not in _LOADERS:
        raise InputError("data set", repr(name), f"the data sets are {', '.join(_LOADERS)}")
    base = data_root() if root is None else Path(root)
    if name == "digits":
        return "scikit-learn" if find_spec("sklearn") else None
    if name == "fashion-mnist":
        folder = _fashion_mnist_folder(base)
        return None if folder is None else str(folder)
    folder = base / _CIFAR_FOLDERS[name]
    return str(folder) if folder.is_dir() else None


def _fashion_mnist(name: str, train: bool, root: Path, download: bool) -> ImageSet:
    folder = _fashion_mnist_folder(root)
    if folder is None:
        from torchvision.datasets import FashionMNIST

        places = f"{root} and {DEBIAN_FASHION_MNIST}"
        _fetched(lambda: FashionMNIST(root, download=download), name, places)
        folder = root / "FashionMNIST" / "raw"
    split = "train" if train else "t10k"
    images, labels = (
        _read_idx(folder, f"{split}-images-idx3-ubyte"),
        _read_idx(folder, f"{split}-labels-idx1-ubyte"),
    )
    if len(images) != len(labels):
        raise FileFormatError(
            f"{folder}: the {split} set has {len(images)} images but {len(labels)} labels: fetch the data set again"
        )
    return ImageSet(images.unsqueeze(1), labels.long())


def _fashion_mnist_folder(root: Path) -> Path | None:
    stems = [f"{s}-{k}-ubyte" for s in ("train", "t10k") for k in ("images-idx3", "labels-idx1")]
    for folder in (root, root / "FashionMNIST" / "raw", DEBIAN_FASHION_MNIST):
        if all((folder / f"{s}.gz").is_file() or (folder / s).is_file() for s in stems):
            return folder
    return None


def _read_idx(folder: Path, stem: str) -> Tensor:
    """The uint8 tensor of an idx file, which holds 2 zero bytes, type 8, the rank, big-endian sizes, and the values."""
    path = folder / f"{stem}.gz"
    path = path if path.is_file() else folder / stem
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            content = file.read()
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise FileFormatError(f"{path} is damaged ({error}): delete it and fetch the data set again") from error
    rank = content[3] if content[:3] == b"\0\0\x08" and len(content) > 3 else 0
    sizes = np.frombuffer(content[4 : 4 + 4 * rank], ">u4").astype(int)
    values = np.frombuffer(content[4 + 4 * rank :], np.uint8)
    if rank == 0 or len(sizes) != rank or values.size != sizes.prod():
        raise FileFormatError(f"{path} is not a complete idx file of bytes: delete it and fetch the data set again")
    return torch.from_numpy(values.reshape(sizes).copy())


def _digits(name: str, train: bool, root: Path, download: bool) -> ImageSet:
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise MissingDependencyError("scikit-learn", "the data set 'digits'", "pip install scikit-learn") from error
    data = load_digits()
    chosen = (np.arange(len(data.target)) % 5 == 4) != train
    pixels = torch.from_numpy(data.images[chosen].astype(np.uint8)).unsqueeze(1)
    return ImageSet(pixels, torch.from_numpy(data.target[chosen]).long(), full_scale=16)


_CIFAR_FOLDERS = {"cifar10": "cifar-10-batches-py", "cifar100": "cifar-100-python"}


def _cifar(name: str, train: bool, root: Path, download: bool) -> ImageSet:
    from torchvision.datasets import CIFAR10, CIFAR100

    kind = CIFAR10 if name == "cifar10" else CIFAR100
    # torchvision checks the files' MD5 sums, so it refuses a damaged set and downloads it again.
    data = _fetched(lambda: kind(root, train=train, download=download), name, str(root / _CIFAR_FOLDERS[name]))
    pixels = torch.from_numpy(data.data).permute(0, 3, 1, 2).contiguous()
    return ImageSet(pixels, torch.tensor(data.targets))


def _fetched(get: Callable[[], Any], name: str, places: str) -> Any:
    """The result of ``get``; torchvision's errors for absent or damaged files, or no network, are turned into ours."""
    try:
        return get()
    except (RuntimeError, OSError) as error:
        debian = "install the Debian package dataset-fashion-mnist, or " if name == "fashion-mnist" else ""
        raise MissingDependencyError(
            f"data set {name!r} in {places}",
            "its images",
            f"{debian}download it into that folder, or set GENIEX_DATA to the folder that holds it ({error})",
        ) from error


_LOADERS: dict[str, Callable[[str, bool, Path, bool], ImageSet]] = {
    "fashion-mnist": _fashion_mnist,
    "digits": _digits,
    "cifar10": _cifar,
    "cifar100": _cifar,
}

IMAGE_SETS = tuple(_LOADERS)
"""Names of the sets that ``load_images`` loads."""
