"""Networks far from their initial state, and data sets in their real format."""

from __future__ import annotations

import hashlib
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision.datasets
from torch import nn

from geniex.networks import NETWORKS


@pytest.fixture
def randomised():
    """Makes an untrained network by its name, in eval mode, whose batch norms are far from the identity."""

    def make(name: str) -> nn.Module:
        torch.manual_seed(0)
        network = NETWORKS[name].make().eval()
        for norm in network.modules():
            if isinstance(norm, nn.BatchNorm2d):
                for tensor in (norm.weight, norm.running_var):
                    nn.init.uniform_(tensor, 0.5, 2.0)
                for tensor in (norm.bias, norm.running_mean):
                    nn.init.uniform_(tensor, -1.0, 1.0)
        return network

    return make


@pytest.fixture
def cifar_files(monkeypatch: pytest.MonkeyPatch):
    """Writes small pickled batches laid out as CIFAR's authors do, and sets torchvision's MD5 table to them."""

    def write(root: Path, fine: bool, each: int = 3) -> dict[str, np.ndarray]:
        kind = torchvision.datasets.CIFAR100 if fine else torchvision.datasets.CIFAR10
        folder = root / kind.base_folder
        folder.mkdir(parents=True)
        rng = np.random.default_rng(1)
        key, classes = ("fine_labels", 100) if fine else ("labels", 10)
        tables, content = {}, {}
        for table in ("train_list", "test_list"):
            entries = []
            for name, _ in getattr(kind, table):
                data = rng.integers(0, 256, (each, 3 * 32 * 32), dtype=np.uint8)
                labels = rng.integers(0, classes, each).tolist()
                entries.append([name, _pickled(folder / name, {"data": data, key: labels})])
                content[f"{table}/{name}"] = data
                content[f"{table}/{name}/labels"] = np.array(labels)
            tables[table] = entries
        names = {kind.meta["key"]: [f"class {i}" for i in range(classes)]}
        meta = kind.meta | {"md5": _pickled(folder / kind.meta["filename"], names)}
        for name, value in (tables | {"meta": meta}).items():
            monkeypatch.setattr(kind, name, value)
        return content

    return write


def _pickled(path: Path, content: object) -> str:
    path.write_bytes(pickle.dumps(content))
    return hashlib.md5(path.read_bytes()).hexdigest()
