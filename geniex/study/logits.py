"""Logits of long runs, kept batch by batch, so that a killed study can go on from there."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from geniex.errors import FileFormatError, InputError
from geniex.files import digest_tensors, read_tensors, write_tensors
from geniex.simulator.arguments import Arguments, Examples, logits_of
from geniex.simulator.batches import LabelledData, labelled_batches


class Network(Protocol):
    """Anything that gives logits."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """The logits (images, classes), as a tensor or as the attribute ``.logits`` of the output."""


@dataclass(frozen=True)
class Logits:
    """The logits that a network gave for some images."""

    values: Tensor
    """Logits (images, classes)."""
    seconds: float
    """Seconds spent on them, over all runs."""


class LogitStore:
    """The logits of each stage in its own file under ``folder``; without a folder nothing is kept.

    The ``key`` of a file identifies one stage of one study: anything that changes the logits must be part of the key.
    """

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)

    def run(
        self,
        stage: str,
        key: str,
        build: Callable[[], Network],
        images: Tensor | Examples,
        batch: int,
        progress: Callable[[int, int], None] = lambda done, total: None,
    ) -> Logits:
        """The logits of ``build()`` for ``images``, a tensor (count, ...) or the examples of a model of several inputs.

        Images whose logits are already kept are not run again. ``build`` is only called if images are left, and its
        time is not counted. A file that cannot be read counts as missing.
        """
        images = Examples([Arguments((images,))]) if isinstance(images, Tensor) else images
        found = self._load(stage, key)
        done = 0 if found is None else min(len(found.values), len(images))
        parts = [] if found is None else [found.values[:done].to(images.device)]
        seconds = 0.0 if found is None else found.seconds * done / len(found.values)
        if done:
            progress(done, len(images))
        if done < len(images):
            network = build()
            for part in images[done:].split(batch):
                values, took = _timed(network, part)
                parts.append(values.to(parts[0].dtype) if parts else values)
                seconds, done = seconds + took, done + len(part)
                self._keep(stage, key, Logits(torch.cat(parts), seconds))
                progress(done, len(images))
        return Logits(torch.cat(parts).to(images.device), seconds)

    def _path(self, stage: str, key: str) -> Path | None:
        name = "".join(c if c.isalnum() or c in "-_" else "-" for c in stage)
        return None if self._folder is None else self._folder / f"{name}-{key[:16]}.safetensors"

    def _load(self, stage: str, key: str) -> Logits | None:
        path = self._path(stage, key)
        try:
            tensors = read_tensors(path) if path is not None else {}
            return Logits(tensors["logits"], float(tensors["seconds"])) if len(tensors["logits"]) else None
        except (FileFormatError, KeyError):  # the file is missing, incomplete, changed or foreign
            return None

    def _keep(self, stage: str, key: str, logits: Logits) -> None:
        path = self._path(stage, key)
        if path is not None:
            seconds = torch.tensor(logits.seconds, dtype=torch.float64)
            write_tensors(path, {"logits": logits.values, "seconds": seconds})


def gathered(loader: LabelledData, model: nn.Module | None = None) -> tuple[Examples, Tensor]:
    """All images of a loader and their labels (count,).

    ``labelled_batches`` defines how the loader is read for ``model``.

    Raises:
        InputError: ``labelled_batches`` refuses the loader, there is no image, or not each image has one label.
    """
    inputs, labels = map(list, zip(*labelled_batches(loader, model, "loader"), strict=True))
    for given, told in zip(inputs, labels, strict=True):
        if told.shape != (len(given),):
            shape = f"a batch of {len(given)} images and labels {tuple(told.shape)}"
            raise InputError("loader", shape, "it must give one label for each image")
    images = Examples(inputs)
    if not len(images):
        raise InputError("loader", "no image", "it must give at least one image")
    return images, torch.cat(labels)


def logits_of_part(part: Arguments, network: Network) -> Tensor:
    """The logits (images, classes) that ``network`` gives for some images."""
    logits = logits_of(part.run(network))
    if logits.dim() != 2 or len(logits) != len(part):
        allowed = "it must give logits (images, classes)"
        raise InputError("model", f"an output {tuple(logits.shape)} for {len(part)} images", allowed)
    return logits


def digest(*parts: Any) -> str:
    """The SHA-256 (hex) of tensors, dictionaries of tensors, arguments of models, and JSON-ready values."""
    hashed = hashlib.sha256()
    for part in parts:
        if isinstance(part, (Arguments, Examples)):
            hashed.update(digest(part.tensors(), part.others()).encode())
            continue
        tensors = {"": part} if isinstance(part, Tensor) else part
        if isinstance(tensors, dict) and tensors and all(isinstance(x, Tensor) for x in tensors.values()):
            hashed.update(digest_tensors(tensors).encode())
        else:
            hashed.update(json.dumps(part, sort_keys=True).encode())
    return hashed.hexdigest()


def _timed(network: Network, images: Arguments) -> tuple[Tensor, float]:
    began = time.perf_counter()
    values = logits_of_part(images, network)
    if images.device.type == "cuda":
        torch.cuda.synchronize(images.device)
    return values, time.perf_counter() - began
