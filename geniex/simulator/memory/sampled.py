"""Passes without values, in which one piece of work stands for all similar ones.

A matrix is read in chunks of inputs and of row tiles. One chunk of each size is read under ``LiveBytes``, which counts
its memory; all chunks together are then one operation that takes the memory of them all. Likewise, a few tiles are
programmed to find the memory that programming all trainable weights takes.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from geniex.emulator import Emulator, EmulatorWrapper, map_tensors
from geniex.simulator.collapse import Programmed
from geniex.simulator.layers.crossbar import find_crossbar_matrices
from geniex.simulator.memory.live import Account, LiveBytes
from geniex.simulator.read import Reader
from geniex.simulator.recompute import collect_tensors
from geniex.simulator.weights import WeightWatch

_PROGRAMMED_CELLS = 1 << 18
"""Number of cells that are programmed to find what programming more of them takes."""
_MANY_OPERATIONS = 10_000
"""Operations of programming one tile beyond which only one tile is programmed; its kept values then dominate."""


class _Cost(NamedTuple):
    """The memory [bytes] that a piece of work takes."""

    forward: float
    """Bytes at the peak of the forward pass, including kept values and results."""
    results: float
    kept: float = 0
    """Bytes kept from the forward to the backward pass, without the results."""
    backward: float = 0
    """Bytes at the peak of the backward pass, including those kept before."""
    felt: tuple[bool, ...] = ()
    """Whether each input gets a gradient."""
    operations: int = 0

    def times(self, count: float) -> _Cost:
        """The cost of ``count`` such pieces, one after the other."""
        before = (count - 1) * (self.kept + self.results)
        kept = count * self.kept
        return _Cost(
            before + self.forward,
            count * self.results,
            kept,
            kept - self.kept + self.backward,
            self.felt,
            self.operations,
        )

    def then(self, other: _Cost) -> _Cost:
        """The cost of this piece and then of ``other``, which works on other parts of the same inputs."""
        forward = max(self.forward, self.kept + self.results + other.forward)
        backward = max(self.kept + other.backward, self.backward)
        return _Cost(forward, self.results + other.results, self.kept + other.kept, backward, self.felt)

    def of_tiles(self, more: float) -> _Cost:
        """The cost for ``more`` times the tiles: results and kept values grow, and the workspace stays the same."""
        results, kept = more * self.results, more * self.kept
        grown = results + kept - self.results - self.kept
        return _Cost(self.forward + grown, results, kept, self.backward + kept - self.kept, self.felt, self.operations)

    def repeated(self, again: _Cost) -> _Cost:
        """The cost of this piece if checkpointed: the forward pass took ``again``, and the backward pass repeats it."""
        return _Cost(again.forward, self.results, 0, max(self.forward, self.backward), self.felt)


class Meter:
    """A meter of passes, which remembers the costs of pieces of work."""

    def __init__(self) -> None:
        self.live = LiveBytes()
        self._costs: dict[Any, _Cost] = {}

    def prepared(self, model: nn.Module) -> nn.Module:
        """``model`` with matrices that are read and programmed by representative pieces of work."""
        for matrix in find_crossbar_matrices(model).values():
            inner = matrix.emulator
            matrix.set_emulator(SizedEmulator(inner.emulator if isinstance(inner, SizedEmulator) else inner, self))
            matrix._reader = _reader_of(matrix._reader, self)  # type: ignore[method-assign, assignment]
            if matrix.weight is not None:  # so is a model after its first pass, which programs again
                matrix._watch = WeightWatch(matrix.weight, matrix.weight)
        return model

    def peak(self, model: nn.Module, given: tuple[tuple[Any, ...], dict[str, Any]], gradients: bool) -> int:
        """Peak bytes of a pass for ``given`` arguments and keywords, including a backward pass with ``gradients``."""
        args, kwargs = given
        self.live = LiveBytes()
        with self.live, torch.set_grad_enabled(gradients):
            out = model(*args, **kwargs)
            ends = [leaf for leaf in tree_leaves(out) if isinstance(leaf, Tensor) and leaf.requires_grad]
            if ends:
                torch.autograd.backward(ends, [torch.empty_like(end) for end in ends])
        for parameter in model.parameters():
            parameter.grad = None
        return self.live.account.peak

    def pulse(self, count: float) -> None:
        """Count ``count`` bytes that are taken and given back at once, which only the peak sees."""
        self.live.account.pulse(round(count))

    def cost(self, key: Any, work: Callable[..., Any], tensors: Sequence[Tensor]) -> _Cost:
        """The cost of ``work`` on ``tensors``, with its backward pass if any of them requires a gradient."""
        key = (key, torch.is_grad_enabled(), *((x.shape, x.dtype, x.requires_grad) for x in tensors))
        if key not in self._costs:
            with self.live.apart():
                leaves = [x.detach().requires_grad_(x.requires_grad) for x in tensors]
                self._costs[key] = _measured(self.live, work, leaves)
        return self._costs[key]


def _measured(live: LiveBytes, work: Callable[..., Any], leaves: Sequence[Tensor]) -> _Cost:
    before = live.operations
    with live.apart() as account:
        outs = collect_tensors(work(*leaves))
        forward, results = account.peak, live.of(outs)
        kept = account.now - results
        ends = [out for out in outs if out.requires_grad]
        if not ends or not torch.is_grad_enabled():
            return _Cost(forward, results, operations=live.operations - before)
        with live.apart():
            cotangents = [torch.empty_like(end) for end in ends]
        del outs
        account.peak = account.now
        wanted = [leaf for leaf in leaves if leaf.requires_grad]
        found = torch.autograd.grad(ends, wanted, cotangents, allow_unused=True)
    grads = iter(found)
    felt = tuple(leaf.requires_grad and next(grads) is not None for leaf in leaves)
    return _Cost(forward, results, kept, account.peak - results, felt, live.operations - before)


class _Kept:
    """Bytes that stay on an account as long as autograd's graph holds this object."""

    def __init__(self, account: Account, count: int) -> None:
        self.account, self.count = account, count
        account.add(count)

    def let_go(self) -> None:
        """Give the bytes back, once."""
        count, self.count = self.count, 0
        self.account.add(-count)

    def __del__(self) -> None:
        self.let_go()


class _StandIn(torch.autograd.Function):
    """An operation that takes the memory of a piece of work, and makes results and gradients of the same sizes.

    ``holding`` says that the work keeps its first input for the backward pass.
    """

    @staticmethod
    def forward(ctx: Any, meter: Meter, cost: _Cost, holding: bool, made: Callable[[], Any], *inputs: Tensor) -> Any:
        meter.pulse(cost.forward)
        ctx.meter, ctx.cost, ctx.device = meter, cost, inputs[0].device
        ctx.inputs = [(x.shape, x.dtype) for x in inputs]
        if holding:
            ctx.save_for_backward(inputs[0])
        ctx.set_materialize_grads(False)
        ctx.kept = _Kept(meter.live.account, round(cost.kept))
        return made()

    @staticmethod
    def backward(ctx: Any, *_: Any) -> Any:
        ctx.meter.pulse(ctx.cost.backward - ctx.cost.kept)
        ctx.kept.let_go()
        wanted = zip(ctx.inputs, ctx.cost.felt, strict=True)
        grads = [
            torch.empty(shape, dtype=dtype, device=ctx.device) if felt else None for (shape, dtype), felt in wanted
        ]
        return None, None, None, None, *grads


def _reader_of(make: Callable[[Tensor | None], Reader], meter: Meter) -> Callable[[Tensor | None], Reader]:
    def made(codes: Tensor | None) -> Reader:
        reader = make(codes)
        return _SampledReader(**{f.name: getattr(reader, f.name) for f in dataclasses.fields(reader)}, meter=meter)

    return made


@dataclass(frozen=True)
class _SampledReader(Reader):
    """A reader that reads one chunk of each size, which stands for all others."""

    meter: Meter = None  # type: ignore[assignment]

    def product(self, integers: Tensor, tiles: Programmed) -> Tensor:
        """Products of the right shape, without values, which take the memory of a real read."""
        if tiles.weights is not None:
            return super().product(integers, tiles)
        size, row_tiles = self.chunk(len(integers), tiles)
        chunks, rest = divmod(len(integers), size)
        cost = self._chunk_cost(integers[:size], tiles, row_tiles).times(chunks)
        if rest:
            cost = cost.then(self._chunk_cost(integers[:rest], tiles, row_tiles))
        # The results of all chunks are put into one tensor, and so are their gradients.
        joined = cost.kept + 2 * cost.results
        split = 2 * integers.nbytes if integers.requires_grad else 0
        # Each further chunk adds its own gradients to those of the tiles.
        felt = zip(collect_tensors((tiles, self.codes)), cost.felt[1:], strict=False)
        added = sum(tensor.nbytes for tensor, one in felt if one) if len(integers) > size else 0
        cost = cost._replace(forward=max(cost.forward, joined), backward=max(cost.backward + added, split))
        layout = self.layout
        shape = (len(integers), layout.col_tiles, layout.architecture.outputs_per_tile)
        again = self.checkpoint and torch.is_grad_enabled()
        return layout.join_outputs(self._stand_in(cost, again, shape, integers, tiles))

    def _chunk_cost(self, integers: Tensor, tiles: Programmed, row_tiles: int) -> _Cost:
        cost = self._cost(lambda reader, x, held: reader._read(x, held, row_tiles), row_tiles, integers, tiles)
        if not self.checkpoint or not torch.is_grad_enabled():
            return cost
        with torch.no_grad():
            return cost.repeated(self._chunk_cost(integers, tiles, row_tiles))

    def _partial(self, levels: Tensor, place: Tensor, tiles: Programmed, at: slice) -> Tensor:
        def work(reader: _SampledReader, levels: Tensor, tiles: Programmed) -> Tensor:
            return Reader._partial(reader, levels, place, tiles, at)

        cost = self._cost(work, ("partial", at.stop - at.start), levels, tiles)
        layout = self.layout
        shape = (levels.shape[1], layout.col_tiles, layout.architecture.outputs_per_tile)
        # Products with conductances that want a gradient keep the levels.
        holding = any(tensor.requires_grad for tensor in collect_tensors(tiles))
        return self._stand_in(cost, holding, shape, levels, tiles)

    def _stand_in(self, cost: _Cost, holding: bool, shape: Sequence[int], first: Tensor, tiles: Programmed) -> Tensor:
        def made() -> Tensor:
            return torch.empty(shape, dtype=torch.float64, device=first.device)

        return _StandIn.apply(self.meter, cost, holding, made, first, *collect_tensors((tiles, self.codes)))

    def _cost(self, work: Callable[..., Tensor], key: Any, first: Tensor, tiles: Programmed) -> _Cost:
        """The cost of this reader's ``work`` on the ``first`` tensor and the tiles."""

        def on_leaves(first: Tensor, *others: Tensor) -> Tensor:
            leaf = iter(others)
            held, codes = map_tensors((tiles, self.codes), lambda _: next(leaf))
            return work(dataclasses.replace(self, codes=codes), first, held)

        step = None if self.step is None else self.step.shape
        alike = (
            _named(self.emulator),
            self.layout.architecture,
            self.layout.stack,
            step,
            self.non_negative,
            tiles.live,
        )
        return self.meter.cost((alike, key), on_leaves, [first, *collect_tensors((tiles, self.codes))])


class SizedEmulator(EmulatorWrapper):
    """``emulator`` with fake arrays: a few tiles are programmed and many more get their sizes, and a ``meter`` learns
    the memory that programming takes."""

    def __init__(self, emulator: Emulator, meter: Meter | None = None) -> None:
        super().__init__(emulator)
        self.meter = meter

    def around(self, emulator: Emulator) -> SizedEmulator:
        """Another ``emulator`` with fake arrays, and the same meter."""
        return SizedEmulator(emulator, self.meter)

    def read(self, array: Any, voltages: Tensor) -> Tensor:
        """Column currents (..., cols) [A]."""
        return self.emulator.read(array, voltages)

    def response(self, array: Any) -> Tensor | None:
        """The emulator's."""
        return self.emulator.response(array)

    def program(self, conductances: Tensor) -> Any:
        """The array of (..., rows, cols) [S]."""
        lead = conductances.shape[:-2]
        count = math.prod(lead)
        if self.meter is None and count <= 1:
            return self.emulator.program(conductances)
        one = conductances.detach()[(slice(0, 1),) * len(lead)]
        with self.meter.live.apart() if self.meter is not None else nullcontext():
            array = self.emulator.program(one)
        own = one.untyped_storage()._cdata
        alike: dict[Any, Tensor] = {}

        def sized(tensor: Tensor) -> Tensor:
            """The resized tensor, shared where the original is; conductances are replaced by the given ones."""
            if tensor.untyped_storage()._cdata == own:
                return conductances
            key = (tensor.untyped_storage()._cdata, tensor.storage_offset(), tensor.shape)
            if key not in alike:
                alike[key] = tensor.new_empty((*lead, *tensor.shape[len(lead) :]))
            return alike[key]

        if self.meter is None:
            return map_tensors(array, sized)
        cost = self._cost(conductances, count, self.meter)

        def made() -> tuple[Tensor, ...]:
            return tuple(collect_tensors(map_tensors(array, lambda tensor: sized(tensor).detach())))

        outs = iter(_StandIn.apply(self.meter, cost, True, made, conductances))
        return map_tensors(array, lambda _: next(outs))

    def _cost(self, conductances: Tensor, count: int, meter: Meter) -> _Cost:
        """The cost of programming ``count`` tiles."""
        few = min(count, max(1, _PROGRAMMED_CELLS // math.prod(conductances.shape[-2:])))

        def of(tiles: int) -> _Cost:
            like = torch.empty(tiles, *conductances.shape[-2:], dtype=conductances.dtype, device=conductances.device)
            like.requires_grad_(conductances.requires_grad)
            return meter.cost(_named(self.emulator), self.emulator.program, [like]).of_tiles(count / tiles)

        cost = of(1)
        return of(few) if cost.operations < _MANY_OPERATIONS else cost


def _named(emulator: Emulator) -> Any:
    return type(emulator.worker), emulator.name, emulator.floats_per_read, emulator.deterministic
