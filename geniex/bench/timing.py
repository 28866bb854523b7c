"""Side-by-side timing: contenders take turns, so that the machine's other load affects all of them."""

from __future__ import annotations

import math
import os
import platform
import statistics
import time
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np
import torch

import geniex
from geniex.errors import GeniexError

K = TypeVar("K", bound=Hashable)
T = TypeVar("T")


@dataclass
class Timing(Generic[T]):
    """The runs of one contender."""

    seconds: list[float] = field(default_factory=list)
    """Wall time of each run."""
    result: T | None = None
    """Result of the last run."""
    failure: str | None = None
    """Error message of a run that failed."""

    @property
    def median(self) -> float | None:
        """The median seconds of a run; None if the contender failed or has no timed run."""
        return None if self.failure is not None or not self.seconds else statistics.median(self.seconds)


def time_in_turns(actions: Mapping[K, Callable[[], T]], repeats: int, patience: float) -> dict[K, Timing[T]]:
    """The timings of ``actions`` that run in turns, for ``repeats`` rounds after a warm-up round.

    An action runs no further round once it has failed or has used ``patience`` seconds. An action whose warm-up
    uses them up keeps that run as its only time.
    """
    timings: dict[K, Timing[T]] = {key: Timing() for key in actions}
    spent = dict.fromkeys(actions, 0.0)
    for turn in range(repeats + 1):
        for key, action in actions.items():
            timing = timings[key]
            if timing.failure is not None or spent[key] > patience:
                continue
            began = time.perf_counter()
            try:
                timing.result = action()
            except GeniexError as error:
                timing.failure = " ".join(str(error).split())
                continue
            took = time.perf_counter() - began
            spent[key] += took
            if turn > 0 or took > patience:
                timing.seconds.append(took)
    return timings


@contextmanager
def use_torch_threads(count: int) -> Iterator[None]:
    """Let torch use ``count`` threads within the context."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def count_cores() -> int:
    """The number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def fit_growth(sizes: Sequence[int], seconds: Sequence[float]) -> float:
    """The exponent p of the least-squares fit seconds ~ size^p.

    >>> fit_growth([32, 64, 128], [1.0, 8.0, 64.0])
    3.0
    """
    slope = np.polyfit([math.log(n) for n in sizes], [math.log(s) for s in seconds], 1)[0]
    return round(float(slope), 9)


def describe_machine() -> dict[str, Any]:
    """The machine and the versions of the benchmark, JSON-ready."""
    packages = ("torch", "numpy", "scipy", "badcrossbar", "PySpice")
    versions = {"geniex": geniex.__version__, "python": platform.python_version()}
    versions |= {name: version for name in packages if (version := _version(name)) is not None}
    return {
        "platform": platform.platform(),
        "processor": _processor(),
        "cores": count_cores(),
        "load_average": list(os.getloadavg()) if hasattr(os, "getloadavg") else None,
        "versions": versions,
    }


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
