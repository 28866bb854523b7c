"""The preparation that all workers share, and the record of a job that its worker did not survive."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch

from geniex.config import register_configs


@dataclass(frozen=True)
class Failure:
    """The answer of a job that has no result."""

    reason: str
    """Reason why there is no result, for messages."""


def prepare_worker(registered: Iterable[tuple[str, str]]) -> None:
    """Prepare this worker process for jobs: it knows the user's configuration classes and computes on one thread."""
    register_configs(registered)
    torch.set_num_threads(1)
