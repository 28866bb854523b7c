"""The configuration of a sweep."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from geniex.circuit import Crossbar
from geniex.config import Config, check_number, check_positive_int, check_seed
from geniex.errors import InputError
from geniex.mapping import ConductanceWindow
from geniex.mapping.window import check_drive
from geniex.sweep.circuits import CircuitRanges, check_spans
from geniex.sweep.strategies import SampleMix

Engine = Literal["native", "ngspice"]
ENGINES = ("native", "ngspice")
_OPTIONAL = ("circuits", "tiles_from", "vectors_from")
"""Fields that the first sweep files did not have."""
_NETWORK_BITS = 12
"""Most bits of a slice or stream that is taken from a network; ``geniex.mapping.Architecture`` has this limit."""
_MAX_BITS = 16
"""Most bits of a slice or a stream; the codes are stored in at most 16 bits."""


@dataclass(frozen=True)
class SweepConfig(Config):
    """The circuits, levels and vectors of one sweep. It determines every sample, see ``geniex.sweep.sampling``."""

    crossbar: Crossbar
    """The circuit to solve."""
    window: ConductanceWindow
    """Conductances of the cells' levels."""
    v_max: float
    """Driver voltage of the highest stream level, volt."""
    tiles: int
    """Number of conductance matrices (tiles) to draw."""
    vectors: int
    """Number of voltage vectors to draw for each tile."""
    slice_bits: int = 4
    """Bits of a weight slice: cells have 2**slice_bits levels."""
    stream_bits: int = 4
    """Bits of an input stream: drivers have 2**stream_bits levels."""
    dnn_share: float = 0.5
    """Share of network-like draws in the strategy "levels": bit slices of weights in tiles, bit streams of activations
    in vectors."""
    seed: int = 0
    """Seed of all draws, at least 0."""
    engine: Engine = "native"
    """Solver of the circuits."""
    shard_tiles: int = 32
    """Tiles that are solved and made durable together; a multiple of 8 wastes no work of the native engine."""
    circuits: CircuitRanges | None = None
    """Ranges from which each tile draws its own circuit; ``crossbar`` then gives only the shape and the cell type, and
    ``window``, ``v_max`` and both bit widths are not used. None means that all tiles share one circuit."""

    tiles_from: SampleMix | None = None
    """Strategies that draw the tiles, with weights; None means "levels" alone."""
    vectors_from: SampleMix | None = None
    """Strategies that draw the vectors, with weights; None means "levels" alone. A network vector for a network tile
    is taken from the inputs of that tile's own layer and rows."""

    def __post_init__(self) -> None:
        for name, kind in (("crossbar", Crossbar), ("window", ConductanceWindow)):
            if not isinstance(getattr(self, name), kind):
                raise InputError(name, repr(getattr(self, name)), f"it must be a {kind.__name__}")
        check_drive(self.v_max)
        for name in ("tiles", "vectors", "shard_tiles"):
            check_positive_int(name, getattr(self, name))
        for name in ("slice_bits", "stream_bits"):
            check_positive_int(name, getattr(self, name), maximum=_MAX_BITS)
        check_number("dnn_share", self.dnn_share, low=0.0, high=1.0)
        check_seed(self.seed)
        if self.engine not in ENGINES:
            raise InputError("engine", repr(self.engine), f"it must be one of {', '.join(ENGINES)}")
        optional = {"circuits": CircuitRanges, "tiles_from": SampleMix, "vectors_from": SampleMix}
        for name, wanted in optional.items():
            if getattr(self, name) is not None and not isinstance(getattr(self, name), wanted):
                raise InputError(name, repr(getattr(self, name)), f"it must be a {wanted.__name__}")
        if self.circuits is not None:
            check_spans(self.crossbar.cell)
        self._check_network_bits()

    def _check_network_bits(self) -> None:
        for mix, name in ((self.tiles_from, "slice_bits"), (self.vectors_from, "stream_bits")):
            drawn = (getattr(self, name),) if self.circuits is None else getattr(self.circuits, name)
            if mix is not None and mix.network and max(drawn) > _NETWORK_BITS:
                raise InputError(
                    name, max(drawn), f"it must be at most {_NETWORK_BITS} where levels come from a network"
                )

    def to_dict(self) -> dict[str, Any]:
        """The configuration as plain values, without unused later fields: it then equals that of older files, and
        keeps its digest."""
        out = super().to_dict()
        return {name: value for name, value in out.items() if name not in _OPTIONAL or value is not None}

    @property
    def shards(self) -> int:
        """The number of shards that hold all tiles."""
        return -(-self.tiles // self.shard_tiles)

    def shard_range(self, shard: int) -> tuple[int, int]:
        """The first tile of ``shard`` and the one after its last."""
        start = shard * self.shard_tiles
        return start, min(start + self.shard_tiles, self.tiles)
