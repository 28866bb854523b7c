"""Work on a Ray cluster: runs handed out to its processors, and their answers as they come."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

from geniex.config import register_configs, registered_configs
from geniex.distribution import install_hint
from geniex.errors import MissingDependencyError, SweepError

_Answer = TypeVar("_Answer")
_RETRIES = 3
"""Number of times that a run is tried again, on another worker, when its worker or node dies."""
_AHEAD = 2
"""Runs handed out per processor of the cluster, so that no processor waits for this process."""


def run_on_ray(
    work: Callable[..., _Answer | str],
    runs: Sequence[tuple[Any, ...]],
    at_once: int | None,
    recycle: int | None = None,
    gpus: float = 0.0,
) -> Iterator[tuple[int, _Answer | str]]:
    """Yields each run when it is done: its position in ``runs``, and what ``work(*run)`` gave or why its worker died.

    This is ``solve_on_ray`` for any picklable work. ``gpus`` is the share of a GPU that each run takes.
    """
    ray = _ray()
    connects = not ray.is_initialized()
    if connects:
        try:
            # Failures are raised here; Ray's own log of its start does not concern the user of a sweep.
            ray.init(log_to_driver=False, logging_level=logging.ERROR)
        except (ConnectionError, RuntimeError, ValueError) as error:
            raise SweepError(f"no Ray cluster: {error}; set RAY_ADDRESS, or start one with ray start --head") from error
    options = {"num_cpus": 1, "num_gpus": gpus, "max_retries": _RETRIES, "max_calls": recycle or 0}
    remote = ray.remote(**options)(_registering(work))
    running: dict[Any, int] = {}
    queue = iter(range(len(runs)))
    try:
        most = at_once or max(1, _AHEAD * int(ray.cluster_resources().get("CPU", 1)))
        while True:
            for k in queue:
                running[remote.remote(*runs[k])] = k
                if len(running) >= most:
                    break
            if not running:
                return
            (ref,), _ = ray.wait(list(running), num_returns=1)
            yield running.pop(ref), _answer(ray, ref)
    finally:
        for ref in running:
            ray.cancel(ref)
        if connects:
            ray.shutdown()


def _registering(work: Callable[..., _Answer]) -> Callable[..., _Answer]:
    """``work`` for another process; it first registers the configuration classes that users registered in this one."""
    registered = registered_configs()

    def run(*arguments: Any) -> _Answer:
        register_configs(registered)
        return work(*arguments)

    return run


def _answer(ray: Any, ref: Any) -> Any:
    try:
        return ray.get(ref)
    except ray.exceptions.RayTaskError:
        raise  # this error is also an instance of the class that the worker raised
    except ray.exceptions.RayError as error:
        return f"its Ray worker died {_RETRIES + 1} times: {error}"


def _ray() -> Any:
    try:
        import ray
    except ImportError:
        raise MissingDependencyError("ray", "executor ray", f"{install_hint('ray')}, or solve locally") from None
    return ray
