"""The software, devices, data sets and models on this machine, and the features that lack one."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import torch

import geniex
from geniex.circuit.spice import ngspice_version
from geniex.distribution import NAME, find_strangers, install_hint
from geniex.networks import find_images
from geniex.networks.images import data_root
from geniex.shipped import models_dir, shipped_names


@dataclass(frozen=True)
class Finding:
    """One item that geniex can use, found or missing."""

    kind: str
    """Kind of the item: "software", "conflict", "device", "data set" or "shipped model"."""
    name: str
    found: str | None
    """Version, size or place of the item; None if it is missing."""
    needed_for: str
    way_out: str = ""
    """Instructions to get the item, if it can be missing."""


def examine(root: Path | None = None) -> list[Finding]:
    """A finding for everything that geniex can use; nothing is downloaded or changed.

    Args:
        root: folder that is searched for data sets; None means the usual one.
    """
    return [*_software(), *_conflicts(), *_devices(), *_data_sets(root), *_models()]


def _software() -> Iterator[Finding]:
    yield Finding("software", "python", platform.python_version(), "everything")
    yield Finding("software", NAME, geniex.__version__, "everything")
    yield Finding("software", "torch", torch.__version__, "everything")
    yield _package("lightning", "geniex train, geniex fit", install_hint())
    yield Finding(
        "software",
        "ngspice library",
        ngspice_version(),
        "checks against SPICE: method='ngspice', geniex sweep --verify; all else uses the native solver",
        f"apt-get install ngspice libngspice0-dev (or set NGSPICE_LIBRARY_PATH), {install_hint('spice')}",
    )
    yield _package("PySpice", "driving ngspice", install_hint("spice"))
    yield _package("ray", "sweeps, predictions and studies on a cluster (--executor ray)", install_hint("ray"))
    yield _package("matplotlib", "plots and the HTML report's figures", install_hint("plot"))


def _conflicts() -> Iterator[Finding]:
    for stranger in find_strangers():
        needed_for = "nothing: it is another project whose modules are also imported as geniex"
        way_out = (
            f"pip uninstall geniex {NAME}, then install {NAME} again; use one virtual environment for each project"
        )
        yield Finding("conflict", "geniex", stranger, needed_for, way_out)


def _package(name: str, needed_for: str, way_out: str) -> Finding:
    try:
        found: str | None = metadata.version(name)
    except metadata.PackageNotFoundError:
        found = None
    return Finding("software", name, found, needed_for, way_out)


def _devices() -> Iterator[Finding]:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    yield Finding("device", "cpu", f"{cores} cores, {torch.get_num_threads()} torch threads", "everything")
    needed_for = "large networks and many images in reasonable time"
    if not torch.cuda.is_available():
        way_out = "an NVIDIA GPU, its driver and a CUDA build of torch"
        yield Finding("device", "cuda", None, needed_for, way_out)
    for index in range(torch.cuda.device_count()):
        card = torch.cuda.get_device_properties(index)
        found = f"{card.name}, {card.total_memory / 2**30:.0f} GiB"
        yield Finding("device", f"cuda:{index}", found, needed_for)


def _data_sets(root: Path | None) -> Iterator[Finding]:
    download = f"downloaded into {data_root() if root is None else root} on first use"
    ways = {
        "fashion-mnist": f"apt-get install dataset-fashion-mnist; else {download}",
        "cifar10": download,
        "cifar100": download,
        "digits": "pip install scikit-learn",
    }
    needs = {"fashion-mnist": "geniex fit, geniex predict, the demo"}
    for name, way_out in ways.items():
        needed_for = needs.get(name, "studies on these images")
        yield Finding("data set", name, find_images(name, root), needed_for, way_out)


def _models() -> Iterator[Finding]:
    names = shipped_names(".safetensors")
    for name in names:
        size = (models_dir() / name).stat().st_size
        stem = name.removesuffix(".safetensors")
        yield Finding("shipped model", stem, f"{size / 1e3:.0f} kB", "loading by name")
    if not names:
        way_out = f"{models_dir()} is empty: install geniex again"
        yield Finding("shipped model", "any", None, "loading surrogates and networks by name", way_out)
