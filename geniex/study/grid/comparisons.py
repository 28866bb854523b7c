"""Comparisons of points on the same images: differences in accuracy, and the share of a drop that is recovered."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from geniex.study.grid.means import average, average_by_unit, estimate_mean, name_ends
from geniex.study.statistics import bootstrap_mean, bootstrap_ratio, difference_interval, ratio_interval

Key = tuple[str, int]
"""The network and the draw of a run."""


class Change(NamedTuple):
    """Correctness (images,), 0 or 1, of one run and of the runs that its recovered share is a ratio of."""

    own: Tensor
    before: Tensor
    """The same network on the same crossbars without mitigation."""
    reference: Tensor
    """The accuracy at the top of the drop: on ideal tiles, or in floating point."""


def make_difference_columns(pairs: Mapping[Key, tuple[Tensor, Tensor]]) -> dict[str, float | None]:
    """The mean distance of accuracies above others, from (own, other) pairs of correctness, with its interval."""
    apart = {key: own - other for key, (own, other) in pairs.items()}
    base = average({key: other for key, (_, other) in pairs.items()})
    interval = partial(difference_interval, low=-base, high=1 - base)
    return estimate_mean("difference", apart, "difference_", interval)


def compare_pairs(pairs: Mapping[Key, tuple[Tensor, Tensor]]) -> dict[str, float | int | None]:
    """The mean difference of (own, other) pairs of correctness, with its intervals over images and over networks."""
    if not pairs:
        return dict.fromkeys(("images", "difference", "low", "high", "networks_low", "networks_high"))
    apart = {key: own - other for key, (own, other) in pairs.items()}
    units, base = average_by_unit(apart), average({key: other for key, (_, other) in pairs.items()})
    low, high = bootstrap_mean(torch.cat(list(apart.values())))
    ends = difference_interval(units, -base, 1 - base) if len(units) > 1 else (None, None)
    told = {"images": len(next(iter(apart.values()))), "difference": float(units.mean()), "low": low, "high": high}
    return told | {"networks_low": ends[0], "networks_high": ends[1]}


def make_recovered_columns(name: str, changes: Mapping[Key, Change]) -> dict[str, float | None]:
    """The share of a drop that is recovered, over all runs together, with its intervals.

    Columns: ``name``; ``name``_low and ``name``_high, over networks or draws by Student's t, for a single run over its
    images; ``name``_images_low and ``name``_images_high, over the images of all runs by a bootstrap. All are None if
    nothing is lost. An interval is None if some network, or some resample of the images, loses nothing.
    """
    told: dict[str, float | None] = dict.fromkeys(name_recovered_columns(name))
    lost = {key: change.reference - change.before for key, change in changes.items()}
    if not changes or float(average_by_unit(lost).mean()) <= 0:
        return told
    back = {key: change.own - change.before for key, change in changes.items()}
    # Both intervals are of a ratio of means, not a mean of ratios: a network that loses little has a noisy share.
    backs, losses = average_by_unit(back), average_by_unit(lost)
    share = told[name] = float(backs.mean() / losses.mean())
    low, high = bootstrap_ratio(torch.cat(list(back.values())), torch.cat(list(lost.values())))
    if math.isfinite(low + high):
        told |= _around(share, f"{name}_images_", (low, high))
    if len(losses) == 1:
        told |= {f"{name}_low": told[f"{name}_images_low"], f"{name}_high": told[f"{name}_images_high"]}
    elif bool((losses > 0).all()):
        told |= _around(share, f"{name}_", ratio_interval(backs, losses))
    return told


def _around(share: float, prefix: str, interval: tuple[float, float]) -> dict[str, float | None]:
    """The ends of an interval; sums in another order must not put the share itself outside of it."""
    return name_ends(prefix, (min(interval[0], share), max(interval[1], share)))


def name_recovered_columns(name: str) -> list[str]:
    """The columns of ``make_recovered_columns``."""
    return [name, *(f"{name}_{end}" for end in ("low", "high", "images_low", "images_high"))]


def keep_shared_images(*right: Sequence[Any] | Tensor) -> list[Any]:
    """Correctness of several runs on the first images, which all of them have classified."""
    shared = min(map(len, right))
    return [one[:shared] for one in right]
