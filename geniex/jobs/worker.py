"""The preparation that all workers share, and the record of a job that its worker did not survive."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import torch

from geniex.config import register_configs, registered_configs

Call = tuple[Callable[..., Any], tuple[Any, ...]]
"""A function that registers something, and its arguments."""
_lists: list[Callable[[], Iterable[Call]]] = []
"""For each registry of what users add, the function that lists the calls by which it is filled again."""


@dataclass(frozen=True)
class Failure:
    """The answer of a job that has no result."""

    reason: str
    """Reason why there is no result, for messages."""


@dataclass(frozen=True)
class Registered:
    """What users have registered in one process, for another one."""

    configs: tuple[tuple[str, str], ...]
    """Module and name of each configuration class."""
    calls: tuple[bytes, ...]
    """Pickled calls that register all else, such as layers and layouts."""


def share_registry(list_calls: Callable[[], Iterable[Call]]) -> None:
    """Make the worker processes of all later jobs repeat the calls that ``list_calls`` lists when the jobs start."""
    _lists.append(list_calls)


def collect_registered() -> Registered:
    """What users have registered in this process.

    What another process cannot import, such as a function within a function, is left out.
    """
    calls: list[bytes] = []
    for call in (call for list_calls in _lists for call in list_calls()):
        with suppress(pickle.PicklingError, AttributeError, TypeError):
            calls.append(pickle.dumps(call))
    return Registered(registered_configs(), tuple(calls))


def prepare_worker(registered: Registered) -> None:
    """Prepare this worker process for jobs: it knows what the user has registered, and computes on one thread."""
    register_configs(registered.configs)
    for pickled in registered.calls:
        with suppress(Exception):  # what importing a module of a user's raises is its own affair
            function, arguments = pickle.loads(pickled)
            function(*arguments)
    torch.set_num_threads(1)
