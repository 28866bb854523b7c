"""Converted models on disk: safetensors for all tensors, JSON for their description, never a pickle."""

from __future__ import annotations

import copy
import dataclasses
import hashlib
import json
from collections.abc import Collection
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, nn

from geniex import __version__
from geniex.emulator import Emulator, IdealEmulator
from geniex.emulator.base import move_copy
from geniex.emulator.identity import (
    Identity,
    identify,
    identify_worker,
    is_named,
    is_same_worker,
    make_emulator,
    make_part,
)
from geniex.errors import ConversionError, FileFormatError, InputError
from geniex.files import read_head, write_atomically, write_sealed_json
from geniex.mapping import Architecture, Packing
from geniex.simulator.build import make_placeholder
from geniex.simulator.convert import prepare
from geniex.simulator.layers.crossbar import CrossbarLayer, find_crossbar_layers, find_crossbar_matrices
from geniex.simulator.matrix import CrossbarMatrix
from geniex.simulator.originals import copy_model
from geniex.simulator.plan import PlannedLayer
from geniex.simulator.replace import replace_modules
from geniex.simulator.report import ConversionReport
from geniex.simulator.rules import LayerRule, Rules
from geniex.surrogate.checkpoint import find_checkpoint_paths

FORMAT, SCHEMA_VERSION = "geniex-converted", 2
_WEIGHTS = "#weights."
"""Prefix of the emulators' tensors in the file, unlike any module's name."""


def save_converted(model: nn.Module, path: str | Path) -> Path:
    """The path of the JSON file written for a converted ``model``: ``path``.json beside ``path``.safetensors.

    The model is a result of ``convert`` or ``vary``, or a model of your own that holds converted models or single
    crossbar layers, such as ``CrossbarLinear``. The tensors are the programmed conductances, scales, ADC ranges and
    arrangements, and those of all digital parts. The JSON has each layer's architecture, the emulators with their
    wrappers, and the reports. Both files are written whole and then renamed.

    The kind and the seed of read noise are saved, but not how far the noise had advanced: a loaded model's noise
    begins from the seed again, as the saved model's noise did at its first read.

    Raises:
        InputError: the model has nothing on crossbars, a ``CrossbarMatrix`` lies outside of crossbar layers, or the
            state holds something other than tensors.
    """
    if not isinstance(model, nn.Module) or not find_crossbar_layers(model):
        allowed = "it has no layer on crossbars: give a model that convert returned, or one with crossbar layers"
        raise InputError("model", type(model).__name__, allowed)
    _check_matrices(model)
    tensors, aliases = _stored(model.state_dict())
    layers, emulators = _described(model)
    for _, weights in emulators:
        tensors |= {f"{_WEIGHTS}{key}": value for key, value in weights.items()}
    data = safetensors.torch.save(tensors)
    head = {
        "format": FORMAT,
        "schema_version": SCHEMA_VERSION,
        "geniex_version": __version__,
        "weights_sha256": hashlib.sha256(data).hexdigest(),
        "aliases": aliases,
        "layers": layers,
        "trained": [name for name, parameter in model.named_parameters() if parameter.requires_grad],
        "emulators": [told for told, _ in emulators],
        "reports": {name: report.to_dict() for name, report in _reports(model).items()},
    }
    weights_path, json_path = find_checkpoint_paths(path)
    json_path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(weights_path, data)
    write_sealed_json(json_path, head, indent=1)
    return json_path


def load_converted(path: str | Path, model: nn.Module, *, emulator: Emulator | None = None) -> nn.Module:
    """The converted model that was saved at ``path``, on the CPU, with its arrays programmed as they were.

    Args:
        path: either of the two files, or their path without suffix.
        model: the network as it was before conversion. Its weights are not used, and it may be on the meta device
            unless it has buffers that are not saved. For a model of your own that holds crossbar layers or converted
            models, it is the same model with the torch layers in their places.
        emulator: required where the saved emulator was of a user's own class. Elsewhere it must be of the same circuit
            and weights, and it serves to choose another wrapper: a ``StoredEmulator`` or ``NoisyEmulator`` is taken as
            it is given, and any other emulator gets the wrappers that were saved.

    Raises:
        FileFormatError: the files are damaged or of another format.
        ConversionError: ``model`` is another network, or ``emulator`` another emulator.
    """
    head, tensors = _read(*find_checkpoint_paths(path))
    reports = {name: ConversionReport.from_dict(report) for name, report in head["reports"].items()}
    emulators = _Emulators(head["emulators"], tensors, emulator)
    copied = copy_model(model)
    made: dict[int, nn.Module] = {}
    for name, layers in _parts(head["layers"], reports).items():
        try:
            part = copied.get_submodule(name)
        except AttributeError as error:
            raise _another(path, str(error)) from error
        fold = name in reports and any(layer.where == "folded" for layer in reports[name].layers)
        made[id(part)] = _converted(path, name, part, layers, fold, emulators)
    converted = replace_modules(copied, made)
    _load(path, converted, tensors, head["aliases"])
    for name, parameter in converted.named_parameters():
        parameter.requires_grad_(name in head["trained"])
    for name, report in reports.items():
        converted.get_submodule(name).conversion = report  # type: ignore[assignment]
    return converted


def _reports(model: nn.Module) -> dict[str, ConversionReport]:
    """The conversion reports of the converted models in ``model``, by module name."""
    found = {name: vars(module).get("conversion") for name, module in model.named_modules()}
    return {name: report for name, report in found.items() if isinstance(report, ConversionReport)}


def _check_matrices(model: nn.Module) -> None:
    """Raise ``InputError`` for a matrix outside of crossbar layers, because no torch layer could be saved for it."""
    known = {id(matrix) for layer in find_crossbar_layers(model).values() for matrix in layer.matrices}
    for name, matrix in find_crossbar_matrices(model).items():
        if id(matrix) not in known:
            allowed = "a CrossbarMatrix is saved as part of a layer: use CrossbarLinear, or save its state_dict"
            raise InputError("model", f"{name!r} on its own", allowed)


def _described(model: nn.Module) -> tuple[dict[str, Any], list[Identity]]:
    """The description of each layer, by name, and the emulators that the layers' matrices refer to."""
    layers: dict[str, Any] = {}
    emulators: list[Identity] = []
    known: dict[int, int] = {}
    for name, layer in find_crossbar_layers(model).items():
        matrices = [matrix for matrix in layer.matrices if isinstance(matrix, CrossbarMatrix)]
        for matrix in matrices:
            if id(matrix.emulator) not in known:
                known[id(matrix.emulator)] = len(emulators)
                emulators.append(identify(matrix.emulator))
        layers[name] = {
            "class": type(layer).__name__,
            "weight": _shape(layer.packing),
            "architecture": matrices[0].architecture.to_dict(),
            "layout": layer.layout,
            "map_size": layer.packing.map_size,
            "emulators": [known[id(matrix.emulator)] for matrix in matrices],
            "trainable": layer.trainable,
            "checkpoint": matrices[0].checkpoint,
            "gradients": matrices[0].gradients,
        }
    return layers, emulators


def _parts(layers: dict[str, Any], reports: Collection[str]) -> dict[str, dict[str, Any]]:
    """Layers by the outermost converted model that holds them, under their names in it.

    A layer outside of converted models is a part of its own, under its own name.
    """
    outermost = [name for name in reports if not any(name != other and _is_in(name, other) for other in reports)]
    parts: dict[str, dict[str, Any]] = {name: {} for name in outermost}
    for name, told in layers.items():
        part = next((outer for outer in outermost if _is_in(name, outer)), name)
        parts.setdefault(part, {})[name.removeprefix(part).lstrip(".")] = told
    return parts


def _is_in(name: str, outer: str) -> bool:
    return not outer or name == outer or name.startswith(f"{outer}.")


def _converted(
    path: str | Path, name: str, part: nn.Module, layers: dict[str, Any], fold: bool, emulators: _Emulators
) -> nn.Module:
    """The part ``name`` of a model, with crossbar layers without values in the places that ``layers`` names."""
    rules = {
        inside: LayerRule(
            architecture=Architecture.from_dict(told["architecture"]), layout=told["layout"], map_size=told["map_size"]
        )
        for inside, told in layers.items()
    }
    try:
        trainable = any(told["trainable"] for told in layers.values())
        converted, plan, _ = prepare(part, Rules(None, "block_diagonal", rules), fold, trainable=trainable)
    except ConversionError as error:
        raise _another(path, str(error)) from error
    made: dict[int, nn.Module] = {}
    for layer in plan:
        if not isinstance(layer, PlannedLayer):
            continue
        told = layers[layer.name]
        saved, here = (told["class"], told["weight"]), (layer.kind.__name__, _shape(layer.packing))
        if saved != here:
            where = ".".join(filter(None, (name, layer.name)))
            saved_as, is_here = (f"{kind} of {shape}" for kind, shape in (saved, here))
            raise _another(path, f"layer {where!r} was saved as a {saved_as}, and is a {is_here} here")
        made[id(layer.module)] = _unprogrammed(layer, emulators, told)
    return replace_modules(converted, made)


def _shape(packing: Packing) -> list[int]:
    """The packing's (groups, outputs, inputs) as a list, for JSON."""
    return [packing.groups, packing.outputs, packing.inputs]


def _stored(state: dict[str, Any]) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Each tensor of a state once, and for each repeated tensor the name under which it is stored."""
    tensors: dict[str, Tensor] = {}
    aliases: dict[str, str] = {}
    first: dict[tuple[Any, ...], str] = {}
    for key, value in state.items():
        if not isinstance(value, Tensor) or value.is_meta:
            raise InputError("model", f"{key}: {type(value).__name__}", "every entry of its state must be a tensor")
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
        raise FileFormatError(f"{weights_path} does not belong to {json_path.name}")
    return head, safetensors.torch.load(data)


class _Emulators:
    """The emulators that a file describes, each bound once for an architecture and shared by its layers."""

    def __init__(self, told: list[dict[str, Any]], tensors: dict[str, Tensor], given: Emulator | None) -> None:
        named = ((name, tensor) for name, tensor in tensors.items() if name.startswith(_WEIGHTS))
        self._weights = {name.removeprefix(_WEIGHTS): tensor for name, tensor in named}
        self._given = None if given is None else move_copy(given, lambda tensor: tensor.to("cpu"))
        self._workers: dict[str, Emulator] = {}
        self._made = [self._emulator(one) for one in told]
        self._bound: dict[tuple[int, Architecture], Emulator] = {}

    def bound(self, index: int, architecture: Architecture) -> Emulator:
        """The emulator number ``index``, bound to ``architecture``."""
        key = (index, architecture)
        if key not in self._bound:
            self._bound[key] = self._made[index].bind(architecture)
        return self._bound[key]

    def _emulator(self, told: dict[str, Any]) -> Emulator:
        if self._given is None:
            return make_emulator(told, self._weights, self._worker(identify_worker(told)))
        if not is_same_worker(told, self._given):
            kind = identify_worker(told)["type"]
            raise ConversionError(
                f"emulator: the model was converted with a {kind} of another circuit or other weights: give that one"
            )
        given = self._given.with_noise_seed()
        return self._wrapped(told, given) or given

    def _worker(self, told: dict[str, Any]) -> Emulator:
        """The innermost emulator; equal descriptions share one."""
        key = json.dumps(told, sort_keys=True)
        if key not in self._workers:
            self._workers[key] = make_emulator(told, self._weights)
        return self._workers[key]

    def _wrapped(self, told: dict[str, Any], given: Emulator) -> Emulator | None:
        """``given`` within the wrappers that ``told`` has around an emulator of its class; None if there is none."""
        if is_named(told["type"], type(given)):
            return given
        inner = self._wrapped(told["emulator"], given) if "emulator" in told else None
        return None if inner is None else make_part(told, self._weights, inner)


def _unprogrammed(layer: PlannedLayer, emulators: _Emulators, told: dict[str, Any]) -> CrossbarLayer:
    """A planned layer's crossbar layer as the file describes it, without values, which are loaded later."""
    arch = layer.architecture
    # Without values no largest weight can set the binary point, which is loaded with the state.
    valueless = arch if arch.weight_frac_bits is not None else arch.replace(weight_frac_bits=0)
    module = copy.deepcopy(layer.module).to("meta")
    inputs = [make_placeholder(inputs) for _, inputs in layer.packing.shapes]
    plan = dataclasses.replace(layer, module=module, architecture=valueless).placement
    options: dict[str, Any] = {"plan": plan, "trainable": told["trainable"], "checkpoint": told["checkpoint"]}
    built = layer.kind(module, valueless, IdealEmulator(), inputs=inputs, **options).eval()
    for matrix, index in zip(built.matrices, told["emulators"], strict=True):
        assert isinstance(matrix, CrossbarMatrix)
        matrix.architecture = arch
        matrix.set_emulator(emulators.bound(index, arch))
        matrix.gradients = told["gradients"]
        matrix.layout = dataclasses.replace(matrix.layout, architecture=arch)
    return built


def _load(path: str | Path, model: nn.Module, tensors: dict[str, Tensor], aliases: dict[str, str]) -> None:
    state = {key: value for key, value in tensors.items() if not key.startswith("#")}
    state |= {key: state[first] for key, first in aliases.items()}
    for prefix, module in model.named_modules():
        if isinstance(module, CrossbarMatrix | CrossbarLayer):
            _make_room(module, f"{prefix}." if prefix else "", state)
    try:
        model.load_state_dict(state, assign=True)
    except RuntimeError as error:
        raise _another(path, str(error)) from error


def _make_room(module: CrossbarMatrix | CrossbarLayer, prefix: str, state: dict[str, Tensor]) -> None:
    """Give a module's own tensors the shapes of the saved ones, which calibration or variation may have changed."""
    for name, buffer in list(module._buffers.items()):
        saved = state.get(f"{prefix}{name}")
        if saved is not None and (buffer is None or saved.shape != buffer.shape):
            setattr(module, name, torch.empty_like(saved, device="meta"))
    if isinstance(module, CrossbarLayer):
        saved = state.get(f"{prefix}bias")
        if saved is None:
            module.bias = None
        elif module.bias is None:  # a correction of outputs added the bias
            module.bias = nn.Parameter(torch.empty_like(saved, device="meta"))


def _another(path: str | Path, why: str) -> ConversionError:
    return ConversionError(f"{path}: the model given is not the network that was converted: {why}")
