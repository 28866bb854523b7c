"""What is on the axes: the data that was given, in the units that the labels tell."""

import builtins
import sys
from collections.abc import Callable

import numpy as np
import pytest
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from geniex import plotting
from geniex.cells import LinearCell
from geniex.circuit import Crossbar
from geniex.errors import InputError, MissingDependencyError

STAGES = [
    {"name": "float", "images": 1000, "accuracy": 0.92, "low": 0.90, "high": 0.935, "agreement": 0.95},
    {"name": "circuit", "images": 64, "accuracy": 0.875, "low": 0.77, "high": 0.94, "logit_error": 0.0},
]
LAYERS = {
    "conv1": {"mean": 0.02, "std": 0.01, "p05": 0.0, "p95": 0.05},
    "fc": {"mean": 0.1, "std": 0.03, "p05": 0.04, "p95": 0.2},
}


def _ir_drop(ax: Axes | None = None) -> Axes:
    crossbar = Crossbar(3, 4)
    return plotting.plot_ir_drop(crossbar, torch.tensor([0.25, 0.0, 0.1]), torch.full((3, 4), 1e-5), ax)


EXACT = torch.linspace(-0.1, 0.4, 50)
BINS = {"linear": [2.0, 9.0], "physics": [0.01, 0.0]}
COSTS = {"linear": (1e-7, 5.0), "mlp": (2e-6, 0.5), "physics": (1e-6, 0.01), "exact": (1e-3, 0.0)}
PICTURES: dict[str, Callable[[Axes | None], Axes]] = {
    "ir drop": _ir_drop,
    "nf": lambda ax: plotting.plot_nf(torch.full((5, 4), 1e-6), torch.rand(5, 4) * 1e-6, ax),
    "predicted": lambda ax: plotting.plot_predicted(EXACT, {"mlp": EXACT + 0.01, "linear": EXACT + 0.1}, ax),
    "errors": lambda ax: plotting.plot_error_histogram(EXACT, {"mlp": EXACT + 0.01, "same": EXACT}, ax),
    "density": lambda ax: plotting.plot_density(EXACT, EXACT + 0.01 * torch.sin(9 * EXACT), "mlp", ax),
    "bins": lambda ax: plotting.plot_error_bins(["low", "high"], BINS, "share of zero inputs, %", ax),
    "pareto": lambda ax: plotting.plot_pareto(COSTS, ["linear", "physics", "exact"], "64x64, 4-bit streams, %", ax),
    "stages": lambda ax: plotting.plot_stages(STAGES, ax),
    "layers": lambda ax: plotting.plot_layer_nf(LAYERS, ax),
}


@pytest.mark.parametrize("name", PICTURES)
def test_every_picture_is_titled_labelled_and_draws_without_a_display(name: str) -> None:
    ax = PICTURES[name](None)
    assert ax.get_title(loc="left")
    assert ax.get_xlabel()
    assert ax.get_ylabel() or [tick.get_text() for tick in ax.get_yticklabels()] != []
    text = f"{ax.get_xlabel()} {ax.get_ylabel()} {[a.get_ylabel() for a in ax.figure.axes]}"
    assert "%" in text or "percent" in text
    ax.figure.canvas.draw()
    assert np.unique(np.asarray(ax.figure.canvas.buffer_rgba())).size > 10


@pytest.mark.parametrize("name", PICTURES)
def test_every_picture_draws_on_given_axes(name: str) -> None:
    figure = Figure()
    left, right = figure.subplots(1, 2)
    assert PICTURES[name](right) is right
    assert not left.has_data()


def test_no_picture_touches_pyplot() -> None:
    for picture in PICTURES.values():
        picture(None)
    pyplot = sys.modules.get("matplotlib.pyplot")
    assert pyplot is None or pyplot.get_fignums() == []


def test_ir_drop_of_one_cell_is_the_voltage_divider() -> None:
    crossbar = Crossbar(1, 1, r_source=3e3, r_sink=2e3, r_wire=0.0, cell=LinearCell())
    voltage, conductance = torch.tensor([0.2], dtype=torch.float64), torch.tensor([[2e-4]], dtype=torch.float64)
    ax = plotting.plot_ir_drop(crossbar, voltage, conductance)
    # 5 kOhm of cell in 10 kOhm in all.
    np.testing.assert_allclose(ax.images[0].get_array(), [[50.0]], rtol=1e-9)
    assert "200 mV" in ax.get_title(loc="left")
    assert "200 to 200 µS" in ax.get_title(loc="left")


def test_ir_drop_masks_rows_without_drive_and_falls_away_from_the_drivers() -> None:
    # Equal rows on one bit line, no sense or column resistance: the drop is along the word lines alone.
    crossbar = Crossbar(3, 6, r_sink=0.0, r_wire_row=50.0, r_wire_col=0.0)
    ax = plotting.plot_ir_drop(crossbar, torch.tensor([0.25, 0.0, 0.1]), torch.full((3, 6), 1e-5))
    share = np.ma.filled(ax.images[0].get_array(), np.nan)
    assert np.isnan(share[1]).all()
    assert (np.diff(share[[0, 2]], axis=1) < 0).all()
    assert (share[[0, 2]] < 100).all()
    assert "grey" in ax.get_title(loc="left")


def test_ir_drop_in_millivolt_is_what_the_resistances_take() -> None:
    crossbar = Crossbar(1, 1, r_source=3e3, r_sink=2e3, r_wire=0.0, cell=LinearCell())
    voltage, conductance = torch.tensor([0.2], dtype=torch.float64), torch.tensor([[2e-4]], dtype=torch.float64)
    ax = plotting.plot_ir_drop(crossbar, voltage, conductance, unit="mV")
    # 5 kOhm of drivers and sense in 10 kOhm in all.
    np.testing.assert_allclose(ax.images[0].get_array(), [[100.0]], rtol=1e-9)
    assert "mV" in ax.figure.axes[1].get_ylabel()
    assert "100.0 mV of the drive are lost" in ax.get_title(loc="left")


def test_ir_drop_in_millivolt_shows_rows_without_drive_too() -> None:
    ax = plotting.plot_ir_drop(Crossbar(3, 4), torch.tensor([0.25, 0.0, 0.1]), torch.full((3, 4), 1e-5), unit="mV")
    lost = np.ma.filled(ax.images[0].get_array(), np.nan)
    assert (lost > 0).all()
    assert "grey" not in ax.get_title(loc="left")
    with pytest.raises(InputError, match="unit: got 'V'"):
        plotting.plot_ir_drop(Crossbar(1, 1), torch.ones(1), torch.full((1, 1), 1e-5), unit="V")  # type: ignore[arg-type]


def test_nf_histogram_counts_every_column_with_an_ideal_current() -> None:
    ideal = torch.tensor([[1e-6, 2e-6], [0.0, 4e-6]])
    ax = plotting.plot_nf(ideal, 0.9 * ideal)
    assert sum(bar.get_height() for bar in ax.patches) == 3
    assert "3 column currents" in ax.get_title(loc="left")
    assert ax.lines[0].get_xdata()[0] == pytest.approx(10.0, rel=1e-5)


def test_predicted_shows_points_in_percent_and_tells_rmse() -> None:
    ax = plotting.plot_predicted(EXACT, {"mlp": EXACT + 0.02})
    points = np.asarray(ax.collections[0].get_offsets())
    np.testing.assert_allclose(points[:, 1] - points[:, 0], 2.0, rtol=1e-4)
    assert points[:, 0].max() == pytest.approx(40.0)
    assert "mlp: 2 pp RMSE" in [t.get_text() for t in ax.get_legend().get_texts()]


def test_predicted_draws_a_bounded_number_of_points_and_counts_all() -> None:
    exact = torch.rand(20_000, generator=torch.Generator().manual_seed(0))
    exact[5] = torch.nan
    ax = plotting.plot_predicted(exact, {"same": exact})
    assert len(ax.collections[0].get_offsets()) == 3000
    assert "19,999" in ax.get_title(loc="left")


def test_error_histogram_holds_each_models_whole_set() -> None:
    exact = EXACT.double()
    ax = plotting.plot_error_histogram(exact, {"near": exact + 1.5e-4, "far": exact + 0.1, "same": exact})
    assert ax.get_xscale() == "log"
    areas = []
    for patch in ax.patches:
        x, y = patch.get_xy().T
        areas.append((y.max(), x[y.argmax()]))
    # All of a constant error falls into one bin, at its size in percent points.
    assert [height for height, _ in areas] == pytest.approx([100.0] * 3)
    assert areas[0][1] == pytest.approx(0.015, rel=0.3)
    assert areas[1][1] == pytest.approx(10.0, rel=0.3)


def test_density_counts_every_column_and_tells_rmse() -> None:
    exact = torch.rand(5000, generator=torch.Generator().manual_seed(0)).double()
    exact[7] = torch.nan
    ax = plotting.plot_density(exact, exact + 0.03, "mlp")
    assert ax.collections[0].get_array().sum() == 4999
    assert ax.get_title(loc="left") == "mlp: 3 pp RMSE over the NF of 4,999 columns"


def test_bins_show_each_models_rmse_and_gaps_where_there_is_none() -> None:
    ax = plotting.plot_error_bins(["low", "high"], BINS, "share")
    assert [line.get_label() for line in ax.lines] == ["linear", "physics"]
    np.testing.assert_array_equal(ax.lines[0].get_ydata(), [2.0, 9.0])
    np.testing.assert_array_equal(ax.lines[1].get_ydata(), [0.01, np.nan])
    assert [t.get_text() for t in ax.get_xticklabels()] == ["low", "high"]


def test_bins_of_several_things_on_one_figure_share_one_legend() -> None:
    figure = Figure(layout="constrained")
    for ax in figure.subplots(1, 3):
        plotting.plot_error_bins(["low", "high"], BINS, "share", ax)
    (legend,) = figure.legends
    assert [t.get_text() for t in legend.get_texts()] == ["linear", "physics"]


def test_labels_of_many_bins_do_not_overlap() -> None:
    labels = [f"{k / 10:g} to {(k + 1) / 10:g}" for k in range(8)]
    ax = plotting.plot_error_bins(labels, {"mlp": [1.0] * 8}, "share", Figure(figsize=(4.5, 4)).add_subplot())
    ax.figure.canvas.draw()
    assert {t.get_rotation() for t in ax.get_xticklabels()} == {30.0}
    # Each ends at its tick.
    ends = [t.get_window_extent().x1 for t in ax.get_xticklabels()]
    ticks = ax.transData.transform([(k, 1.0) for k in range(8)])[:, 0]
    np.testing.assert_allclose(ends, ticks, atol=8)


def test_pareto_places_models_by_cost_and_error_and_joins_the_front() -> None:
    ax = plotting.plot_pareto(COSTS, ["linear", "physics", "exact"], "64x64")
    places = np.concatenate([np.asarray(c.get_offsets()) for c in ax.collections])
    # A model without error has no place on a logarithmic axis: it is drawn below all others.
    np.testing.assert_allclose(places, [[0.1, 5], [2, 0.5], [1, 0.01], [1000, 0.01 / 3]])
    np.testing.assert_allclose(ax.lines[0].get_xdata(), [0.1, 1, 1000])
    assert [len(c.get_facecolors()) for c in ax.collections] == [1, 0, 1, 1]
    said = [t.get_text() for t in ax.figure.legends[0].get_texts()]
    assert said == ["linear: 0.1 µs, 5 pp", "mlp: 2 µs, 0.5 pp", "physics: 1 µs, 0.01 pp", "exact: 1e+03 µs, exact"]


def test_stages_are_in_order_with_intervals_and_figures() -> None:
    ax = plotting.plot_stages(STAGES)
    assert [t.get_text() for t in ax.get_yticklabels()] == ["float (1,000 images)", "circuit (64 images)"]
    (line, _, (bars,)) = ax.containers[0]
    np.testing.assert_allclose(line.get_xdata().astype(float), [92.0, 87.5])
    np.testing.assert_allclose([s[:, 0] for s in bars.get_segments()], [[90, 93.5], [77, 94]])
    assert ax.get_ylim()[0] > ax.get_ylim()[1]
    head, *figures = [t.get_text().split() for t in ax.child_axes[0].get_yticklabels()]
    assert head == ["accuracy", "agreement", "logit", "error"]
    assert figures == [["92.0", "%", "95.0", "%"], ["87.5", "%", "0.000"]]


def test_stages_without_a_circuit_show_accuracies_alone() -> None:
    bare = [{k: s[k] for k in ("name", "accuracy", "low", "high")} for s in STAGES]
    ax = plotting.plot_stages(bare)
    assert [t.get_text() for t in ax.get_yticklabels()] == ["float", "circuit"]
    assert [t.get_text().strip() for t in ax.child_axes[0].get_yticklabels()] == ["accuracy", "92.0 %", "87.5 %"]


def test_layers_show_mean_deviation_and_percentiles() -> None:
    ax = plotting.plot_layer_nf(LAYERS)
    assert [t.get_text() for t in ax.get_xticklabels()] == ["conv1", "fc"]
    spans = [s[:, 1] for s in ax.collections[0].get_segments()]
    np.testing.assert_allclose(spans, [[0, 5], [4, 20]])
    (line, _, (bars,)) = ax.containers[0]
    np.testing.assert_allclose(line.get_ydata().astype(float), [2, 10])
    np.testing.assert_allclose([s[:, 1] for s in bars.get_segments()], [[1, 3], [7, 13]])


WRONG: dict[str, tuple[Callable[[], Axes], str]] = {
    "batch": (
        lambda: plotting.plot_ir_drop(Crossbar(2, 2), torch.ones(3, 2), torch.full((2, 2), 1e-5)),
        "one vector .* and one tile",
    ),
    "no drive": (
        lambda: plotting.plot_ir_drop(Crossbar(2, 2), torch.zeros(2), torch.full((2, 2), 1e-5)),
        "at least one row must be driven",
    ),
    "no current": (lambda: plotting.plot_nf(torch.zeros(3), torch.zeros(3)), "at least one must be finite"),
    "shapes": (lambda: plotting.plot_predicted(EXACT, {"mlp": EXACT[:-1]}), "the same shape"),
    "no model": (lambda: plotting.plot_error_histogram(EXACT, {}), "at least one is needed"),
    "no bins": (lambda: plotting.plot_error_bins([], {}, "share"), "at least one of each is needed"),
    "too few bins": (lambda: plotting.plot_error_bins(["a", "b"], {"mlp": [1.0]}, "share"), "each of the 2 bins"),
    "no costs": (lambda: plotting.plot_pareto({}, [], "64x64"), "at least one is needed"),
    "no stage": (lambda: plotting.plot_stages([]), "at least one is needed"),
    "no layer": (lambda: plotting.plot_layer_nf({}), "at least one is needed"),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_what_cannot_be_drawn_is_told(wrong: str) -> None:
    draw, said = WRONG[wrong]
    with pytest.raises(InputError, match=said):
        draw()


def test_without_matplotlib_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *args: object, **kwargs: object) -> object:
        if name.startswith("matplotlib"):
            raise ImportError(name)
        return real(name, *args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(MissingDependencyError, match=r"geniex-crossbar\[plot\]"):
        plotting.plot_stages(STAGES)
