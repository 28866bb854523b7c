"""The tables of a remapping study: accuracies, recovered shares of the drop, and paired differences."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from geniex.study.statistics import bootstrap_mean, bootstrap_ratio, difference_interval, mean_interval, ratio_interval

Right = Mapping[str, Mapping[str, Tensor]]
"""Whether each image is classified correctly (images,), by network and row."""


@dataclass(frozen=True)
class RemapRow:
    """One mapping with one control or none, over all networks."""

    method: str
    """Method: "float", "ideal", or the name of a mapping."""
    control: str | None
    networks: int
    images: int
    """Images classified by each network."""
    accuracy: float
    """Mean accuracy over the networks."""
    accuracy_low: float | None
    accuracy_high: float | None
    """Ends of the accuracy's 95 % interval over networks, by Student's t on the logit scale; None for one network."""
    drop: float | None = None
    """Accuracy lost from ideal tiles to this row, on the same images."""
    recovered: float | None = None
    """Share of the accuracy lost from ideal tiles to "none", over all networks, that this row recovers; None if nothing
    is lost."""
    recovered_low: float | None = None
    recovered_high: float | None = None
    """Ends of the share's 95 % interval over the networks, by Student's t; None for one network, or if any network
    loses nothing."""
    images_low: float | None = None
    images_high: float | None = None
    """Ends of the share's 95 % bootstrap interval over the images of all networks, with the networks fixed."""


@dataclass(frozen=True)
class Difference:
    """The accuracy of one mapping minus that of another, on the same images and networks."""

    method: str
    other: str
    mean: float
    low: float
    high: float
    """Ends of the 95 % bootstrap interval over the images."""
    networks_low: float | None
    networks_high: float | None
    """Ends of the 95 % interval over the networks; None for one network."""


def summarised(right: Right, cells: Sequence[tuple[str, str | None]]) -> tuple[RemapRow, ...]:
    """The rows for float, ideal tiles and each (method, control)."""
    return tuple(_row(right, method, control) for method, control in (("float", None), ("ideal", None), *cells))


def differences(right: Right, methods: Sequence[str]) -> tuple[Difference, ...]:
    """The differences of every two methods: the later one minus the earlier one."""
    out = []
    for other, method in itertools.combinations(methods, 2):
        apart = [(found[method].double() - found[other].double()) for found in right.values()]
        means = torch.stack([x.mean() for x in apart])
        low, high = bootstrap_mean(torch.cat(apart))
        before = float(torch.stack([found[other].double().mean() for found in right.values()]).mean())
        out.append(Difference(method, other, float(means.mean()), low, high, *_apart(means, -before, 1 - before)))
    return tuple(out)


def _row(right: Right, method: str, control: str | None) -> RemapRow:
    label = method if control is None else f"{method} + {control}"
    own = [found[label].double() for found in right.values()]
    shares = torch.stack([x.mean() for x in own])
    row = RemapRow(method, control, len(own), len(own[0]), float(shares.mean()), *_over(shares, 0.0, 1.0))
    if method in ("float", "ideal"):
        return row
    ideal = [found["ideal"][: len(x)].double() for found, x in zip(right.values(), own, strict=True)]
    before = [found["none"][: len(x)].double() for found, x in zip(right.values(), own, strict=True)]
    drop = float(torch.stack([(a - b).mean() for a, b in zip(ideal, own, strict=True)]).mean())
    lost = torch.stack([(a - b).mean() for a, b in zip(ideal, before, strict=True)])
    told = {"drop": drop}
    if label != "none" and float(lost.mean()) > 0:
        # Both intervals are of a ratio of means, not a mean of ratios: a network that loses little has a noisy share.
        back = torch.stack([(a - b).mean() for a, b in zip(own, before, strict=True)])
        told |= {"recovered": float(back.mean() / lost.mean())}
        pooled = bootstrap_ratio(torch.cat(own) - torch.cat(before), torch.cat(ideal) - torch.cat(before))
        told |= {"images_low": pooled[0], "images_high": pooled[1]} if math.isfinite(sum(pooled)) else {}
        if len(lost) > 1 and bool((lost > 0).all()):
            low, high = ratio_interval(back, lost)
            told |= {"recovered_low": low, "recovered_high": high}
    return RemapRow(**(vars(row) | told))


def _apart(values: Tensor, least: float, most: float) -> tuple[float | None, float | None]:
    """The interval over networks of a difference that lies between ``least`` and ``most``; none for one network."""
    return difference_interval(values, least, most) if len(values) > 1 else (None, None)


def _over(values: Tensor, least: float, most: float) -> tuple[float | None, float | None]:
    """The interval over networks of a mean that lies between ``least`` and ``most``; none for one network."""
    return mean_interval(values, least, most) if len(values) > 1 else (None, None)
