"""``convert``: a torch model's linear and convolution layers onto crossbars, in one verb."""

from __future__ import annotations

import copy
import dataclasses
import fnmatch
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from geniex.config import check_number
from geniex.emulator import Emulator
from geniex.errors import ConversionError, InputError
from geniex.mapping import Architecture
from geniex.simulator.layers import CrossbarConv2d, CrossbarLinear
from geniex.simulator.matrix import CrossbarMatrix

CrossbarLayer = CrossbarLinear | CrossbarConv2d
PerLayer = Mapping[str, Architecture | None]

_CROSSBAR: dict[type[nn.Module], type[CrossbarLayer]] = {nn.Linear: CrossbarLinear, nn.Conv2d: CrossbarConv2d}
_DIGITAL = (
    nn.modules.batchnorm._NormBase,
    nn.LayerNorm,
    nn.GroupNorm,
    nn.RMSNorm,
    nn.PReLU,
    nn.Embedding,
)
"""Layers with parameters that are no matrix product with the input: they stay digital."""


@dataclass(frozen=True)
class LayerReport:
    """Where one layer went."""

    name: str
    kind: str
    where: str
    """"crossbar" or "digital"."""
    reason: str = ""
    """Why it stayed digital."""
    row_tiles: int = 0
    col_tiles: int = 0
    utilisation: float = 0.0
    """Share of its tiles' cells that hold a slice of a weight."""
    weight_frac_bits: int | None = None
    input_frac_bits: int | None = None


@dataclass(frozen=True)
class ConversionReport:
    """Where every layer with parameters went; ``str`` gives a table."""

    layers: tuple[LayerReport, ...]

    @property
    def tiles(self) -> int:
        """Arrays in all, positive and negative."""
        return sum(2 * layer.row_tiles * layer.col_tiles for layer in self.layers)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return {"tiles": self.tiles, "layers": [dataclasses.asdict(layer) for layer in self.layers]}

    def __str__(self) -> str:
        rows = [f"{'layer':<24} {'kind':<12} {'where':<9} tiles (rows x cols x 2)  fraction bits w/x"]
        for layer in self.layers:
            tail = layer.reason
            if layer.where == "crossbar":
                bits = f"{layer.weight_frac_bits}/{layer.input_frac_bits}"
                tail = f"{layer.row_tiles} x {layer.col_tiles} x 2, {layer.utilisation:.0%} used, {bits}"
            rows.append(f"{layer.name:<24} {layer.kind:<12} {layer.where:<9} {tail}")
        return "\n".join(rows)


def convert(
    model: nn.Module,
    architecture: Architecture,
    emulator: Emulator,
    *,
    per_layer: PerLayer | None = None,
    calibration: Tensor | Iterable[Tensor] | None = None,
    dtype: torch.dtype | None = None,
) -> nn.Module:
    """A copy of ``model`` whose Linear and Conv2d layers run on crossbars; the original is untouched.

    The copy is in evaluation mode and has ``.conversion``, a ``ConversionReport`` of which layers went where.

    Args:
        model: any module; layers whose inputs are no matrix product (norms, activations) stay digital.
        architecture: fixed point, slices, streams, converters.
        emulator: the crossbar's physics; its tile must be the architecture's.
        per_layer: an architecture of its own, or None to keep it digital, for layer names or patterns with
            ``*``; an exact name beats a pattern, a later pattern an earlier one; a name covers the modules below.
        calibration: a batch of inputs, or several, to choose ``input_frac_bits`` by the largest input seen;
            needed where the architecture leaves it None.
        dtype: of conductances, voltages and currents, float32 or float64; None means the weights', at least
            float32.

    Raises:
        ConversionError: a layer type that cannot go onto crossbars, a pattern that names no layer, a tile
            other than the emulator's.
    """
    emulator.check(architecture)
    rules = _Rules(architecture, per_layer or {})
    converted = copy.deepcopy(model).eval()
    plan = list(_plan(converted, rules))
    rules.check_all_used()
    largest = _calibrated(converted, [m for _, m, arch, _ in plan if arch is not None], calibration)
    layers, made = [], dict[int, nn.Module]()
    for name, module, arch, reason in plan:
        if arch is None:
            layers.append(LayerReport(name, type(module).__name__, "digital", reason))
            continue
        try:
            layer = _CROSSBAR[type(module)](
                module,  # type: ignore[arg-type]
                arch,
                emulator,
                inputs=largest.get(id(module)),
                dtype=dtype,
            )
        except (ConversionError, InputError) as error:
            raise ConversionError(f"layer {name!r}: {error}") from error
        made[id(module)] = layer.eval()
        layers.append(_report(name, module, layer.matrix))
    converted = _replaced(converted, made)
    converted.conversion = ConversionReport(tuple(layers))  # type: ignore[assignment]
    return converted


def crossbar_layers(model: nn.Module) -> dict[str, CrossbarLayer]:
    """The layers of a converted model that run on crossbars, by name."""
    return {name: m for name, m in model.named_modules() if isinstance(m, CrossbarLayer)}


class _Rules:
    """Which architecture a layer gets; remembers the patterns that matched nothing."""

    def __init__(self, default: Architecture, per_layer: PerLayer) -> None:
        self.default, self.per_layer = default, per_layer
        self.unused = set(per_layer)

    def lookup(self, name: str) -> tuple[bool, Architecture | None]:
        """(named by a rule, architecture or None for digital) of the module ``name``."""
        parts = name.split(".")
        prefixes = [".".join(parts[:k]) for k in range(len(parts), 0, -1)]
        for prefix in prefixes:
            if prefix in self.per_layer:
                self.unused.discard(prefix)
                return True, self.per_layer[prefix]
        for pattern in reversed(list(self.per_layer)):
            if any(fnmatch.fnmatchcase(prefix, pattern) for prefix in prefixes):
                self.unused.discard(pattern)
                return True, self.per_layer[pattern]
        return False, self.default

    def check_all_used(self) -> None:
        if self.unused:
            raise ConversionError(f"per_layer: {sorted(self.unused)[0]!r} names no layer with parameters")


def _plan(model: nn.Module, rules: _Rules) -> Iterator[tuple[str, nn.Module, Architecture | None, str]]:
    """(name, module, architecture | None, reason) of every module that owns parameters."""
    for name, module in model.named_modules():
        if not any(True for _ in module.parameters(recurse=False)):
            continue
        named, arch = rules.lookup(name)
        if named and arch is None:
            yield name, module, None, "by rule"
        elif type(module) in _CROSSBAR:
            yield name, module, arch, ""
        elif isinstance(module, _DIGITAL):
            yield name, module, None, "no matrix product"
        else:
            raise ConversionError(
                f"layer {name!r}: {type(module).__name__} cannot run on crossbars; Linear and Conv2d can, norms stay"
                f" digital; keep it digital with per_layer={{{name!r}: None}}"
            )


def _calibrated(
    model: nn.Module, layers: list[nn.Module], calibration: Tensor | Iterable[Tensor] | None
) -> dict[int, float]:
    """Largest input magnitude of each layer over the calibration inputs, by id."""
    if calibration is None:
        return {}
    largest: dict[int, float] = {}

    def watch(module: nn.Module, args: tuple[Tensor, ...]) -> None:
        if args[0].numel():
            seen = float(args[0].detach().abs().max())
            check_number("calibration", seen, low=0.0)
            largest[id(module)] = max(largest.get(id(module), 0.0), seen)

    hooks = [layer.register_forward_pre_hook(watch) for layer in layers]
    try:
        with torch.no_grad():
            for batch in [calibration] if isinstance(calibration, Tensor) else calibration:
                if not isinstance(batch, Tensor):
                    raise InputError("calibration", type(batch).__name__, "it must be a batch of inputs, or several")
                model(batch)
    finally:
        for hook in hooks:
            hook.remove()
    return largest


def _replaced(model: nn.Module, made: dict[int, nn.Module]) -> nn.Module:
    """``model`` with modules exchanged wherever they are referred to, also where one is used twice."""
    if id(model) in made:
        return made[id(model)]
    for parent in list(model.modules()):
        for name, child in parent._modules.items():
            if child is not None and id(child) in made:
                parent._modules[name] = made[id(child)]
    return model


def _report(name: str, module: nn.Module, matrix: CrossbarMatrix) -> LayerReport:
    layout = matrix.layout
    return LayerReport(
        name,
        type(module).__name__,
        "crossbar",
        row_tiles=layout.row_tiles,
        col_tiles=layout.col_tiles,
        utilisation=layout.utilisation,
        weight_frac_bits=matrix.weight_frac_bits,
        input_frac_bits=matrix.input_frac_bits,
    )
