"""Remapping: moves kernels, word lines and bit lines to where wires hurt least, without retraining, in one call."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn

from geniex.config import Config, check_positive_int, check_seed
from geniex.errors import InputError
from geniex.jobs import share_registry
from geniex.mapping import Arrangement
from geniex.mitigation.remap.assignment import assign, expect_change
from geniex.mitigation.remap.observe import Batch, add_hooks, compute_mean_loss, observe
from geniex.mitigation.remap.orders import Bits, Rows, check_order, count_nearer, order_lines, order_rows, rank
from geniex.mitigation.remap.position_effects import has_own_ranges, has_places, sample_range_vectors
from geniex.mitigation.remap.propagate import expand_order, find_foldable
from geniex.mitigation.remap.rearrange import Direction, Granularity, can_be_sorted, sort_columns
from geniex.mitigation.remap.sensitivity import (
    MEASURES,
    OF_ERRORS,
    Scores,
    find_matrices,
    measure_effects,
    sensitivity,
    split_outputs,
)
from geniex.simulator import CrossbarMatrix, find_crossbar_layers, replace_by_ideal
from geniex.simulator.batches import LabelledData
from geniex.simulator.transforms import check_converted

Method = Literal["none", "srs", "drs", "assignment", "rearrange"]
Progress = Callable[[str, int, int], None]
"""A function that is called with a layer's name, the number of layers done and the number of all layers."""


@dataclass(frozen=True, kw_only=True)
class Remapping(Config):
    """The settings by which a network's matrices are placed on their tiles."""

    method: Method = "assignment"
    """Method that orders outputs. "none" keeps their natural order. "srs" is X-CHANGR's static remapping: one ranking
    from the clean network (from the network on crossbars, for measures of errors) puts the highest scores nearest the
    drivers. "drs" is its dynamic remapping: each layer in turn is ranked on the crossbars, with the layers before it
    mapped. "assignment" takes each layer in turn and puts outputs where the expected loss is least. "rearrange" is
    column rearrangement (R of Bhattacharjee et al., DATE 2022): outputs are sorted by their conductance and then cut
    into tiles, from the first tile on."""
    measure: str = "displacement"
    """Measure by which "srs" and "drs" rank outputs: a measure of ``sensitivity``, or "random"."""
    rows: Rows = "natural"
    """Order of word lines: "natural" (or the folded order), or "mdm" (Manhattan distance mapping), by conductance."""
    bits: Bits = "natural"
    """Order of a tile's bit lines: "natural", "reversed", "msb_near", "lsb_near" or "dense_near"."""
    fold: bool = True
    """Whether the next layer's word lines are wired in the order of outputs, where that is legal, so that the order
    need not be undone."""
    sweeps: int = 1
    """Number of passes of "assignment" over all layers."""
    places: int = 4
    """Number of places at which "assignment" reads each output."""
    direction: Direction = "descending"
    """Direction of "rearrange": the columns with the most conductance come first, or those with the least."""
    granularity: Granularity = "layer"
    """Granularity of "rearrange": one order for a layer, or one for each row of its tiles, which is undone before rows
    are added."""
    seed: int = 0
    """Seed of the measure "random"."""

    def __post_init__(self) -> None:
        check_order("method", self.method, Method)
        check_order("rows", self.rows, Rows)
        check_order("bits", self.bits, Bits)
        check_order("direction", self.direction, Direction)
        check_order("granularity", self.granularity, Granularity)
        if self.granularity == "row_tile" and self.rows != "natural":
            raise InputError("rows", repr(self.rows), "it must be 'natural' if each row of tiles has its own order")
        if self.measure not in (*MEASURES, "random"):
            raise InputError("measure", repr(self.measure), f"it must be one of {', '.join((*MEASURES, 'random'))}")
        check_positive_int("sweeps", self.sweeps)
        check_positive_int("places", self.places)
        check_seed(self.seed)


REMAPPINGS: dict[str, Remapping] = {
    "none": Remapping(method="none"),
    "random": Remapping(method="srs", measure="random"),
    "l1": Remapping(method="srs", measure="l1"),
    "srs": Remapping(method="srs"),
    "drs": Remapping(method="drs"),
    "srs_taylor": Remapping(method="srs", measure="taylor"),
    "drs_taylor": Remapping(method="drs", measure="taylor"),
    "assignment": Remapping(),
    "rearrange": Remapping(method="rearrange"),
    "rearrange_ascending": Remapping(method="rearrange", direction="ascending"),
    "rearrange_row_tile": Remapping(method="rearrange", granularity="row_tile"),
    "rearrange_row_tile_ascending": Remapping(method="rearrange", direction="ascending", granularity="row_tile"),
    "assignment_mdm": Remapping(rows="mdm", bits="reversed"),
    "mdm": Remapping(method="none", rows="mdm", bits="reversed"),
    "wagonn": Remapping(method="none", bits="dense_near"),
}
"""The remappings that studies compare, by name."""
_SHIPPED = dict(REMAPPINGS)


def _add_remapping(name: str, remapping: Remapping) -> None:
    REMAPPINGS[name] = remapping


share_registry(lambda: [(_add_remapping, item) for item in REMAPPINGS.items() if _SHIPPED.get(item[0]) != item[1]])


@dataclass(frozen=True)
class RemappedLayer:
    """The result of remapping one layer's outputs."""

    name: str
    moved: int
    """Number of outputs that are not in their natural place."""
    outputs: int
    undone: str
    """Place where the order is undone: "next layer" (its word lines are wired in this order), "outputs" (digitally),
    or "" if no output moved."""
    consumers: tuple[str, ...] = ()
    """The layers whose word lines are wired in this order."""
    expected: float | None = None
    """Change of the mean loss that "assignment" expected of this layer; None for other methods."""


@dataclass(frozen=True)
class Remapped:
    """The result of ``remap``."""

    model: nn.Module = field(repr=False, compare=False)
    """The converted model with its arrays rearranged."""
    remapping: Remapping
    layers: tuple[RemappedLayer, ...]

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready dictionary, without the model."""
        return {"remapping": self.remapping.to_dict(), "layers": [asdict(layer) for layer in self.layers]}


def remap(
    model: nn.Module,
    remapping: Remapping | str,
    calibration: LabelledData | Batch,
    *,
    progress: Progress | None = None,
) -> Remapped:
    """A converted ``model`` with kernels, word lines and bit lines in other places; it computes the same function.

    On ideal crossbars the outputs are the same to the bit wherever no ADC clips or rounds and no accumulator cuts bits
    off. On real crossbars the outputs that matter most lose less to the wires. The original is untouched. The slices of
    an output move as a group. All row tiles of a matrix share one order of outputs, unless ``granularity`` is
    "row_tile".

    Args:
        model: the model that ``convert`` returned (also varied, loaded or trainable).
        remapping: a ``Remapping``, or the name of one in ``REMAPPINGS``.
        calibration: training images and labels (count,) on which orders are chosen: (images, labels), a mapping with
            "labels", a loader of such batches, or a ``Batch``.
        progress: called after each layer.

    >>> from geniex import IdealEmulator, convert, presets
    >>> _ = torch.manual_seed(0)  # three outputs may be in order already
    >>> net = nn.Sequential(nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 3))
    >>> images, labels = torch.rand(16, 8), torch.arange(16) % 3
    >>> converted = convert(net, presets["geniex-16"].architecture(), IdealEmulator(), calibration=images)
    >>> remapped = remap(converted, "srs_taylor", (images, labels))
    >>> torch.equal(remapped.model(images), converted(images))
    True
    >>> [layer.undone for layer in remapped.layers]
    ['next layer', 'outputs']
    """
    check_converted(model)
    if isinstance(remapping, str):
        remapping = REMAPPINGS.get(remapping, remapping)
    if not isinstance(remapping, Remapping):
        given = repr(remapping) if isinstance(remapping, str) else type(remapping).__name__
        raise InputError("remapping", given, f"it must be a Remapping or one of {', '.join(REMAPPINGS)}")
    return _Remapper(model, remapping, Batch.of(calibration, model), progress or (lambda name, done, whole: None)).run()


class _Remapper:
    """A remapping in progress; ``self.model`` is the model remapped so far."""

    def __init__(self, model: nn.Module, remapping: Remapping, batch: Batch, say: Progress) -> None:
        self.model, self.remapping, self.batch, self.say = copy.deepcopy(model), remapping, batch, say
        self.layers = find_crossbar_layers(self.model)
        self.names = _called(self.model, batch)
        self.placed = [name for name in self.names if has_places(self.layers[name])]
        """The layers whose outputs can be ordered."""
        one = remapping.granularity == "layer" or remapping.method != "rearrange"
        found = find_foldable(self.model) if remapping.fold and one else {}
        self.folds = {name: folds for name, folds in found.items() if self._one_order(name, *folds.consumers)}
        self.natural = {name: [m.layout.arrangement for m in find_matrices(x)] for name, x in self.layers.items()}
        self.from_before: dict[str, Tensor] = {}
        """Orders of inputs by layer, as the layers before them give their outputs."""
        self.expected: dict[str, float] = {}

    def run(self) -> Remapped:
        """Remap all layers, in the order in which they are called."""
        method = self.remapping.method
        if method == "assignment":
            self._assign()
        elif method == "drs":
            self._dynamic()
        elif method == "rearrange":
            self._rearrange()
        else:
            scores: Scores = {}
            if method == "srs":
                # The effect of the crossbars' errors shows only on crossbars, and is taken before anything moves.
                judged = self.model if self.remapping.measure in OF_ERRORS else replace_by_ideal(self.model)
                scores = self._scores(judged, self.model, tuple(self.placed))
            for done, name in enumerate(self.names, start=1):
                self._arrange(name, scores.get(name))
                self.say(name, done, len(self.names))
        return Remapped(self.model, self.remapping, tuple(self._report(name) for name in self.names))

    def _dynamic(self) -> None:
        """Rank every layer on the present crossbars, where the layers before it are already mapped."""
        for done, name in enumerate(self.names, start=1):
            scores = self._scores(self.model, self.model, (name,)) if name in self.placed else {}
            self._arrange(name, scores.get(name))
            self.say(name, done, len(self.names))

    def _rearrange(self) -> None:
        """Sort every layer by its conductances; a layer whose row tiles differ has no single order to pass on."""
        for done, name in enumerate(self.names, start=1):
            matrices, told = find_matrices(self.layers[name]), self.remapping
            orders: list[Tensor | None] = [None] * len(matrices)
            if all(can_be_sorted(matrix) for matrix in matrices):
                orders = [sort_columns(matrix, told.direction, told.granularity) for matrix in matrices]
            self._put(name, self._arrangements(name, orders))
            self._pass_on(name)
            self.say(name, done, len(self.names))

    def _scores(self, model: nn.Module, arrays: nn.Module, names: tuple[str, ...]) -> Scores:
        told = self.remapping
        return sensitivity(model, told.measure, self.batch, arrays=arrays, layers=names, seed=told.seed)

    def _arrange(self, name: str, scores: Tensor | None) -> None:
        layer = self.layers[name]
        orders: list[Tensor | None] = [None] * len(find_matrices(layer))
        if scores is not None:
            parts = split_outputs(layer, scores)
            orders = [rank(part, m.layout) for part, m in zip(parts, find_matrices(layer), strict=True)]
        self._put(name, self._arrangements(name, orders))
        self._pass_on(name)

    def _assign(self) -> None:
        """Assign each layer's outputs in turn; a change that raises the loss of the whole network is undone."""
        for name in self.names:
            orders: list[Tensor | None] = [None] * len(find_matrices(self.layers[name]))
            self._put(name, self._arrangements(name, orders))
        before, steps = compute_mean_loss(self.model, self.batch), self.remapping.sweeps * len(self.placed)
        for done, name in enumerate(self.placed * self.remapping.sweeps, start=1):
            old = {layer: self._state(layer) for layer in (name, *self._followers(name))}
            orders, expected = self._best_orders(name)
            self._put(name, self._arrangements(name, orders))
            self._rewire_after(name)
            after = compute_mean_loss(self.model, self.batch)
            if after <= before:
                before, self.expected[name] = after, expected
            else:
                self._restore(old)
                self._pass_on(name)
            self.say(name, done, steps)

    def _best_orders(self, name: str) -> tuple[list[Tensor | None], float]:
        layer = self.layers[name]
        found: list[list[Tensor]] = [[] for _ in find_matrices(layer)]
        for part in self.batch.parts():
            seen = observe(self.model, part, (name,))[name]
            for k, effect in enumerate(measure_effects(layer, layer, seen, self.remapping.places)):
                found[k].append(effect)
        orders, expected = list[Tensor | None](), 0.0
        for parts, matrix in zip(found, find_matrices(layer), strict=True):
            near, whole = count_nearer(matrix.layout), torch.cat(parts)
            own, order = matrix.layout.arrangement.outputs, assign(whole, near)
            now = torch.arange(len(near)) if own is None else own.cpu()
            change = expect_change(whole, near, order) - expect_change(whole, near, now)
            orders.append(order if change < 0 else own)
            expected += min(change, 0.0)
        return orders, expected

    def _arrangements(self, name: str, orders: list[Tensor | None]) -> list[Arrangement]:
        """Arrangements with outputs in these ``orders``; word lines and bit lines follow the remapping's settings."""
        made, kind = [], self.remapping.rows if has_places(self.layers[name]) else "natural"
        for matrix, order, natural in zip(find_matrices(self.layers[name]), orders, self.natural[name], strict=True):
            outputs, rows = natural.outputs if order is None else order, order_rows(matrix, kind)
            lines = order_lines(matrix, self.remapping.bits, outputs)
            inputs = rows if rows is not None else self.from_before.get(name, natural.inputs)
            made.append(Arrangement(outputs, inputs, natural.lines if lines is None else lines))
        return made

    def _put(self, name: str, arrangements: list[Arrangement]) -> None:
        for k, (matrix, arrangement) in enumerate(zip(find_matrices(self.layers[name]), arrangements, strict=True)):
            if matrix.layout.arrangement != arrangement:
                matrix.arrange(arrangement, self._vectors(name, k, matrix))

    def _vectors(self, name: str, index: int, matrix: CrossbarMatrix) -> Tensor | None:
        """Inputs by which ADC ranges are chosen again; None if the matrix has no ranges of its own."""
        if not has_own_ranges(matrix):
            return None
        seen: list[Tensor] = []
        layer = self.layers[name]
        with (
            torch.no_grad(),
            add_hooks([(layer, lambda layer, args, output: seen.append(layer.matrix_inputs(args[0])))]),
        ):
            self.batch.first(16).run(self.model)
        return sample_range_vectors(layer.packing.split(seen[0])[index])

    def _pass_on(self, name: str) -> None:
        """Record the order of a layer's outputs for the layers after it."""
        order = self._order(name)
        for consumer in self._followers(name):
            if order is None:
                self.from_before.pop(consumer, None)
            else:
                self.from_before[consumer] = expand_order(order, self.layers[consumer].packing.inputs)

    def _rewire_after(self, name: str) -> None:
        """Wire the word lines of the layers after a layer in the order of its outputs."""
        self._pass_on(name)
        for consumer in self._followers(name):
            outputs = [m.layout.arrangement.outputs for m in find_matrices(self.layers[consumer])]
            self._put(consumer, self._arrangements(consumer, outputs))

    def _state(self, name: str) -> list[tuple[Arrangement, Tensor | None]]:
        """The arrangement and the ADC step of each of a layer's matrices."""
        return [(m.layout.arrangement, m.adc_step) for m in find_matrices(self.layers[name])]

    def _restore(self, states: dict[str, list[tuple[Arrangement, Tensor | None]]]) -> None:
        for name, state in states.items():
            self._put(name, [arrangement for arrangement, _ in state])
            for matrix, (_, step) in zip(find_matrices(self.layers[name]), state, strict=True):
                matrix.adc_step = step

    def _followers(self, name: str) -> tuple[str, ...]:
        """The layers whose word lines are wired in the order of a layer's outputs."""
        return self.folds[name].consumers if name in self.folds else ()

    def _order(self, name: str) -> Tensor | None:
        """The order of all outputs of a layer with one matrix; None is the natural order."""
        return find_matrices(self.layers[name])[0].layout.arrangement.outputs

    def _one_order(self, producer: str, *consumers: str) -> bool:
        """Whether the producer's outputs have one order and the consumers' word lines can be wired in this order."""
        one = len(self.layers[producer].matrices) == 1
        return one and all(has_places(self.layers[name]) for name in (producer, *consumers))

    def _report(self, name: str) -> RemappedLayer:
        layer, moved, outputs = self.layers[name], 0, 0
        for matrix in find_matrices(layer):
            order, outputs = matrix.layout.arrangement.outputs, outputs + matrix.layout.outputs
            if order is not None:
                moved += int((order.cpu().reshape(-1, order.shape[-1]) != torch.arange(order.shape[-1])).any(0).sum())
        consumers = self._followers(name) if moved else ()
        folded = bool(consumers) and self.remapping.rows == "natural"
        undone = ("next layer" if folded else "outputs") if moved else ""
        return RemappedLayer(name, moved, outputs, undone, consumers if folded else (), self.expected.get(name))


def _called(model: nn.Module, batch: Batch) -> list[str]:
    """The crossbar layers that the model calls, in the order of their first calls."""
    names: list[str] = []

    def note(name: str) -> Callable[..., None]:
        return lambda layer, args, output: None if name in names else names.append(name)

    with torch.no_grad(), add_hooks((layer, note(name)) for name, layer in find_crossbar_layers(model).items()):
        batch.first(1).run(model)
    return names
