"""Converted models on disk: safetensors for all tensors, JSON for what they mean, never a pickle."""

from __future__ import annotations

import copy
import dataclasses
import hashlib
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, nn

from geniex import __version__
from geniex.emulator import Emulator, IdealEmulator
from geniex.emulator.identity import Identity, emulator_of, identity, same_emulator
from geniex.errors import ConversionError, FileFormatError, InputError
from geniex.files import read_head, write_atomically, write_sealed_json
from geniex.mapping import Architecture, Packing, Unrolling
from geniex.simulator.convert import prepared
from geniex.simulator.layers import CrossbarLayer, crossbar_layers
from geniex.simulator.matrix import CrossbarMatrix
from geniex.simulator.plan import PlannedLayer, replaced
from geniex.simulator.programming import OwnEmulators, placeholder
from geniex.simulator.report import ConversionReport
from geniex.simulator.rules import LayerRule, Rules
from geniex.surrogate.checkpoint import checkpoint_paths

FORMAT, SCHEMA_VERSION = "geniex-converted", 1


def save_converted(model: nn.Module, path: str | Path) -> Path:
    """The path of the JSON written for a converted ``model``: ``path``.json beside ``path``.safetensors.

    The tensors are the programmed conductances, scales, ADC ranges and arrangements, and all that stayed digital; the
    JSON has each layer's architecture and emulator, and the report. Both files are written whole and renamed.
    """
    report = getattr(model, "conversion", None)
    if not isinstance(report, ConversionReport):
        raise InputError("model", type(model).__name__, "it must be what convert returned")
    tensors, aliases = _stored(model.state_dict())
    layers, emulators = _described(model)
    for k, (_, weights) in enumerate(emulators):
        tensors |= {f"{_emulator_prefix(k)}{key}": value for key, value in weights.items()}
    data = safetensors.torch.save(tensors)
    head = {
        "format": FORMAT,
        "schema_version": SCHEMA_VERSION,
        "geniex_version": __version__,
        "weights_sha256": hashlib.sha256(data).hexdigest(),
        "aliases": aliases,
        "layers": layers,
        "emulators": [told for told, _ in emulators],
        "report": report.to_dict(),
    }
    weights_path, json_path = checkpoint_paths(path)
    json_path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(weights_path, data)
    write_sealed_json(json_path, head, indent=1)
    return json_path


def load_converted(path: str | Path, model: nn.Module, *, emulator: Emulator | None = None) -> nn.Module:
    """The converted model that was saved at ``path``, on the CPU, its arrays programmed as they were.

    Args:
        path: either file, or without suffix.
        model: the network that was converted, as it was before; its weights are of no consequence, and it may be on
            the meta device unless it has buffers that are not saved.
        emulator: needed where the saved one was of a user's own class; otherwise it must be the same.

    Raises:
        FileFormatError: damaged or foreign files.
        ConversionError: another network, or another emulator.
    """
    head, tensors = _read(*checkpoint_paths(path))
    report = ConversionReport.from_dict(head["report"])
    rules = {
        name: LayerRule(
            architecture=Architecture.from_dict(told["architecture"]),
            layout=told["layout"],
            map_size=told.get("map_size"),
        )
        for name, told in head["layers"].items()
    }
    fold = any(layer.where == "folded" for layer in report.layers)
    try:
        converted, plan, _ = prepared(model, Rules(None, "block_diagonal", rules), fold)
    except ConversionError as error:
        raise _another(path, str(error)) from error
    layers = [layer for layer in plan if isinstance(layer, PlannedLayer)]
    for layer in layers:
        told = head["layers"][layer.name]
        if (layer.kind.__name__, _shape(layer.packing)) != (told["class"], told["weight"]):
            saved, here = (
                f"{kind} of {shape}"
                for kind, shape in ((told["class"], told["weight"]), (layer.kind.__name__, _shape(layer.packing)))
            )
            raise _another(path, f"layer {layer.name!r} was a {saved}, here it is a {here}")
    emulators = [OwnEmulators(_emulator(k, told, tensors, emulator)) for k, told in enumerate(head["emulators"])]
    made: dict[int, nn.Module] = {}
    for layer in layers:
        own = emulators[head["layers"][layer.name]["emulator"]].own(layer.architecture, torch.device("cpu"))
        made[id(layer.module)] = _unprogrammed(layer, own, head["layers"][layer.name])
    converted = replaced(converted, made)
    _load(path, converted, tensors, head["aliases"])
    converted.conversion = report  # type: ignore[assignment]
    return converted


def _described(model: nn.Module) -> tuple[dict[str, Any], list[Identity]]:
    """What each layer was made of, by name, and the emulators that they refer to."""
    layers: dict[str, Any] = {}
    emulators: list[Identity] = []
    known: dict[int, int] = {}
    for name, layer in crossbar_layers(model).items():
        matrix = layer.matrices[0]
        assert isinstance(matrix, CrossbarMatrix)
        if id(matrix.emulator) not in known:
            known[id(matrix.emulator)] = len(emulators)
            emulators.append(identity(matrix.emulator))
        layers[name] = {
            "class": type(layer).__name__,
            "weight": _shape(layer.packing),
            "architecture": matrix.architecture.to_dict(),
            "layout": layer.layout,
            "map_size": list(layer.packing.size) if isinstance(layer.packing, Unrolling) else None,
            "emulator": known[id(matrix.emulator)],
            "trainable": layer.trainable,
            "calibrated": layer.output_gain is not None,
            "bias": layer.bias is not None,
        }
    return layers, emulators


def _shape(packing: Packing) -> list[int]:
    """(groups, outputs, inputs), as JSON has it."""
    return [packing.groups, packing.outputs, packing.inputs]


def _emulator_prefix(index: int) -> str:
    return f"#emulator.{index}."  # no module has such a name


def _stored(state: dict[str, Any]) -> tuple[dict[str, Tensor], dict[str, str]]:
    """A state's tensors each once, and under which other name the repeated ones are."""
    tensors: dict[str, Tensor] = {}
    aliases: dict[str, str] = {}
    first: dict[tuple[Any, ...], str] = {}
    for key, value in state.items():
        if not isinstance(value, Tensor) or value.is_meta:
            raise InputError("model", f"{key}: {type(value).__name__}", "everything in its state must be a tensor")
        where = (value.device, value.data_ptr(), value.shape, value.stride(), value.dtype)
        if value.numel() and where in first:
            aliases[key] = first[where]
            continue
        first[where] = key
        tensor = value.detach().cpu().contiguous()
        tensors[key] = tensor if tensor.untyped_storage().nbytes() == tensor.nbytes else tensor.clone()
    return tensors, aliases


def _read(weights_path: Path, json_path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    what, way_out = "a converted model", "save the model again"
    head = read_head(json_path, FORMAT, SCHEMA_VERSION, what=what, way_out=way_out, error=FileFormatError)
    if not weights_path.is_file():
        raise FileFormatError(f"{weights_path} is missing; a converted model is a .safetensors and a .json")
    data = weights_path.read_bytes()
    if hashlib.sha256(data).hexdigest() != head["weights_sha256"]:
        raise FileFormatError(f"{weights_path} is not the file that {json_path.name} was written with")
    return head, safetensors.torch.load(data)


def _emulator(index: int, told: dict[str, Any], tensors: dict[str, Tensor], given: Emulator | None) -> Emulator:
    """The emulator to program with: the one that is given, if it is the same, or the saved one made again."""
    prefix = _emulator_prefix(index)
    if given is None:
        weights = {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}
        return emulator_of(told, weights)
    if not same_emulator(told, given):
        raise ConversionError(f"emulator: the model was converted with {told['type']} of another circuit or weights")
    return given


def _unprogrammed(layer: PlannedLayer, emulator: Emulator, told: dict[str, Any]) -> CrossbarLayer:
    """A planned layer's crossbar layer, as it was ``told``, without values: they are loaded."""
    arch = layer.architecture
    # Without values there is no largest weight to choose a binary point by; it is loaded too.
    valueless = arch if arch.weight_frac_bits is not None else arch.replace(weight_frac_bits=0)
    module = copy.deepcopy(layer.module).to("meta")
    inputs = [placeholder(inputs) for _, inputs in layer.packing.shapes]
    trainable, calibrated = told.get("trainable", False), told.get("calibrated", False)
    options: dict[str, Any] = {"layout": layer.layout, "map_size": layer.map_size, "trainable": trainable}
    built = layer.kind(module, valueless, IdealEmulator(), inputs=inputs, **options).eval()
    emulator.check(arch)
    if calibrated:
        outputs = layer.packing.groups * layer.packing.outputs
        built.output_gain = torch.empty(outputs, device="meta")
        built.bias = nn.Parameter(torch.empty(outputs, device="meta")) if told["bias"] else None
    for matrix in built.matrices:
        assert isinstance(matrix, CrossbarMatrix)
        matrix.architecture, matrix.emulator = arch, emulator
        matrix.layout = dataclasses.replace(matrix.layout, architecture=arch)
    return built


def _load(path: str | Path, model: nn.Module, tensors: dict[str, Tensor], aliases: dict[str, str]) -> None:
    state = {key: value for key, value in tensors.items() if not key.startswith("#")}
    state |= {key: state[first] for key, first in aliases.items()}
    for prefix, module in model.named_modules():
        if isinstance(module, CrossbarMatrix):
            # What was calibrated has the shape that calibration gave it.
            for name, buffer in module.named_buffers(recurse=False):
                saved = state.get(f"{prefix}.{name}")
                if saved is not None and saved.shape != buffer.shape:
                    setattr(module, name, torch.empty_like(saved, device="meta"))
    try:
        model.load_state_dict(state, assign=True)
    except RuntimeError as error:
        raise _another(path, str(error)) from error


def _another(path: str | Path, why: str) -> ConversionError:
    return ConversionError(f"{path}: the model given is not the network that was converted: {why}")
