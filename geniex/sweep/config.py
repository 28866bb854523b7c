"""What a sweep solves, and its YAML form."""

from __future__ import annotations

import dataclasses
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

import yaml

from geniex.circuit import Crossbar
from geniex.config import Config, check_number, check_positive_int, check_seed
from geniex.errors import InputError
from geniex.mapping import ConductanceWindow
from geniex.mapping.window import check_drive
from geniex.preset import presets
from geniex.sweep.circuits import CircuitRanges, check_spans

Engine = Literal["native", "ngspice"]
ENGINES = ("native", "ngspice")
_C = TypeVar("_C", bound=Config)
_OPTIONAL = ("circuits",)
"""Fields that came after the first files."""
_PLACEHOLDERS: dict[str, Any] = {"window": ConductanceWindow(100e3, 6.0), "v_max": 0.25}
"""What a sweep that spans circuits gives for what each tile draws itself."""
_MAX_BITS = 16
"""Bits of a slice or a stream; the codes are stored in at most 16 bits."""


@dataclass(frozen=True)
class SweepConfig(Config):
    """The circuits, levels and vectors of one sweep; it fixes every sample, see ``geniex.sweep.sampling``."""

    crossbar: Crossbar
    """The circuit to solve."""
    window: ConductanceWindow
    """Conductances of the cells' levels."""
    v_max: float
    """Driver voltage of the highest stream level, volt."""
    tiles: int
    """Conductance matrices to draw."""
    vectors: int
    """Voltage vectors to draw for each tile."""
    slice_bits: int = 4
    """Bits of a weight slice: cells have 2**slice_bits levels."""
    stream_bits: int = 4
    """Bits of an input stream: drivers have 2**stream_bits levels."""
    dnn_share: float = 0.5
    """Share of tiles with slices of network-like weights, and of vectors with streams of activations."""
    seed: int = 0
    """Seed of all draws, at least 0."""
    engine: Engine = "native"
    """What solves the circuits."""
    shard_tiles: int = 32
    """Tiles that are solved and made durable together; natively, multiples of 8 waste no work."""
    circuits: CircuitRanges | None = None
    """What each tile draws its own circuit from; ``crossbar`` then gives shape and cell type alone, and ``window``,
    ``v_max`` and both bit widths stand for nothing. None: all tiles have one circuit."""

    def __post_init__(self) -> None:
        for name, kind in (("crossbar", Crossbar), ("window", ConductanceWindow)):
            if not isinstance(getattr(self, name), kind):
                raise InputError(name, repr(getattr(self, name)), f"it must be a {kind.__name__}")
        check_drive(self.v_max)
        for name in ("tiles", "vectors", "shard_tiles"):
            check_positive_int(name, getattr(self, name))
        for name in ("slice_bits", "stream_bits"):
            check_positive_int(name, getattr(self, name), maximum=_MAX_BITS)
        check_number("dnn_share", self.dnn_share, low=0.0)
        if self.dnn_share > 1:
            raise InputError("dnn_share", self.dnn_share, "it is a share, at most 1")
        check_seed(self.seed)
        if self.engine not in ENGINES:
            raise InputError("engine", repr(self.engine), f"it must be one of {', '.join(ENGINES)}")
        if self.circuits is not None:
            if not isinstance(self.circuits, CircuitRanges):
                raise InputError("circuits", repr(self.circuits), "it must be CircuitRanges")
            check_spans(self.crossbar.cell)

    def to_dict(self) -> dict[str, Any]:
        """As any configuration; without what is unused it equals, and has the digest of, older files'."""
        out = super().to_dict()
        return {name: value for name, value in out.items() if name not in _OPTIONAL or value is not None}

    @property
    def shards(self) -> int:
        """How many shards hold all tiles."""
        return -(-self.tiles // self.shard_tiles)

    def shard_range(self, shard: int) -> tuple[int, int]:
        """The first tile of ``shard`` and the one after its last."""
        start = shard * self.shard_tiles
        return start, min(start + self.shard_tiles, self.tiles)


def load_sweep_config(path: str | Path) -> SweepConfig:
    """The sweep that a YAML file describes: the fields of ``SweepConfig``, nested ones as mappings.

    ``preset: geniex-32`` stands for the crossbar, window and v_max of that preset. A cell names its class:
    ``cell: {_type: SinhCell, v0: 0.25}``. With ``circuits: {...}``, each tile draws its own: give the crossbar's
    rows, cols and cell alone.

    Raises:
        InputError: the file is missing, is no YAML, or has unknown, missing or wrong fields.
    """
    path = Path(path)
    try:
        data = yaml.load(path.read_text(encoding="utf-8"), Loader=_Loader)
    except (FileNotFoundError, IsADirectoryError):
        raise InputError("config", path, "no such file; sweeps that ship are in spice_data/") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError("config", path, f"it is not readable as YAML: {error}") from None
    try:
        return _sweep(data)
    except InputError as error:
        raise InputError(f"{path}: {error.name}", error.value, error.allowed) from None


class _Loader(yaml.SafeLoader):
    """YAML 1.1, except that 100e3 is a number and not a string."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+$"), list("-+0123456789")
)


def _sweep(data: Any) -> SweepConfig:
    data = dict(_mapping("config", data))
    if data.get("circuits") is not None:
        data = _spanning(data)
    if "preset" in data:
        data = _from_preset(data.pop("preset"), data)
    for name, kind in (("crossbar", Crossbar), ("window", ConductanceWindow), ("circuits", CircuitRanges)):
        if data.get(name) is not None and not isinstance(data[name], kind):
            data[name] = _built(kind, name, data[name])
    return _built(SweepConfig, "config", data)


def _spanning(data: dict[str, Any]) -> dict[str, Any]:
    """With placeholders for what the tiles draw; what would be ignored is refused."""
    crossbar = data.get("crossbar", {})
    scalars = {f"crossbar.{name}": crossbar[name] for name in crossbar if name.startswith("r_")}
    drawn = ("preset", *_PLACEHOLDERS, "slice_bits", "stream_bits")
    fixed = {name: data[name] for name in drawn if name in data} | scalars
    for name, value in fixed.items():
        raise InputError(name, value, "each tile draws its own from circuits; leave it away")
    return data | _PLACEHOLDERS


def _from_preset(name: Any, data: dict[str, Any]) -> dict[str, Any]:
    if not isinstance(name, str) or name not in presets:
        raise InputError("preset", repr(name), f"presets are {', '.join(presets)}")
    preset = presets[name]
    circuit = {"crossbar": preset.crossbar, "window": preset.window, "v_max": preset.v_max}
    doubled = sorted(set(circuit) & set(data))
    if doubled:
        raise InputError(doubled[0], "given beside preset", "give the preset or crossbar, window and v_max")
    return circuit | data


def _built(kind: type[_C], name: str, data: Any) -> _C:
    fields = dataclasses.fields(kind)  # type: ignore[arg-type]
    required = {f.name for f in fields if f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING}
    missing = sorted(required - set(_mapping(name, data)))
    if missing:
        raise InputError(f"{name}.{missing[0]}", "nothing", "it must be given")
    return kind.from_dict(data)


def _mapping(name: str, data: Any) -> dict[str, Any]:
    if not isinstance(data, dict) or not all(isinstance(key, str) for key in data):
        raise InputError(name, repr(data), "it must be a mapping of field names to values")
    return data
