"""Means over a point's networks and draws, with their 95 % intervals."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from geniex.study.statistics import bootstrap_mean, wilson_interval

Runs = Mapping[tuple[str, int], Tensor]
"""A value for each image (images,), by network and draw."""


def estimate_mean(
    name: str, values: Runs, ends: str, interval: Callable[[Tensor], tuple[float, float]]
) -> dict[str, float | None]:
    """The mean of (images,) values over networks and draws, with its interval.

    ``interval`` gives it over several networks or draws; for a single run it is taken over the images.
    """
    if not values:
        return {name: None, f"{ends}low": None, f"{ends}high": None}
    units = average_by_unit(values)
    if len(units) > 1:
        found = interval(units)
    elif name.endswith("accuracy"):
        only = next(iter(values.values()))
        found = wilson_interval(int(only.sum()), len(only))
    else:
        found = bootstrap_mean(next(iter(values.values())))
    return {name: float(units.mean())} | name_ends(ends, found)


def name_ends(prefix: str, interval: tuple[float, float]) -> dict[str, float | None]:
    """The ends of an interval by column name."""
    return {f"{prefix}low": interval[0], f"{prefix}high": interval[1]}


def average_by_unit(values: Runs) -> Tensor:
    """Means over images (units,): one for each network if there are several, else one for each draw.

    Draws of one network are not independent samples of its training, so they are averaged within the network.
    """
    place = 0 if name_unit(values) == "networks" else 1
    out: dict[Any, list[Tensor]] = {}
    for key, value in values.items():
        out.setdefault(key[place], []).append(value.mean())
    return torch.stack([torch.stack(parts).mean() for parts in out.values()])


def average(values: Runs) -> float:
    """The mean over units; 0 if there are none."""
    return float(average_by_unit(values).mean()) if values else 0.0


def name_unit(values: Runs) -> str:
    """The samples of intervals: "networks", "draws" of one network, or "images" of a single run."""
    if len({network for network, _ in values}) > 1:
        return "networks"
    return "draws" if len(values) > 1 else "images"
