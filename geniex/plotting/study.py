"""Plots of design-space studies: accuracy along a varied setting, and accuracy against a cost."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from geniex.errors import InputError
from geniex.plotting.axes import GREY, MARKERS, SERIES, frame, make_axes

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_WIDE = 3.0
"""Ratio of the largest to the smallest value above which an axis is logarithmic."""
_ACROSS = 3
"""Largest number of panels side by side."""
_BROAD = 24
"""Largest number of letters in an axis' tick labels that are not slanted."""
_ASIDE = 0.12
"""Horizontal distance between the lines' points at one category."""
_NAMED = 12
"""Largest number of labelled points on the fronts of one plot; more labels would hide each other."""


class Measured(NamedTuple):
    """An accuracy (or another share) with its interval, all fractions, at a value of the axis or at a cost."""

    at: float | str
    accuracy: float
    low: float
    high: float


Lines = Mapping[str, Sequence[Measured]]
"""Lines to compare by name, each a sequence of points along the axis."""


def plot_along(
    lines: Lines,
    axis: str,
    title: str = "Accuracy",
    dotted: Lines | None = None,
    ax: Axes | None = None,
    reference: str = "ideal tiles",
) -> Axes:
    """Draw accuracy in percent along a varied setting, with intervals.

    Numeric values are drawn to scale, on a logarithmic axis if they span more than a factor of 3. Words are categories
    side by side.

    Args:
        lines: lines to compare by name, each a sequence of points along the axis.
        axis: the varied setting with its unit, which labels the axis.
        title: title of the plot.
        dotted: reference lines by name, without intervals; a reference with the name of one of ``lines`` belongs to it
            and has its colour.
        ax: axes to draw on; None makes a new figure.
        reference: the legend's name for the references that belong to ``lines``.
    """
    if not any(lines.values()):
        raise InputError("lines", "no point", "there is nothing to draw")
    ax = make_axes(ax, 6.0, 4.0)
    _draw_along(ax, lines, dotted or {}, reference)
    ax.legend(frameon=False, fontsize=8.5)
    return frame(ax, title, axis, "accuracy, %")


def plot_panels(
    panels: Mapping[str, tuple[Lines, Lines]],
    axis: str,
    title: str = "Accuracy",
    legend: str | None = None,
    quantity: str = "accuracy",
    reference: str = "ideal tiles",
) -> Axes:
    """Draw several plots like ``plot_along`` side by side on a new figure and return the first one's axes.

    The panels share one legend and one vertical scale.

    Args:
        panels: lines and dotted lines, as for ``plot_along``, by the panel's name.
        axis: the varied setting with its unit, which labels the axes.
        title: title above all panels.
        legend: title of the legend, the setting in which the lines differ.
        quantity: the quantity that is drawn, a share.
        reference: the legend's name for the references that belong to lines.
    """
    if not panels or not any(any(lines.values()) for lines, _ in panels.values()):
        raise InputError("panels", "no point", "there is nothing to draw")
    across = min(_ACROSS, len(panels))
    down = math.ceil(len(panels) / across)
    words = max(
        len({p.at for own in lines.values() for p in own if isinstance(p.at, str)}) for lines, _ in panels.values()
    )
    first = make_axes(None, 1.4 + max(3.0, 0.75 * words) * across, 0.9 + 2.5 * down)
    figure = first.figure
    first.remove()
    grid = figure.subplots(down, across, sharey=True, squeeze=False)
    every = list(grid.flatten())
    names: dict[str, int] = {}
    for lines, _ in panels.values():
        for name in lines:
            names.setdefault(name, len(names))
    for ax, (name, (lines, dotted)) in zip(every, panels.items(), strict=False):
        _draw_along(ax, lines, dotted, reference, names)
        frame(ax, name, axis, f"{quantity}, %" if ax in grid[:, 0] else "")
        ax.title.set_fontsize(9)
    for ax in every[len(panels) :]:
        ax.set_visible(False)
    handles = {
        label: h for ax in every[: len(panels)] for h, label in zip(*ax.get_legend_handles_labels(), strict=True)
    }
    figure.legend(
        handles.values(), handles.keys(), loc="outside right upper", frameon=False, fontsize=8.5, title=legend
    )
    figure.suptitle(title, x=0.02, ha="left", fontsize=11)
    return every[0]


def pareto_front(points: Mapping[str, Measured]) -> list[str]:
    """The names of the points on the Pareto front, cheapest first.

    No other point of the same or a lower cost is as accurate as a point on the front.
    """
    front, best = list[str](), -math.inf
    for name, point in sorted(points.items(), key=lambda item: (item[1].at, -item[1].accuracy)):
        if point.accuracy > best:
            front.append(name)
            best = point.accuracy
    return front


def plot_tradeoff(groups: Mapping[str, Mapping[str, Measured]], cost: str, title: str, ax: Axes | None = None) -> Axes:
    """Draw accuracy in percent against a cost on a logarithmic axis; a line joins each group's own Pareto front.

    Points on a front are filled, and labelled as long as there is room.

    Args:
        groups: points by name, in groups by name; each group has its own colour.
        cost: the cost that ``at`` of the points holds, with its unit; costs are above 0.
        title: title of the plot.
        ax: axes to draw on; None makes a new figure.
    """
    points = [point for group in groups.values() for point in group.values()]
    if not points:
        raise InputError("groups", "no point", "there is nothing to draw")
    if not all(isinstance(point.at, int | float) and point.at > 0 for point in points):
        raise InputError("groups", "a cost that is not above 0", "the axis is logarithmic")
    ax = make_axes(ax, 8.4, 4.8)
    named = 0
    for k, (name, group) in enumerate(groups.items()):
        front = pareto_front(group)
        colour = SERIES[k % len(SERIES)]
        style = {"color": colour, "marker": MARKERS[k % len(MARKERS)], "markersize": 5}
        line = [group[point] for point in front]
        x, y = [p.at for p in line], [100 * p.accuracy for p in line]
        ax.plot(x, y, linewidth=0.9, drawstyle="steps-post", label=name, **style)  # type: ignore[arg-type]
        ax.errorbar(x, y, yerr=_bars(line), fmt="none", ecolor=colour, elinewidth=0.6)
        rest = [point for key, point in group.items() if key not in front]
        x, y = [p.at for p in rest], [100 * p.accuracy for p in rest]
        ax.plot(x, y, linestyle="none", markerfacecolor="none", **style)  # type: ignore[arg-type]
        for point in front[: max(0, _NAMED - named)]:
            place, offset = (group[point].at, 100 * group[point].accuracy), (4, -8 - 7 * (named % 3))
            ax.annotate(point, place, offset, textcoords="offset points", fontsize=6.5, color=GREY)
            named += 1
    ax.set_xscale("log")
    ax.figure.legend(loc="outside right upper", frameon=False, fontsize=8.5, title="filled: on the front")
    return frame(ax, title, cost, "accuracy, %")


def _draw_along(ax: Axes, lines: Lines, dotted: Lines, reference: str, order: Mapping[str, int] | None = None) -> None:
    values = list(dict.fromkeys(p.at for own in (*lines.values(), *dotted.values()) for p in own))
    numeric = all(isinstance(value, int | float) and not isinstance(value, bool) for value in values)
    places = {value: float(value) if numeric else k for k, value in enumerate(values)}
    for k, (name, own) in enumerate(lines.items()):
        series = (k if order is None else order[name]) % len(SERIES)
        aside = 0.0 if numeric else _ASIDE * (k - (len(lines) - 1) / 2)
        shown = sorted(own, key=lambda p: places[p.at])
        colour, below, above = SERIES[series], *_bars(shown)
        x, y = _drawn(shown, places, aside)
        # Lines join numeric values only, not categories.
        ax.plot(x, y, MARKERS[series] + ("-" if numeric else ""), color=colour, markersize=4, linewidth=1, label=name)
        if numeric:  # shaded areas hide each other less than error bars at the same values do
            ends = [[a - b for a, b in zip(y, below, strict=True)], [a + b for a, b in zip(y, above, strict=True)]]
            ax.fill_between(x, ends[0], ends[1], color=colour, alpha=0.12, linewidth=0)
        else:
            ax.errorbar(x, y, yerr=[below, above], fmt="none", ecolor=colour, elinewidth=0.8, capsize=2)
        if name in dotted:
            x, y = _drawn(dotted[name], places, aside)
            ax.plot(x, y, ":" if numeric else "_", color=colour, linewidth=1.2, markersize=9, label="")
    for name, own in dotted.items():
        if name not in lines:
            ax.plot(*_drawn(own, places), ":", color=GREY, linewidth=1, label=name)
    if any(name in lines for name in dotted):  # one entry of the legend stands for all
        mark = "dotted" if numeric else "dash"
        ax.plot([], [], ":" if numeric else "_", color=GREY, linewidth=1.2, label=f"{mark}: {reference} of each")
    if numeric and min(places.values()) > 0 and max(places.values()) > _WIDE * min(places.values()):
        ax.set_xscale("log")
        ax.minorticks_off()
    ticks = sorted(places.values())
    names = {place: short_number(value) for value, place in places.items()}
    slant = 30 if sum(map(len, names.values())) > _BROAD else 0
    ax.set_xticks(ticks, [names[x] for x in ticks], rotation=slant, ha="right" if slant else "center")


def _drawn(
    line: Sequence[Measured], places: Mapping[float | str, float], aside: float = 0.0
) -> tuple[list[float], list[float]]:
    """The coordinates of a line's points in order along the axis: axis places, and percent."""
    shown = sorted(line, key=lambda p: places[p.at])
    return [places[p.at] + aside for p in shown], [100 * p.accuracy for p in shown]


def short_number(value: object) -> str:
    """A number in few characters, such as 300k or 0.05; words are unchanged.

    >>> short_number(300e3), short_number(2.5), short_number("linear")
    ('300k', '2.5', 'linear')
    """
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    return f"{value / 1e3:g}k" if abs(value) >= 1e4 else f"{value:g}"


def _bars(shown: Sequence[Measured]) -> list[list[float]]:
    below = [max(0.0, 100 * (p.accuracy - p.low)) for p in shown]
    return [below, [max(0.0, 100 * (p.high - p.accuracy)) for p in shown]]
