"""``geniex bench inference``: the time and memory of layers and networks on crossbars, beside torch's float ones."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from geniex.bench.extension import ABSENT, Extension, Note
from geniex.bench.inference_cases import Case, Product, observe_products
from geniex.bench.inference_models import CIRCUIT, Contender, make_contender, takes_part
from geniex.bench.inference_report import InferenceReport, InferenceRow, InferenceSettings
from geniex.bench.memory import MemoryMeter
from geniex.bench.roofline import (
    Limits,
    TileWork,
    Work,
    count_collapsed_work,
    count_product_work,
    count_tile_work,
    measure_limits,
    synchronise,
)
from geniex.bench.timing import Timing, describe_machine, time_in_turns, use_torch_threads
from geniex.errors import GeniexError
from geniex.mapping import Architecture


def bench_inference(
    settings: InferenceSettings, note: Note = lambda _: None, extension: Extension | None = None
) -> InferenceReport:
    """Time every emulator on every case, in turns with torch's float module."""
    taken = describe_machine()  # the machine's load before the benchmark adds to it
    device = torch.device(settings.device)
    taken["device"] = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    cases = settings.cases()
    limits: dict[int, Limits] = {}
    rows: list[InferenceRow] = []
    with torch.no_grad(), MemoryMeter() as meter:
        for threads in dict.fromkeys(settings.threads_of(case) for case in cases):
            with use_torch_threads(threads):
                limits[threads] = measure_limits(device, threads)
        bench = _Bench(settings, device, limits, meter)
        for case in cases:
            with use_torch_threads(settings.threads_of(case)):
                rows += bench.rows(case, note)
    notes = (*(() if extension else (ABSENT,)), *_left_out(settings))
    beside = extension or Extension()
    report = InferenceReport(settings, taken, tuple(limits.values()), notes, tuple(rows), beside.elsewhere())
    return replace(report, bars=beside.inference_bars(report))


def _left_out(settings: InferenceSettings) -> tuple[str, ...]:
    whole = [case.workload for case in settings.cases() if not takes_part(CIRCUIT, case)]
    if CIRCUIT not in settings.emulators or not whole:
        return ()
    return (
        f"no {CIRCUIT} on {', '.join(dict.fromkeys(map(str, whole)))}: it is timed on few vectors of single layers",
    )


@dataclass
class _Bench:
    """Everything that the rows of a run share."""

    settings: InferenceSettings
    device: torch.device
    limits: dict[int, Limits]
    meter: MemoryMeter
    _known: dict[tuple[Any, ...], TileWork] = field(default_factory=dict)

    def rows(self, case: Case, note: Note) -> list[InferenceRow]:
        """A row for each emulator; they run one by one because the programmed arrays of a network are large."""
        module, x = _workload(case, self.settings, self.device)
        found = observe_products(module, x)
        rows = []
        for name in self.settings.emulators:
            if takes_part(name, case):
                note(f"{case}: {name}")
                rows.append(self._row(name, case, module, x, found))
        return rows

    def _row(self, name: str, case: Case, module: nn.Module, x: Tensor, found: list[Product]) -> InferenceRow:
        try:
            mine = make_contender(name, case, module, x)
            timings = self._timed(mine, module, x)
        except (GeniexError, torch.OutOfMemoryError) as error:
            failed = Timing[Tensor | None](failure=" ".join(str(error).split()))
            return self._report(name, case, None, found, {"program": failed, "read": failed, "torch": Timing()})
        return self._report(name, case, mine, found, timings)

    def _timed(self, mine: Contender, module: nn.Module, x: Tensor) -> dict[str, Timing[Tensor | None]]:
        programmed: list[nn.Module] = []

        def float_module() -> Tensor:
            out = module(x)
            synchronise(self.device)
            return out

        def program() -> None:
            programmed.clear()  # frees the arrays of the round before, so that memory holds one set at a time
            programmed.append(mine.program())
            synchronise(self.device)

        def read() -> Tensor:
            if not programmed:
                raise GeniexError("the layer was not programmed")
            out = programmed[0](mine.x)
            synchronise(self.device)
            return out

        mine.warm_up()
        actions = {"torch": float_module, "program": program, "read": read}
        return time_in_turns(actions, self.settings.repeats, self.settings.patience)

    def _report(
        self,
        name: str,
        case: Case,
        mine: Contender | None,
        found: list[Product],
        timings: dict[str, Timing[Tensor | None]],
    ) -> InferenceRow:
        threads = self.settings.threads_of(case)
        architecture = case.architecture() if mine is None else mine.architecture
        programming, reading, floating = (timings[key] for key in ("program", "read", "torch"))
        failure = programming.failure or reading.failure
        seconds, base = None if mine is None or failure else _scaled(reading, mine.share), floating.median
        tile_vectors = sum(product.tile_vectors(architecture) for product in found)
        work = None if failure or mine is None else self._work(mine, case, found)
        return InferenceRow(
            workload=case.workload.name,
            batch=case.batch,
            tile=case.tile,
            bits=case.bits,
            slice_bits=case.slice_bits,
            stream_bits=case.stream_bits,
            signed=case.signed,
            emulator=name,
            adc=_adc(architecture),
            architecture=architecture.to_dict(),
            dtype="" if mine is None else str(mine.dtype).removeprefix("torch."),
            threads=threads,
            tiles=sum(product.tiles(architecture) for product in found),
            vectors=sum(product.vectors for product in found),
            tile_vectors=tile_vectors,
            program_seconds=programming.median,
            program_runs=len(programming.seconds),
            read_seconds=seconds,
            read_runs=len(reading.seconds),
            torch_seconds=base,
            over_torch=None if seconds is None or base is None else seconds / base,
            tile_vectors_per_second=None if seconds is None else tile_vectors / seconds,
            peak_bytes=self._peak(mine, case) if mine is not None and failure is None else None,
            flops_per_tile_vector=None if work is None else work.flops / tile_vectors,
            bytes_per_tile_vector=None if work is None else work.bytes / tile_vectors,
            limit_seconds=None if work is None else work.seconds(self.limits[threads]),
            error=None if mine is None or failure else _error(mine, reading.result),
            note="" if mine is None else mine.note,
            failure=failure,
        )

    def _work(self, mine: Contender, case: Case, found: list[Product]) -> Work | None:
        """The least work of all products of the case; None for the exact circuit."""
        if mine.name == CIRCUIT:
            return None
        item = mine.dtype.itemsize
        if mine.collapses:
            parts = [count_collapsed_work(product, item) for product in found]
        else:
            parts = [count_product_work(p, mine.architecture, self._tile_work(mine, case, p), item) for p in found]
        return Work(sum(part.flops for part in parts), sum(part.bytes for part in parts))

    def _tile_work(self, mine: Contender, case: Case, product: Product) -> TileWork:
        _, col_tiles = product.grid(mine.architecture)
        key = (mine.name, case.tile, case.slice_bits, case.stream_bits, col_tiles)
        if key not in self._known:
            like = torch.empty(0, dtype=mine.dtype, device=self.device)
            self._known[key] = count_tile_work(mine.emulator, mine.architecture, col_tiles, like)
        return self._known[key]

    def _peak(self, mine: Contender, case: Case) -> int | None:
        if not self.settings.memory:
            return None
        if self.device.type != "cuda":
            return self.meter.growth(_prepared, mine.name, case, self.settings)
        torch.cuda.reset_peak_memory_stats(self.device)
        before = torch.cuda.memory_allocated(self.device)
        mine.program()(mine.x)
        return torch.cuda.max_memory_allocated(self.device) - before


def _workload(case: Case, settings: InferenceSettings, device: torch.device) -> tuple[nn.Module, Tensor]:
    module = case.workload.module(settings.seed).requires_grad_(False)
    return module.to(device), case.workload.draw(case.batch, case.signed, settings.seed).to(device)


def _prepared(name: str, case: Case, settings: InferenceSettings) -> Callable[[], object]:
    """A function that programs and reads, after a warm-up on a tiny layer; it runs in its own process."""
    with torch.no_grad():
        mine = make_contender(name, case, *_workload(case, settings, torch.device(settings.device)))
        mine.warm_up()

    def whole() -> None:
        with torch.no_grad():
            mine.program()(mine.x)

    return whole


def _scaled(reading: Timing[Tensor | None], share: float) -> float | None:
    return None if reading.median is None else reading.median / share


def _error(mine: Contender, outputs: Tensor | None) -> float | None:
    """The RMS difference from the float module's outputs for the same inputs, over the RMS of these."""
    if outputs is None or not mine.trained:
        return None
    expected = mine.module(mine.x).double()
    return ((outputs.double() - expected).norm() / expected.norm()).item()


def _adc(architecture: Architecture) -> str:
    bits = "lossless" if architecture.adc_bits is None else f"{architecture.adc_bits} bit"
    return f"{bits}, {architecture.offset}"
