"""Trained networks on disk: the weights in safetensors, the description in JSON."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from geniex.errors import CheckpointError, InputError
from geniex.files import read_head, write_atomically, write_sealed_json
from geniex.networks.constraint import Constraint
from geniex.networks.widths import Widths, layer_widths, set_widths
from geniex.networks.zoo import NETWORKS, Network, network_kind
from geniex.shipped import shipped_file, shipped_names

FORMAT, SCHEMA_VERSION = "geniex-network", 1
_VARIANT = r"(-\d+)?(-(cf|xcs|xrs))?(-wct)?"
"""Suffix of a shipped network's name, after the architecture: the number of the training, the pruning (cf:
channels and filters, xcs: crossbar-column sparsity, xrs: crossbar-row sparsity), and wct (weight-constrained
training)."""
_MASK = "#mask."
"""Prefix, before a parameter's name, under which its mask is stored; no parameter's name begins so."""


def save_network(
    name: str,
    network: Network,
    path: Path,
    info: dict[str, Any],
    *,
    masks: Mapping[str, Tensor] | None = None,
) -> tuple[Path, Path]:
    """Write a network to ``<path>.safetensors`` and ``<path>.json``, each whole or not at all; returns both paths.

    Args:
        name: its architecture, a key of ``NETWORKS``; layers may have other widths, which the JSON file then records.
        network: the network in the form that is stored; a "fashion-cnn" is stored with its batch norms folded.
        path: the common stem of both files.
        info: JSON-ready facts about the network, such as its accuracy and training settings.
        masks: the masks of pruned parameters, by parameter name: bool, False where the parameter is always 0.
    """
    Constraint(masks=masks or {}).check(network)
    tensors = network.state_dict() | {_MASK + key: mask for key, mask in (masks or {}).items()}
    weights = safetensors.torch.save({k: v.cpu().contiguous() for k, v in tensors.items()})
    widths = _other_widths(name, network)
    description = {
        "format": FORMAT,
        "schema_version": SCHEMA_VERSION,
        "network": name,
        **({"widths": widths} if widths else {}),
        "sha256": hashlib.sha256(weights).hexdigest(),
        "info": info,
    }
    weights_path, json_path = _paths(path)
    weights_path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(weights_path, weights)
    write_sealed_json(json_path, description, indent=2)
    return weights_path, json_path


def load_network(name_or_path: str | Path) -> Network:
    """The trained network in eval mode, in the form that is stored.

    Args:
        name_or_path: the name of a shipped network, such as "fashion-cnn" or "fashion-vgg-0", or the path of a saved
            network, with or without a suffix.

    Raises:
        InputError: there is neither such a file nor such a shipped network; the message lists the shipped ones.
        CheckpointError: a file is missing, damaged, or of another format.
    """
    weights_path, json_path = _located(name_or_path)
    description, tensors = _description(name_or_path), _tensors(name_or_path)
    # The initial weights are overwritten, so drawing them must not advance the caller's random generator.
    with torch.random.fork_rng(devices=[]):
        network = NETWORKS[description["network"]].stored()
    try:
        set_widths(network, description.get("widths", {}))
    except (InputError, AttributeError) as error:
        raise CheckpointError(
            f"{json_path} has layer widths that do not fit a {description['network']}: {error}"
        ) from error
    try:
        network.load_state_dict({key: value for key, value in tensors.items() if not key.startswith(_MASK)})
    except RuntimeError as error:
        raise CheckpointError(f"{weights_path} does not hold a {description['network']}: {error}") from error
    return network.eval()


def network_masks(name_or_path: str | Path) -> dict[str, Tensor]:
    """The masks that were saved with the network, by parameter name: bool, False where the parameter is always 0.

    A network that was not pruned, or pruned only by whole channels and filters (C/F), has no masks. Arguments and
    errors are those of ``load_network``.
    """
    tensors = _tensors(name_or_path)
    return {key.removeprefix(_MASK): mask for key, mask in tensors.items() if key.startswith(_MASK)}


def network_name(name_or_path: str | Path) -> str:
    """The architecture of the saved network, a key of ``NETWORKS``."""
    return _description(name_or_path)["network"]


def network_info(name_or_path: str | Path) -> dict[str, Any]:
    """The facts that were saved with the network, such as its accuracy and training settings."""
    return _description(name_or_path)["info"]


def shipped_networks() -> list[str]:
    """The names of the trained networks that ship, sorted."""
    stems = (name.removesuffix(".json") for name in shipped_names(".json"))
    return sorted(stem for stem in stems if any(re.fullmatch(rf"{kind}{_VARIANT}", stem) for kind in NETWORKS))


def _other_widths(name: str, network: Network) -> Widths:
    """The layer widths in which ``network`` differs from its architecture; empty for a network of another task.

    A task is the shape of the images and the number of classes.
    """
    with torch.random.fork_rng(devices=[]):
        usual = network_kind(name).stored()
    if (network.input_shape, network.classes) != (usual.input_shape, usual.classes):
        return {}
    known = layer_widths(usual)
    return {layer: sizes for layer, sizes in layer_widths(network).items() if sizes != known.get(layer, sizes)}


def _tensors(name_or_path: str | Path) -> dict[str, Tensor]:
    """All tensors in the file of the weights."""
    weights_path, _ = _located(name_or_path)
    description, weights = _description(name_or_path), _read(weights_path)
    if hashlib.sha256(weights).hexdigest() != description["sha256"]:
        raise CheckpointError(
            f"{weights_path} is damaged, or does not belong to its JSON file: train or fetch it again"
        )
    try:
        return safetensors.torch.load(weights)
    except safetensors.SafetensorError as error:
        raise CheckpointError(f"{weights_path} does not hold a {description['network']}: {error}") from error


def _paths(path: Path) -> tuple[Path, Path]:
    stem = path.with_suffix("") if path.suffix in (".safetensors", ".json") else path
    return stem.with_name(stem.name + ".safetensors"), stem.with_name(stem.name + ".json")


def _located(name_or_path: str | Path) -> tuple[Path, Path]:
    path = Path(name_or_path)
    weights, description = _paths(path)
    if weights.is_file() or description.is_file() or len(path.parts) != 1:
        return weights, description
    shipped = shipped_networks()
    if weights.name.removesuffix(".safetensors") not in shipped:
        raise InputError(
            "network",
            repr(str(name_or_path)),
            f"no such file; the shipped networks are {', '.join(shipped) or 'none'}",
        )
    return shipped_file(weights.name), shipped_file(description.name)


def _description(name_or_path: str | Path) -> dict[str, Any]:
    path = _located(name_or_path)[1]
    what, way_out = "a geniex network", "train or fetch it again"
    description = read_head(path, FORMAT, SCHEMA_VERSION, what=what, way_out=way_out, error=CheckpointError)
    if description.get("network") not in list(NETWORKS):
        known = ", ".join(NETWORKS)
        raise CheckpointError(
            f"{path} holds the network {description.get('network')!r}; this version of geniex has {known}"
        )
    missing = {"sha256", "info"} - set(description)
    if missing:
        raise CheckpointError(f"{path} lacks {', '.join(sorted(missing))}: train or fetch it again")
    return description


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read ({error.strerror}): train or fetch it again") from error
