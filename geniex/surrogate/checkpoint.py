"""Surrogates on disk: <name>.safetensors holds the weights and <name>.json all the rest; nothing is pickled."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from geniex import __version__
from geniex.circuit import Crossbar
from geniex.emulator.identity import name_class
from geniex.errors import CheckpointError, InputError
from geniex.files import parse_json, read_head, write_atomically, write_sealed_json
from geniex.mapping import ConductanceWindow
from geniex.shipped import models_dir, shipped_names
from geniex.surrogate.base import Surrogate, find_surrogate_class

FORMAT = "geniex-surrogate"
SCHEMA_VERSION = 1
_WAY_OUT = "train it again (geniex train) or fetch both files again"


def save_surrogate(surrogate: Surrogate, path: str | Path) -> Path:
    """Write ``surrogate`` to ``path``.json and ``path``.safetensors; returns the path of the JSON.

    Both files are written whole and then renamed, the weights first. The JSON holds the weights' SHA-256, so that
    files of two different surrogates never pass for one. float32 weights that are all exact in float16 are stored as
    float16, in half the space, and load as float32 without any change.
    """
    weights_path, json_path = find_checkpoint_paths(path)
    json_path.parent.mkdir(parents=True, exist_ok=True)
    tensors = {name: t.detach().cpu().contiguous() for name, t in surrogate.state_dict().items()}
    singles = [t for t in tensors.values() if t.dtype is torch.float32]
    half = bool(singles) and all(torch.equal(t.half().float(), t) for t in singles)
    stored = {name: _recast(t, torch.float32, torch.float16, half) for name, t in tensors.items()}
    weights = safetensors.torch.save(stored)
    head = {
        "format": FORMAT,
        "schema_version": SCHEMA_VERSION,
        "geniex_version": __version__,
        "type": name_class(type(surrogate)),
        "crossbar": surrogate.crossbar.to_dict(),
        "window": surrogate.window.to_dict(),
        "v_max": surrogate.v_max,
        "settings": surrogate.options(),
        "half": half,
        "weights_sha256": hashlib.sha256(weights).hexdigest(),
        "info": surrogate.info,
    }
    write_atomically(weights_path, weights)
    write_sealed_json(json_path, head, indent=2)
    return json_path


def load_surrogate(name_or_path: Surrogate | str | Path) -> Surrogate:
    """The surrogate, in eval mode, of a checkpoint's path (either file, or without suffix) or of a shipped name.

    A surrogate is returned itself, so that functions may take names and surrogates alike.

    Raises:
        InputError: there is neither such a file nor such a shipped name; the message lists the shipped ones.
        CheckpointError: the checkpoint is damaged or foreign, or its two files do not belong together.
    """
    if isinstance(name_or_path, Surrogate):
        return name_or_path
    if not isinstance(name_or_path, str | Path):
        got = f"an object of type {type(name_or_path).__name__}"
        allowed = "it must be a surrogate, the name of a shipped one, or a checkpoint's path"
        raise InputError("surrogate", got, f"{allowed}; a SurrogateEmulator has its surrogate as .surrogate")
    weights_path, json_path = _find(name_or_path)
    head = _read_head(json_path)
    surrogate = _built(head, json_path)
    weights = _read_bytes(weights_path)
    if hashlib.sha256(weights).hexdigest() != head["weights_sha256"]:
        raise CheckpointError(f"{weights_path} is damaged or does not belong to {json_path.name}: {_WAY_OUT}")
    try:
        tensors = safetensors.torch.load(weights)
    except SafetensorError as error:
        raise CheckpointError(f"{weights_path} is not a safetensors file ({error}): {_WAY_OUT}") from None
    wanted = {name: tuple(t.shape) for name, t in surrogate.state_dict().items()}
    found = {name: tuple(t.shape) for name, t in tensors.items()}
    for name in sorted(wanted.keys() | found.keys()):
        if wanted.get(name) != found.get(name):
            raise CheckpointError(
                f"{weights_path}: tensor {name!r} has shape {found.get(name)}, but {json_path.name} "
                f"describes {wanted.get(name)}: {_WAY_OUT}"
            )
    half = head.get("half", False)  # older checkpoints lack the entry and were never stored as float16
    tensors = {name: _recast(t, torch.float16, torch.float32, half) for name, t in tensors.items()}
    surrogate.load_state_dict(tensors, assign=True)
    return surrogate.eval().requires_grad_(False)


def list_shipped_surrogates() -> list[str]:
    """Names of the shipped surrogates that ``load_surrogate`` takes, sorted."""
    weights = {name.removesuffix(".safetensors") for name in shipped_names(".safetensors")}
    described = {name.removesuffix(".json") for name in shipped_names(".json")}
    return [name for name in sorted(weights & described) if _is_surrogate(models_dir() / f"{name}.json")]


def find_checkpoint_paths(path: str | Path) -> tuple[Path, Path]:
    """Paths of the weights and of the JSON of a checkpoint, which is named by either file or without suffix."""
    stem = str(path).removesuffix(".safetensors").removesuffix(".json")
    return Path(f"{stem}.safetensors"), Path(f"{stem}.json")


def _recast(tensor: Tensor, of: torch.dtype, to: torch.dtype, wanted: bool) -> Tensor:
    return tensor.to(to) if wanted and tensor.dtype is of else tensor


def _find(name_or_path: str | Path) -> tuple[Path, Path]:
    here = find_checkpoint_paths(name_or_path)
    if any(path.exists() for path in here):
        return here
    shipped = list_shipped_surrogates()
    if str(name_or_path) in shipped:
        return find_checkpoint_paths(models_dir() / str(name_or_path))
    raise InputError(
        "surrogate",
        repr(str(name_or_path)),
        f"there is no such file: give a file, or one of {', '.join(shipped) or 'none'}",
    )


def _read_bytes(path: Path) -> bytes:
    if not path.is_file():
        raise CheckpointError(f"{path} is missing; a checkpoint is a .safetensors and a .json: {_WAY_OUT}")
    return path.read_bytes()


def _read_head(path: Path) -> dict[str, Any]:
    what = "a geniex surrogate"
    return read_head(path, FORMAT, SCHEMA_VERSION, what=what, way_out=_WAY_OUT, error=CheckpointError)


def _built(head: dict[str, Any], path: Path) -> Surrogate:
    """The untrained surrogate that a checkpoint's JSON describes."""
    try:
        kind = find_surrogate_class(head["type"])
        crossbar = Crossbar.from_dict(head["crossbar"])
        window = ConductanceWindow.from_dict(head["window"])
        with torch.device("meta"):  # draws no initial weights, so that loading leaves the random state alone
            surrogate = kind(crossbar, window, head["v_max"], **head["settings"])
        surrogate.info = dict(head["info"])
        head["weights_sha256"]
    except CheckpointError as error:  # the class is not known, as the message says
        raise CheckpointError(f"{path} is {error}") from None
    except (InputError, KeyError, TypeError, ValueError) as error:
        what = f"{type(error).__name__}: {error}"
        raise CheckpointError(f"{path} is not a complete description ({what}): {_WAY_OUT}") from None
    return surrogate


def _is_surrogate(path: Path) -> bool:
    try:
        return parse_json(path.read_bytes()).get("format") == FORMAT
    except (OSError, ValueError, AttributeError):
        return False
