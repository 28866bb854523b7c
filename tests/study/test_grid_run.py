"""Studies end to end on small networks: rows are what the pieces give by hand, whatever the workers and kills."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from grid_cases import BASE, CALIBRATION, IMAGES, write_images, write_network

from geniex.circuit import Crossbar
from geniex.emulator import CircuitEmulator, IdealEmulator, LinearEmulator, SurrogateEmulator
from geniex.errors import InputError, MissingDependencyError
from geniex.mapping import Architecture, ConductanceWindow
from geniex.mitigation import (
    REMAPPINGS,
    Batch,
    correct_outputs,
    fine_tune,
    prune,
    refit_batch_norm,
    remap,
    weight_full_scales,
)
from geniex.networks import ImageSet, load_images, load_network, save_network
from geniex.networks.train import AugmentedBatches, FitConfig
from geniex.simulator import LayerRule, arrange, convert, costs, read_arrangements, replace_emulator, vary
from geniex.study.grid import Study, StudySpec, plan_study, run_study
from geniex.study.grid.layer_errors import measure_layer_errors
from geniex.study.grid.table import Row
from geniex.study.statistics import wilson_interval
from geniex.variation import StuckCells, Variations, derive_seed

# Every test converts, trains or starts processes.
pytestmark = pytest.mark.slow

ARCH = Architecture(tile=(16, 16), window=ConductanceWindow(20e3, 6.0), v_max=0.25, weight_bits=6, input_bits=5)
CROSSBAR = Crossbar(16, 16, r_wire=10.0)
GRID: dict[str, Any] = {"grid": {"tile": [8, 16], "window.on_off": [3, 10]}}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_images(tmp_path_factory.mktemp("images"))
    for seed in range(2):
        write_network("fashion-cnn", folder / f"cnn-{seed}", folder, seed)
    write_network("fashion-vgg-0", folder / "vgg", folder)
    return folder


def given(root: Path, *networks: str, **more: Any) -> dict[str, Any]:
    return BASE | {"network": [str(root / name) for name in networks or ("cnn-0",)]} | more


def run(root: Path, config: dict[str, Any], out: Path | None = None, **options: Any) -> Study:
    return run_study(config, out, data_root=root, **options)


def timeless(rows: tuple[Row, ...]) -> list[Row]:
    return [{name: value for name, value in row.items() if name != "seconds"} for row in rows]


class ByHand:
    """The images of the studies here, and the share of them that a model gets right."""

    def __init__(self, root: Path) -> None:
        self.root = root
        tests = load_images("fashion-mnist", train=False, root=root).subset(IMAGES, 0)
        training = load_images("fashion-mnist", train=True, root=root).subset(CALIBRATION, 0)
        self.images, self.labels = tests.batch(torch.arange(IMAGES))
        self.calibration = Batch(*training.batch(torch.arange(CALIBRATION)))

    def share(self, model: torch.nn.Module) -> float:
        with torch.no_grad():
            return int((model(self.images).argmax(-1) == self.labels).sum()) / IMAGES

    def converted(self, name: str, **options: Any) -> torch.nn.Module:
        emulator = options.pop("emulator", None) or SurrogateEmulator("physics-fast", CROSSBAR)
        network = options.pop("network", None) or load_network(self.root / name)
        return convert(network, options.pop("arch", ARCH), emulator, calibration=self.calibration.images, **options)


def test_a_row_is_what_conversion_by_hand_gives(root: Path) -> None:
    (row,) = run(root, given(root)).rows
    hand = ByHand(root)
    model, network = hand.converted("cnn-0"), load_network(root / "cnn-0")
    assert row["accuracy"] == hand.share(model)
    assert row["float_accuracy"] == hand.share(network)
    assert row["ideal_accuracy"] == hand.share(hand.converted("cnn-0", emulator=IdealEmulator()))
    assert row["drop"] == row["ideal_accuracy"] - row["accuracy"] > 0
    assert (row["images"], row["correct"]) == (IMAGES, round(IMAGES * row["accuracy"]))
    assert (row["low"], row["high"]) == wilson_interval(row["correct"], IMAGES)
    found = costs(model, hand.images[:4], energy_vectors=64)
    with torch.no_grad():
        apart, truth = model(hand.images) - network(hand.images), network(hand.images)
    assert row["logit_error"] == pytest.approx(float(apart.norm() / truth.norm()), rel=1e-5)
    assert row["logit_error_low"] < row["logit_error"] < row["logit_error_high"]
    assert row["ideal_logit_error"] < row["logit_error"]
    told = (row["arrays"], row["reads"], row["adc_conversions"], row["static_energy"])
    assert told == (found.arrays, found.array_reads, found.adc_conversions, pytest.approx(found.static_energy))
    assert row["error"] is None
    assert row["seconds"] > 0


def test_the_energy_may_be_that_without_wires(root: Path) -> None:
    study = run(root, given(root, grid={"energy": ["emulator", "ideal"]}))
    hand = ByHand(root)
    ideal = costs(hand.converted("cnn-0", emulator=IdealEmulator()), hand.images[:4], energy_vectors=64)
    with_wires, without = study.rows
    assert without["static_energy"] == pytest.approx(ideal.static_energy, rel=0.05)  # deeper layers see other inputs
    assert with_wires["static_energy"] < without["static_energy"]
    assert [row["accuracy"] for row in study.rows] == [with_wires["accuracy"]] * 2
    assert with_wires["arrays"] == without["arrays"]


def test_emulators_and_layouts_are_those_asked_for(root: Path) -> None:
    study = run(root, given(root, grid={"emulator": ["linear", "ideal"], "layout": ["dense", "toeplitz"]}))
    hand = ByHand(root)
    for row in study.rows:
        emulator = LinearEmulator(CROSSBAR) if row["emulator"] == "linear" else IdealEmulator()
        model = hand.converted("cnn-0", emulator=emulator, layout=row["layout"])
        assert row["accuracy"] == hand.share(model)
        assert row["arrays"] == model.conversion.arrays  # type: ignore[union-attr]


def test_mitigations_come_in_their_order(root: Path) -> None:
    names = ["none", "gain", "batch_norm", "rearrange", "rearrange + batch_norm"]
    study = run(root, given(root, "vgg", grid={"mitigation": names}))
    hand = ByHand(root)
    plain = hand.converted("vgg")
    sorted_ = remap(plain, REMAPPINGS["rearrange"], hand.calibration).model
    seen = hand.calibration.images
    wanted = [plain, correct_outputs(plain, seen), refit_batch_norm(plain, seen), sorted_]
    wanted += [refit_batch_norm(sorted_, seen)]
    assert [row["accuracy"] for row in study.rows] == [hand.share(model) for model in wanted]
    assert len({row["ideal_accuracy"] for row in study.rows}) == 1


def test_fine_tuning_moves_weights_on_the_crossbars(root: Path) -> None:
    names = ["none", "fine_tuning", "rearrange + fine_tuning"]
    study = run(root, given(root, grid={"mitigation": names}, **{"fine_tuning.steps": 8}))
    accuracies = [row["accuracy"] for row in study.rows]
    assert all(row["error"] is None for row in study.rows)
    assert max(accuracies[1:]) > accuracies[0]
    hand = ByHand(root)
    mapped = remap(hand.converted("cnn-0"), REMAPPINGS["rearrange"], hand.calibration).model
    for row, like in zip(study.rows[1:], (None, mapped), strict=True):
        model = hand.converted("cnn-0", trainable=True)
        model = model if like is None else arrange(model, read_arrangements(like))
        training = load_images("fashion-mnist", train=True, root=root)
        batches = AugmentedBatches(training, FitConfig(batch=50, seed=0))
        fine_tune(model, batches, steps=8, gradients="ideal")
        assert row["accuracy"] == hand.share(model)
        found = costs(model, hand.images[:4], energy_vectors=64)
        assert row["static_energy"] == pytest.approx(found.static_energy, rel=1e-9)


def test_fine_tuning_takes_the_best_of_its_learning_rates_on_images_left_out(root: Path) -> None:
    asked = {"steps": 2, "batch": 16, "learning_rates": [1e-9, 3e-3], "gradients": "emulator", "left_out": 40}
    study = run(root, given(root, mitigation="fine_tuning", fine_tuning=asked))
    hand = ByHand(root)
    shuffled = load_images("fashion-mnist", train=True, root=root).subset(200, 0)
    left_out = shuffled.batch(torch.arange(40))
    kept = ImageSet(shuffled.pixels[40:], shuffled.labels[40:], shuffled.full_scale)
    models = []
    for row, rate in zip(study.learning_rates, (1e-9, 3e-3), strict=True):
        model = hand.converted("cnn-0", trainable=True)
        losses = fine_tune(model, AugmentedBatches(kept, FitConfig(batch=16, seed=0)), steps=2, learning_rate=rate)
        with torch.no_grad():
            loss = torch.nn.functional.cross_entropy(model(left_out[0]), left_out[1])
        assert row["training_loss"] == pytest.approx(losses[-1], rel=1e-5)
        assert row["left_out_loss"] == pytest.approx(float(loss), rel=1e-5)
        models.append(model)
    chosen = [row["chosen"] for row in study.learning_rates]
    lowest = min(row["left_out_loss"] for row in study.learning_rates)
    assert chosen == [row["left_out_loss"] == lowest for row in study.learning_rates]
    assert study.rows[0]["accuracy"] == hand.share(models[chosen.index(True)])


def test_another_emulator_checks_the_same_arrays(root: Path) -> None:
    study = run(root, given(root, grid={"mitigation": ["none", "gain"]}, check={"emulator": "circuit", "images": 12}))
    hand = ByHand(root)
    plain = hand.converted("cnn-0")
    for row, model in zip(study.rows, (plain, correct_outputs(plain, hand.calibration.images)), strict=True):
        with torch.no_grad():
            own = model(hand.images[:12]).argmax(-1)
            told = replace_emulator(model, CircuitEmulator(CROSSBAR))(hand.images[:12]).argmax(-1)
        assert row["check_accuracy"] == pytest.approx(float((told == hand.labels[:12]).double().mean()))
        assert row["check_agreement"] == pytest.approx(float((told == own).double().mean()))
    assert study.summary[1]["check_accuracy"] == study.rows[1]["check_accuracy"]
    assert "check_accuracy" not in run(root, given(root, emulator="ideal")).rows[0]


def test_images_and_calibration_images_are_those_asked_for(root: Path) -> None:
    study = run(root, given(root, emulator="ideal", grid={"images": [40, None], "first_images": [10]}))
    hand = ByHand(root)
    model = hand.converted("cnn-0", emulator=IdealEmulator())
    whole = load_images("fashion-mnist", train=False, root=root).batch(torch.arange(10))
    for row, (images, labels) in zip(study.rows, ((hand.images[:10], hand.labels[:10]), whole), strict=True):
        with torch.no_grad():
            assert row["correct"] == int((model(images).argmax(-1) == labels).sum())
        assert row["images"] == 10
    (row,) = run(root, given(root, emulator="ideal", calibration_start=5)).rows
    drawn = load_images("fashion-mnist", train=True, root=root).subset(CALIBRATION + 5, 0)
    hand.calibration = Batch(*drawn.batch(torch.arange(5, CALIBRATION + 5)))
    assert row["accuracy"] == hand.share(hand.converted("cnn-0", emulator=IdealEmulator()))


def test_remappings_may_be_rated_on_fewer_images_and_say_what_they_moved(root: Path) -> None:
    study = run(root, given(root, mitigation="drs", remapping_images=8))
    hand = ByHand(root)
    moved = remap(hand.converted("cnn-0"), REMAPPINGS["drs"], hand.calibration.first(8))
    assert study.rows[0]["accuracy"] == hand.share(moved.model)
    told = [(row["layer"], row["moved"], row["outputs"], row["undone"]) for row in study.places]
    assert told == [(layer.name, layer.moved, layer.outputs, layer.undone) for layer in moved.layers]


def test_the_circuit_checks_the_layers_of_the_first_network(root: Path) -> None:
    study = run(root, given(root, "cnn-0", "cnn-1", emulator="linear", circuit_positions=2))
    hand = ByHand(root)
    model = hand.converted("cnn-0", emulator=LinearEmulator(CROSSBAR))
    wanted = measure_layer_errors(model, model, CROSSBAR, hand.calibration.first(32), positions=2)
    assert {row["training"] for row in study.layers} == {str(root / "cnn-0")}
    assert [(row["layer"], row["emulator"], row["circuit"]) for row in study.layers] == [
        (error.layer, error.emulator, error.circuit) for error in wanted
    ]
    assert all(row["order_agreement"] is None for row in study.layers)


def test_draws_of_devices_are_seeded_and_differ(root: Path) -> None:
    stuck = {"stuck_cells": {"off": 0.03, "on": 0.03}}
    study = run(root, given(root, grid={"variation": {"none": None, "stuck": stuck}}, draws=3, seed=0))
    assert [(row["variation"], row["draw"]) for row in study.rows] == [("none", 0), *(("stuck", k) for k in range(3))]
    hand = ByHand(root)
    model, variations = hand.converted("cnn-0"), Variations((StuckCells(0.03, 0.03),))
    wanted = [hand.share(vary(model, variations, derive_seed(0, "draw", k))) for k in range(3)]
    assert [row["accuracy"] for row in study.rows[1:]] == wanted
    assert len(set(wanted)) > 1
    assert [row["interval"] for row in study.summary] == ["images", "draws"]


def test_gains_are_fitted_to_the_devices_as_they_are(root: Path) -> None:
    stuck = {"variation": {"stuck_cells": {"off": 0.03, "on": 0.03}}, "mitigation": "gain"}
    (row,) = run(root, given(root, **stuck)).rows
    hand = ByHand(root)
    varied = vary(hand.converted("cnn-0"), Variations((StuckCells(0.03, 0.03),)), derive_seed(0, "draw", 0))
    assert row["accuracy"] == hand.share(correct_outputs(varied, hand.calibration.images))


def test_networks_may_be_pruned_on_the_way(root: Path) -> None:
    study = run(root, given(root, grid={"prune": [None, "xrs"]}, **{"layout": "compacted"}))
    hand = ByHand(root)
    network = prune(load_network(root / "cnn-0"), "xrs", 0.5, tile=ARCH).model
    model = hand.converted("cnn-0", network=network, layout="compacted")
    before, after = study.rows
    assert after["accuracy"] == hand.share(model)
    assert after["float_accuracy"] == hand.share(network)
    assert after["arrays"] == model.conversion.arrays < before["arrays"]  # type: ignore[union-attr]


def test_weights_that_were_cut_keep_their_full_scale(root: Path, tmp_path: Path) -> None:
    network = load_network(root / "cnn-0")
    scales = {name: 3 * scale for name, scale in weight_full_scales(network).items()}
    save_network("fashion-cnn", network, tmp_path / "cut", {"weight_full_scale": scales})
    (row,) = run(root, BASE | {"network": str(tmp_path / "cut")}).rows
    hand = ByHand(root)
    rules = {name: LayerRule(weight_full_scale=scale) for name, scale in scales.items()}
    assert row["accuracy"] == hand.share(hand.converted("cnn-0", per_layer=rules))
    assert row["ideal_accuracy"] == hand.share(hand.converted("cnn-0", per_layer=rules, emulator=IdealEmulator()))


def test_the_table_is_the_same_for_any_number_of_workers(root: Path, tmp_path: Path) -> None:
    config = given(root, "cnn-0", "cnn-1", grid={"tile": [8, 16]}, baseline={"tile": 16})
    one, two = run(root, config, tmp_path / "1"), run(root, config, tmp_path / "2", workers=2)
    assert timeless(one.rows) == timeless(two.rows)
    assert timeless(one.summary) == timeless(two.summary)
    assert (len(one.rows), len(one.summary)) == (4, 2)


def test_a_finished_study_runs_nothing_again(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = given(root, **GRID)
    first = run(root, config, tmp_path)

    def never(job: object) -> str:
        raise AssertionError(job)

    monkeypatch.setattr("geniex.study.grid.run.run_job", never)
    seen: list[tuple[int, int]] = []
    again = run(root, config, tmp_path, progress=lambda done, whole: seen.append((done, whole)))
    assert (again.rows, again.summary) == (first.rows, first.summary)
    assert seen == [(7, 7)]  # in floating point, two architectures on ideal tiles, four points
    # What a result does not depend on does not part it from its file; what it depends on does.
    assert run(root, config | {"title": "other", "fine_tuning.steps": 3, "draws": 9}, tmp_path).rows == first.rows
    for change in ({"images": 39}, {"seed": 1}, {"crossbar": {"r_wire": 9}}, {"calibration_images": 23}):
        with pytest.raises(AssertionError):
            run(root, config | change, tmp_path)


def test_other_weights_under_the_same_name_are_run_again(root: Path, tmp_path: Path) -> None:
    for seed in range(2):
        source = root / f"cnn-{seed}"
        save_network("fashion-cnn", load_network(source), tmp_path / "net", {})
        (row,) = run(root, BASE | {"network": str(tmp_path / "net")}, tmp_path / "out").rows
        assert row["float_accuracy"] == ByHand(root).share(load_network(source))
    assert len(list((tmp_path / "out" / "kept").iterdir())) == 6


@pytest.mark.parametrize("damage", ["cut", "changed", "foreign"])
def test_a_kept_result_that_is_damaged_is_done_again(root: Path, tmp_path: Path, damage: str) -> None:
    config = given(root)
    first = run(root, config, tmp_path)
    for path in (tmp_path / "kept").iterdir():
        held = json.loads(path.read_text())
        flipped = held["result"] | {"right": "0" * IMAGES}
        text = {"cut": path.read_text()[:-40], "changed": json.dumps(held | {"result": flipped}), "foreign": "[1]"}
        path.write_text(text[damage])
    assert timeless(run(root, config, tmp_path).rows) == timeless(first.rows)


def test_a_result_of_another_job_under_its_name_is_not_taken(root: Path, tmp_path: Path) -> None:
    run(root, given(root), tmp_path)
    first, other = plan_study(StudySpec.of(given(root)), data_root=root).jobs[:2]
    kept = {path.name: path for path in (tmp_path / "kept").iterdir()}
    (mine,) = (path for name, path in kept.items() if first.key[:24] in name)
    (theirs,) = (path for name, path in kept.items() if other.key[:24] in name)
    mine.write_bytes(theirs.read_bytes())
    seen: list[tuple[int, int]] = []
    run(root, given(root), tmp_path, progress=lambda done, whole: seen.append((done, whole)))
    assert seen[0] == (2, 3), "one of the three is done again"


def test_a_killed_study_goes_on_where_it_was(root: Path, tmp_path: Path) -> None:
    config, out = given(root, **GRID), tmp_path / "killed"
    (tmp_path / "study.json").write_text(json.dumps(config))
    code = "import sys; from geniex.cli.main import main; sys.exit(main())"
    command = [sys.executable, "-c", code, "study", str(tmp_path / "study.json"), "--out", str(out)]
    process = subprocess.Popen(
        [*command, "--data_root", str(root)],
        stdout=subprocess.DEVNULL,
        start_new_session=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    deadline = time.monotonic() + 60
    while len(_results(out)) < 3 and time.monotonic() < deadline:
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    before = {path: path.stat().st_mtime_ns for path in _results(out)}
    assert 3 <= len(before) < 7
    resumed = run(root, config, out)
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert len(_results(out)) == 7
    assert timeless(resumed.rows) == timeless(run(root, config).rows)


def _results(out: Path) -> list[Path]:
    return sorted((out / "kept").glob("[!.]*.json")) if (out / "kept").is_dir() else []


def test_a_point_that_fails_is_told_and_the_others_go_on(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from geniex.study.grid import job as module

    real = module.make_emulator_of

    def broken(settings: Any) -> Any:
        if settings.architecture.window.on_off == 10 and settings.emulator != "ideal":
            raise RuntimeError("no such circuit")
        return real(settings)

    config = given(root, "cnn-0", "cnn-1", grid={"window.on_off": [3, 10]})
    monkeypatch.setattr(module, "make_emulator_of", broken)
    study = run(root, config, tmp_path)
    failed = [row for row in study.rows if row["window.on_off"] == 10]
    assert len(study.failed) == 2
    assert all(row["error"] == "RuntimeError: no such circuit" and row["accuracy"] is None for row in failed)
    assert all(row["error"] is None and row["accuracy"] > 0 for row in study.rows if row not in failed)
    assert [row["failed"] for row in study.summary] == [0, 2]
    assert "RuntimeError: no such circuit" in (tmp_path / "report.md").read_text()
    monkeypatch.undo()
    assert not run(root, config, tmp_path).failed  # it is tried again


def test_ray_that_is_missing_is_told(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingDependencyError, match="ray not found"):
        run(root, given(root), executor="ray")


@pytest.mark.ray
def test_on_ray_the_table_is_the_same(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ray = pytest.importorskip("ray")
    monkeypatch.setenv("RAY_ADDRESS", "local")  # a cluster of its own, whatever another test has started
    config = given(root, **GRID)
    assert timeless(run(root, config, executor="ray").rows) == timeless(run(root, config).rows)
    assert not ray.is_initialized(), "what was started for the study is gone with it"


def test_results_are_kept_as_they_come(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Results may come from elsewhere in whatever order; this process writes them."""

    def elsewhere(task: Any, items: Any, **options: Any) -> Any:
        assert options == {"workers": 3, "executor": "ray", "gpus": 0.0}
        yield from ((item, task(item)) for item in reversed(items))

    config = given(root, **GRID)
    monkeypatch.setattr("geniex.study.grid.run.run_jobs", elsewhere)
    there = run(root, config, tmp_path, executor="ray", workers=3)
    monkeypatch.undo()
    assert timeless(there.rows) == timeless(run(root, config).rows)
    assert len(_results(tmp_path)) == 7


@pytest.mark.parametrize(
    ("more", "told"),
    [
        ({"network": "no-such-net"}, r"network: got 'no-such-net'; no such file"),
        ({"emulator": "magic"}, r"magic"),
        ({"emulator": "geniex-mlp-64"}, r"part 1: got a point that is not possible; .*trained for"),
        ({"crossbar.r_wire": 900.0}, r"r_wire_row = 900 ohm lies outside the validated range"),
        ({"window": {"r_on": 2000}}, r"r_on = 2000 ohm lies outside the validated range of 10000 to 1000000 ohm"),
        ({"images": 100}, r"images: got 100; it must be 1 to 60"),
        ({"data": "digits"}, r"data: got 'digits' of shape \(1, 8, 8\); .* takes images of shape \(1, 28, 28\)"),
        ({"images": None, "first_images": 61}, r"first_images: got 61; there are 60 test images"),
        ({"calibration_start": 200}, r"calibration_start: got 200; there are 200 training images"),
        ({"check": {"emulator": "physics", "images": 41}}, r"check.images: got 41; it must be at most 40"),
        ({"check": {"emulator": "magic", "images": 4}}, r"magic"),
        (
            {"mitigation": "fine_tuning", "fine_tuning.batch": 201},
            r"fine_tuning.batch: got 201, with 0 images left out",
        ),
        ({"mitigation": "batch_norm"}, r"mitigation: got 'batch_norm'; .*cnn-0 has no batch norm to refit"),
        ({"tile": 1}, r"tile"),
        ({"grid": {"seed": [0, -1]}}, r"seed: got -1; .* \(in part 1: seed -1\)"),
    ],
)
def test_all_is_checked_before_anything_runs(root: Path, tmp_path: Path, more: dict[str, Any], told: str) -> None:
    config = given(root)
    if "crossbar.r_wire" in more:
        del config["crossbar"]
    with pytest.raises(InputError, match=told):
        run(root, config | more, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_folded_batch_norms_cannot_be_refitted(root: Path) -> None:
    with pytest.raises(InputError, match="no batch norm to refit"):
        run(root, given(root, "vgg", mitigation="batch_norm", fold=True))


@pytest.mark.parametrize(
    ("options", "told"), [({"workers": 0}, "workers: got 0"), ({"executor": "slurm"}, "executor: got 'slurm'")]
)
def test_ways_to_run_are_checked(root: Path, options: dict[str, Any], told: str) -> None:
    with pytest.raises(InputError, match=told):
        run(root, given(root), **options)


def test_a_baseline_needs_a_pair_and_as_many_networks(root: Path) -> None:
    with pytest.raises(InputError, match="no other point has a baseline point"):
        run(root, given(root, grid={"tile": [16]}, baseline={"tile": 16}))
    few, everything = (
        {"name": "few", "grid": {"emulator": ["linear"]}},
        {"images": None, "grid": {"emulator": ["ideal"]}},
    )
    with pytest.raises(InputError, match=r"baseline: got points on different images; .*same data and seed"):
        run(root, given(root, parts=[few, everything], baseline={"emulator": "ideal"}))
    pair = {"two": [str(root / f"cnn-{k}") for k in range(2)], "one": [str(root / "vgg")]}
    with pytest.raises(InputError, match="1 and 2 networks; networks are compared in pairs"):
        run(root, BASE | {"grid": {"network": pair}, "baseline": {"network": "one"}})
    with pytest.raises(InputError, match="differences: got 2 and 1 networks"):
        run(root, BASE | {"grid": {"network": pair}, "differences": "network"})
