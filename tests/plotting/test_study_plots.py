"""Pictures of studies: the data at its places, fronts that no other point beats."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from geniex.errors import InputError
from geniex.plotting import Measured, pareto_front, plot_along, plot_panels, plot_tradeoff

LINES = {
    "linear": [Measured(16, 0.9, 0.85, 0.95), Measured(64, 0.7, 0.6, 0.8)],
    "physics": [Measured(64, 0.8, 0.7, 0.9), Measured(16, 0.91, 0.9, 0.92)],
}


def test_accuracy_along_numbers_is_drawn_at_their_places_in_order() -> None:
    ax = plot_along(LINES, "tile", dotted={"ideal": [Measured(16, 0.95, 0.95, 0.95), Measured(64, 0.95, 0.95, 0.95)]})
    drawn = {line.get_label(): line for line in ax.get_lines()}
    assert list(drawn["physics"].get_xdata()) == [16, 64]
    assert list(drawn["physics"].get_ydata()) == pytest.approx([91, 80])
    assert list(drawn["ideal"].get_ydata()) == pytest.approx([95, 95])
    assert ax.get_xscale() == "log"
    assert [tick.get_text() for tick in ax.get_xticklabels()] == ["16", "64"]
    area = ax.collections[0].get_paths()[0].get_extents()
    assert (area.y0, area.y1) == pytest.approx((60, 95))


@pytest.mark.parametrize("words", [False, True])
def test_a_curve_s_own_reference_has_its_colour_and_the_legend_tells_of_it_once(words: bool) -> None:
    places = ("none", "gain") if words else (16, 64)
    lines = {name: [Measured(at, 0.5, 0.4, 0.6) for at in places] for name in ("4", "10")}
    own = {"4": [Measured(places[0], 0.08, 0.08, 0.08)], "10": [Measured(at, 0.78, 0.78, 0.78) for at in places]}
    ax = plot_along(lines, "x", dotted=own)
    names = [text.get_text() for text in ax.get_legend().get_texts()]
    assert names == ["4", "10", f"{'dash' if words else 'dotted'}: ideal tiles of each"]
    curves = {line.get_label(): line for line in ax.get_lines()}
    others = [line for line in ax.get_lines() if line.get_label() not in names and len(line.get_xdata())]
    # An interval's caps are dashes too, but smaller ones.
    references = [line for line in others if line.get_linestyle() == ":" or line.get_markersize() > 5]
    for name, line in zip(("4", "10"), references, strict=True):
        assert line.get_color() == curves[name].get_color()
        assert list(line.get_ydata()) == pytest.approx([100 * p.accuracy for p in own[name]])
        assert set(line.get_xdata()) <= set(curves[name].get_xdata()), "beside its curve"


def test_near_numbers_have_a_linear_axis_and_words_stand_side_by_side() -> None:
    near = plot_along({"a": [Measured(2, 0.5, 0.4, 0.6), Measured(3, 0.6, 0.5, 0.7)]}, "x")
    assert near.get_xscale() == "linear"
    words = plot_along({"a": [Measured("none", 0.5, 0.4, 0.6), Measured("gain", 0.6, 0.5, 0.7)]}, "mitigation")
    assert list(words.get_lines()[0].get_xdata()) == [0, 1]
    assert [tick.get_text() for tick in words.get_xticklabels()] == ["none", "gain"]
    zero = plot_along({"a": [Measured(0, 0.5, 0.4, 0.6), Measured(3, 0.6, 0.5, 0.7)]}, "x")
    assert zero.get_xscale() == "linear"


def test_panels_share_colours_scale_and_legend() -> None:
    reordered = dict(reversed(LINES.items()))
    first = plot_panels(
        {"a": (LINES, {}), "b": (reordered, {}), "c": (LINES, {}), "d": (LINES, {})}, "tile", "All", "model"
    )
    axes = [ax for ax in first.figure.axes if ax.get_visible()]
    assert [ax.get_title(loc="left") for ax in axes] == ["a", "b", "c", "d"]
    colours = [{line.get_label(): line.get_color() for line in ax.get_lines()} for ax in axes]
    assert colours[0] == colours[1]
    assert len({ax.get_ylim() for ax in axes}) == 1
    (legend,) = first.figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["linear", "physics"]
    assert legend.get_title().get_text() == "model"
    first.figure.canvas.draw()


@given(st.lists(st.tuples(st.integers(1, 9), st.integers(0, 9)), min_size=1, max_size=12))
def test_a_front_is_what_no_other_beats(pairs: list[tuple[int, int]]) -> None:
    points = {str(k): Measured(cost, share / 10, 0, 1) for k, (cost, share) in enumerate(pairs)}
    front = pareto_front(points)
    assert [points[name].at for name in front] == sorted(points[name].at for name in front)
    for name, other in itertools.product(front, points.values()):
        own = points[name]
        better = other.at <= own.at and other.accuracy >= own.accuracy and (other.at, other.accuracy) != own[:2]
        assert not better
    for point in points.values():
        assert any(points[name].at <= point.at and points[name].accuracy >= point.accuracy for name in front)


def test_each_group_has_its_own_front_filled_and_named() -> None:
    groups = {
        "dense": {"a": Measured(10, 0.9, 0.88, 0.92), "b": Measured(20, 0.8, 0.7, 0.9)},
        "sparse": {"c": Measured(100, 0.7, 0.6, 0.8), "d": Measured(200, 0.95, 0.9, 1.0)},
    }
    ax = plot_tradeoff(groups, "arrays", "Accuracy against arrays")
    drawn = {line.get_label(): line for line in ax.get_lines()}
    assert list(drawn["dense"].get_xdata()) == [10]
    assert list(drawn["sparse"].get_xdata()) == [100, 200]
    assert {text.get_text() for text in ax.texts} == {"a", "c", "d"}
    assert ax.get_xscale() == "log"
    hollow = [line for line in ax.get_lines() if line.get_markerfacecolor() == "none" and len(line.get_xdata())]
    assert [list(line.get_xdata()) for line in hollow] == [[20]]
    ax.figure.canvas.draw()
    assert np.unique(np.asarray(ax.figure.canvas.buffer_rgba())).size > 10


def test_nothing_to_draw_is_told() -> None:
    with pytest.raises(InputError, match="nothing to draw"):
        plot_along({}, "x")
    with pytest.raises(InputError, match="nothing to draw"):
        plot_panels({}, "x")
    with pytest.raises(InputError, match="nothing to draw"):
        plot_tradeoff({}, "arrays", "title")
    with pytest.raises(InputError, match="the axis is logarithmic"):
        plot_tradeoff({"a": {"b": Measured(0, 0.5, 0.4, 0.6)}}, "arrays", "title")
