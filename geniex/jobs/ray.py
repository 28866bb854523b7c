"""Jobs on a Ray cluster; their answers come back to this process, and only this process writes files."""

from __future__ import annotations

import logging
import pickle
import uuid
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

from geniex.distribution import install_hint
from geniex.errors import InputError, JobError, MissingDependencyError
from geniex.jobs.worker import Failure, Registered, collect_registered, prepare_worker

_Item = TypeVar("_Item")
_Answer = TypeVar("_Answer")
_RETRIES = 3
"""Number of times that a job is tried again, on another worker, when its worker or node dies."""
_AHEAD = 2
"""Jobs handed out per processor of the cluster, so that no processor waits for this process."""


def run_on_ray(
    task: Callable[[_Item], _Answer],
    items: Iterable[_Item],
    at_once: int | None,
    recycle: int | None,
    gpus: float,
) -> Iterator[tuple[_Item, _Answer | Failure]]:
    """Each item with its answer, as ``geniex.jobs.run_jobs`` gives them from a Ray cluster.

    ``at_once`` jobs are handed out at a time; None hands out two for each processor of the cluster.

    Raises:
        InputError: the task cannot be sent to the cluster.
        MissingDependencyError: Ray is not installed.
        JobError: there is no cluster at ``RAY_ADDRESS``.
    """
    ray = _ray()
    connects = not ray.is_initialized()
    if connects:
        try:
            # Failures are raised here; Ray's own log of its start does not concern the caller.
            ray.init(log_to_driver=False, logging_level=logging.ERROR)
        except (ConnectionError, RuntimeError, ValueError) as error:
            raise JobError(
                f"no Ray cluster was found: {error}; set RAY_ADDRESS, or start a cluster with ray start --head"
            ) from error
    running: dict[Any, _Item] = {}
    try:
        options = {"num_cpus": 1, "num_gpus": gpus, "max_retries": _RETRIES, "max_calls": recycle or 0}
        work, shipped, queue = ray.remote(**options)(_work), _shipped(ray, task), iter(items)
        most = at_once or max(1, _AHEAD * int(ray.cluster_resources().get("CPU", 1)))
        while True:
            for item in queue:
                running[work.remote(shipped, item)] = item
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


_Shipped = tuple[str, Registered, Any]
"""A name for the task of one run, what the user has registered, and the reference of the task on the cluster."""


def _shipped(ray: Any, task: object) -> _Shipped:
    try:
        return uuid.uuid4().hex, collect_registered(), ray.put(task)
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        allowed = f"the work cannot be sent to a cluster ({error}): leave executor out to work locally"
        raise InputError("executor", repr("ray"), allowed) from None


_loaded: tuple[str, Any] = ("", None)
"""The name and the task of the run that this worker of the cluster last worked for."""


def _work(shipped: _Shipped, item: Any) -> Any:
    """The answer for one item; a worker loads the task once, however many items it is given."""
    import ray

    global _loaded
    name, registered, reference = shipped
    if _loaded[0] != name:
        prepare_worker(registered)
        _loaded = (name, ray.get(reference))
    return _loaded[1](item)


def _answer(ray: Any, ref: Any) -> Any:
    try:
        return ray.get(ref)
    except ray.exceptions.RayTaskError as error:
        # Ray's own error would print the worker's traceback in place of the message.
        raise (error.cause if isinstance(error.cause, Exception) else error) from None
    except ray.exceptions.RayError as error:
        return Failure(f"its Ray worker died {_RETRIES + 1} times: {error}")


def _ray() -> Any:
    try:
        import ray
    except ImportError:
        raise MissingDependencyError("ray", "executor ray", f"{install_hint('ray')}, or solve locally") from None
    return ray
