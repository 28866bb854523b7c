"""The stages of an accuracy prediction: their networks, and their logits part by part, here or in other processes."""

from __future__ import annotations

import copy
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from geniex.circuit import Crossbar
from geniex.emulator import CircuitEmulator, Emulator, IdealEmulator, LinearEmulator, SurrogateEmulator
from geniex.errors import ConversionWarning, JobError
from geniex.jobs import Executor, Failure, ResultStore, digest, run_jobs
from geniex.mapping import Architecture
from geniex.simulator import convert
from geniex.simulator.arguments import Arguments, Examples
from geniex.simulator.convert import PerLayer
from geniex.study.logits import compute_logits_of_part
from geniex.variation import derive_seed

Progress = Callable[[str, int, int], None]
"""A function called with the stage's name, the number of images done and of all images."""

STAGES = ("float", "fixed point", "ideal", "linear", "circuit")
"""Stages that are not surrogates."""
_LISTED = 3
"""Parts without a result that an error message spells out."""


@dataclass(frozen=True)
class Logits:
    """The logits that a network gave for some images."""

    values: Tensor
    """Logits (images, classes)."""
    seconds: float
    """Seconds spent on them, over all runs and workers."""


@dataclass(frozen=True)
class Part:
    """Some neighbouring images of one stage, which go through its network in one call."""

    stage: str
    first: int
    """Position of the first image among all images."""
    images: Arguments


@contextmanager
def seed_by_names(*names: str | int) -> Iterator[None]:
    """Seed torch by ``names``, so that a network that draws random numbers draws the same ones in every process."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(0, *names))
        yield


@dataclass
class StageTask:
    """The task that gives the logits of a ``Part``; a process builds the network of a stage at its first part."""

    model: nn.Module
    crossbar: Crossbar
    architecture: Architecture
    surrogates: Mapping[str, SurrogateEmulator]
    """Emulators of the surrogates, by the names of their stages."""
    circuit_tol: float
    per_layer: PerLayer | None
    calibration: list[Arguments] | Callable[[nn.Module], object]

    def __post_init__(self) -> None:
        self._networks: dict[str, nn.Module] = {}

    def __getstate__(self) -> dict[str, Any]:
        # Each process builds its own networks, which may be many times as large as the model.
        return vars(self) | {"_networks": {}}

    @torch.no_grad()
    def __call__(self, part: Part) -> Logits:
        """The logits of a part, with the seconds that they took; building the network is not counted."""
        network = self.network(part.stage)
        with seed_by_names("images", part.first):
            began = time.perf_counter()
            values = compute_logits_of_part(part.images, network)
            if values.device.type == "cuda":
                torch.cuda.synchronize(values.device)
            return Logits(values, time.perf_counter() - began)

    def network(self, stage: str, *, warn: bool = False) -> nn.Module:
        """The network of a stage; those of the last one and of the circuit stay in memory.

        With ``warn`` the conversion may warn; all stages have the same reasons to.
        """
        if stage not in self._networks:
            self._networks = {name: built for name, built in self._networks.items() if name == "circuit"}
            with seed_by_names("network"), nullcontext() if warn else warnings.catch_warnings():
                if not warn:
                    warnings.simplefilter("ignore", ConversionWarning)
                self._networks[stage] = self._built(stage)
        return self._networks[stage]

    def _built(self, stage: str) -> nn.Module:
        if stage == "float":
            return copy.deepcopy(self.model).eval()
        if stage == "circuit":
            # The circuit is the reference of the other stages and is solved in float64.
            emulator = CircuitEmulator(self.crossbar, tol=self.circuit_tol)
            return self._converted(emulator, self.architecture, torch.float64)
        if stage == "fixed point":
            return self._converted(IdealEmulator(), _without_converters(self.architecture))
        plain: dict[str, Emulator] = {"ideal": IdealEmulator(), "linear": LinearEmulator(self.crossbar)}
        return self._converted((plain | dict(self.surrogates))[stage], self.architecture)

    def _converted(self, emulator: Emulator, arch: Architecture, dtype: torch.dtype | None = None) -> nn.Module:
        return convert(self.model, arch, emulator, per_layer=self.per_layer, calibration=self.calibration, dtype=dtype)


def compute_stage_logits(
    task: StageTask,
    stages: Mapping[str, Examples],
    keys: Mapping[str, str],
    *,
    batch: int,
    store: ResultStore,
    workers: int | None,
    executor: Executor,
    progress: Progress | None,
) -> dict[str, Logits]:
    """The logits of each stage for its images.

    The images are split into parts of at most ``batch``, whatever the number of workers, and each part goes through
    the network in one call. No result thus depends on which process has which parts. Parts whose logits are in
    ``store`` are not run again, and a network is only built where parts are left.

    Args:
        task: gives the logits of a part.
        stages: the images of each stage.
        keys: the digest of everything that the logits of a stage depend on, apart from the images.
        batch: the largest number of images in a part.
        store: the place for the parts' logits.
        workers, executor: where the parts run, as ``geniex.jobs.run_jobs`` takes them.
        progress: called at first for stages of which parts are in the store, and then as parts are done.

    Raises:
        JobError: some parts have no result because the workers that ran them died, or ``run_jobs`` raises it.
    """
    run = _Run(stages, keys, batch, store, progress or (lambda stage, done, total: None))
    gpus = 1.0 if any(images.device.type == "cuda" for images in stages.values()) else 0.0
    failed: list[str] = []
    for part, answer in run_jobs(task, run.left(), workers=workers, executor=executor, gpus=gpus):
        if isinstance(answer, Failure):
            last = part.first + len(part.images) - 1
            failed.append(f"{part.stage}, images {part.first} to {last}: {answer.reason}")
        else:
            run.keep(part, answer)
    if failed:
        more = f"; and {len(failed) - _LISTED} more" if len(failed) > _LISTED else ""
        told = "; ".join(failed[:_LISTED])
        raise JobError(f"{len(failed)} parts failed: {told}{more}; repeat the call to try them again")
    return run.joined()


class _Run:
    """The parts of all stages, and the logits of those that are done."""

    def __init__(
        self, stages: Mapping[str, Examples], keys: Mapping[str, str], batch: int, store: ResultStore, say: Progress
    ) -> None:
        self._stages, self._keys, self._store, self._say = stages, keys, store, say
        self._parts = [part for stage, images in stages.items() for part in _parts(stage, images, batch)]
        self._done: dict[str, dict[int, Logits]] = {stage: {} for stage in stages}
        for part in self._parts:
            held = self._store.load_tensors(part.stage, self._key(part))
            if held is not None:
                self._done[part.stage][part.first] = Logits(held["logits"], float(held["seconds"]))
        for stage, done in self._done.items():
            if done:
                self._tell(stage)

    def left(self) -> Iterator[Part]:
        """Each part that is still to be done."""
        for part in self._parts:
            if part.first not in self._done[part.stage]:
                yield Part(part.stage, part.first, part.images.copied())

    def keep(self, part: Part, logits: Logits) -> None:
        """Keep the logits of a part."""
        seconds = torch.tensor(logits.seconds, dtype=torch.float64)
        self._store.keep_tensors(part.stage, self._key(part), {"logits": logits.values, "seconds": seconds})
        self._done[part.stage][part.first] = logits
        self._tell(part.stage)

    def joined(self) -> dict[str, Logits]:
        """The logits of each stage, when all parts are done."""
        out: dict[str, Logits] = {}
        for stage, images in self._stages.items():
            parts = [logits for _, logits in sorted(self._done[stage].items())]
            values = torch.cat([logits.values.to(images.device) for logits in parts])
            out[stage] = Logits(values, sum(logits.seconds for logits in parts))
        return out

    def _tell(self, stage: str) -> None:
        done = sum(len(logits.values) for logits in self._done[stage].values())
        self._say(stage, done, len(self._stages[stage]))

    def _key(self, part: Part) -> str:
        return "" if self._store.folder is None else digest(self._keys[part.stage], part.first, part.images)


def _parts(stage: str, images: Examples, batch: int) -> Iterator[Part]:
    first = 0
    for part in images.split(batch):
        yield Part(stage, first, part)
        first += len(part)


def _without_converters(architecture: Architecture) -> Architecture:
    """The architecture with the same number formats but exact sums: no ADC, unbounded accumulators."""
    pairs = architecture.weight_scheme != "twos_complement"
    return architecture.replace(
        adc_bits=None,
        adc_range="unit",
        adc_granularity="layer",
        accumulator_bits=None,
        offset="analog_difference" if pairs else "ideal_after",
    )
