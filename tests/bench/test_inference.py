"""``geniex bench inference``: its counts are those of hand and simulator, and its figures add up."""

import dataclasses
import json
import pickle
from pathlib import Path

import pytest
import torch
from made_up_reports import make_report, make_row

from geniex.bench.inference import _prepared, bench_inference
from geniex.bench.inference_cases import WORKLOADS, Case, Layer, keep_few_vectors, observe_products
from geniex.bench.inference_models import CIRCUIT, EMULATORS, LOSSLESS, MLP, make_contender
from geniex.bench.inference_report import InferenceReport, InferenceRow, InferenceSettings
from geniex.bench.roofline import Limits, TileWork, Work, count_collapsed_work, count_product_work, count_tile_work
from geniex.bench.surrogate_report import FAST, IDEAL, LINEAR, PHYSICS
from geniex.bench.timing import Timing
from geniex.cli.main import main
from geniex.config import Config
from geniex.emulator import IdealEmulator, LinearEmulator, SurrogateEmulator
from geniex.simulator import CrossbarMatrix, convert

LINEAR_LAYER = Layer("linear", 10, 3, None, (4,))
CONV_LAYER = Layer("conv", 3, 4, 5, (1, 2))
TINY = InferenceSettings(
    workloads=(LINEAR_LAYER, CONV_LAYER),
    sizes=(8,),
    slices=((4, 4),),
    narrow=((2, 1),),
    signs=(True,),
    threads=(1, 1),
    repeats=1,
    patience=0.2,
    memory=False,
)
CONV = Case(WORKLOADS["conv"], 1, 64, 16, 4, 4, signed=True)


@pytest.fixture(scope="module")
def report() -> InferenceReport:
    return bench_inference(TINY)


@pytest.mark.parametrize(
    ("changes", "tiles", "reads"),
    [
        # 576 rows are 9 tiles. 4 slices of 4 bits: 16 outputs a tile, 4 column tiles, 2 signs; 4 streams, 2 passes.
        ({}, 72, 8),
        ({"signed": False}, 72, 4),
        # 8 slices of 2 bits: 8 outputs a tile; 16 streams of 1 bit in two's complement.
        ({"slice_bits": 2, "stream_bits": 1}, 144, 16),
        # 7 bits of magnitude are 4 slices.
        ({"bits": 8, "slice_bits": 2, "stream_bits": 1}, 72, 8),
        # 576 rows are 5 tiles of 128, of 32 outputs each.
        ({"tile": 128}, 20, 8),
    ],
)
def test_tile_vectors_are_those_counted_by_hand(changes: dict, tiles: int, reads: int) -> None:
    case = dataclasses.replace(CONV, **changes)
    (found,) = observe_products(case.workload.module(0), case.workload.draw(1, case.signed, 0))
    assert found == (576, 64, 256, case.signed)
    assert found.tiles(case.architecture()) == tiles
    assert found.tile_vectors(case.architecture()) == tiles * reads * 256


@pytest.mark.parametrize("signed", [True, False])
@pytest.mark.parametrize(("slice_bits", "stream_bits"), [(4, 4), (3, 2), (2, 1)])
def test_tile_vectors_are_those_that_the_simulator_reads(signed: bool, slice_bits: int, stream_bits: int) -> None:
    case = Case(CONV_LAYER, 2, 8, 9, slice_bits, stream_bits, signed)
    module, x = case.workload.module(0), case.workload.draw(2, signed, 0)
    (found,) = observe_products(module, x)
    layer, vectors = keep_few_vectors(module, x, found.vectors)
    converted = convert(layer, case.architecture(), IdealEmulator(), calibration=vectors)
    (matrix,) = (m for m in converted.modules() if isinstance(m, CrossbarMatrix))
    with torch.no_grad():
        read = matrix.reads(vectors).actual
    assert read.shape[:-1].numel() == found.tile_vectors(case.architecture())


def test_few_vectors_give_the_first_outputs_of_the_layer() -> None:
    module, x = CONV_LAYER.module(0), CONV_LAYER.draw(1, True, 0)
    linear, vectors = keep_few_vectors(module, x, 7)
    with torch.no_grad():
        torch.testing.assert_close(linear(vectors), module(x)[0].flatten(1).T[:7])


def test_resnet18_has_the_products_of_cifars_resnet18() -> None:
    workload = WORKLOADS["resnet18"]
    found = observe_products(workload.module(0), workload.draw(1, False, 0))
    assert len(found) == 21
    # The multiply-adds that are known for it, and its weights without norms and bias.
    assert sum(p.inputs * p.outputs * p.vectors for p in found) == 555_422_720
    assert sum(p.inputs * p.outputs for p in found) == 11_164_352
    assert not any(p.signed for p in found)


def test_every_setting_of_a_bar_is_measured_by_default() -> None:
    keys = {
        (c.workload.name, c.batch, c.tile, c.bits, c.slice_bits, c.stream_bits, c.signed)
        for c in InferenceSettings().cases()
    }
    conv, network = ("conv", 1, 64), ("resnet18", 1, 64)
    assert {(*conv, 16, 4, 4, True), (*conv, 16, 4, 4, False), (*conv, 16, 2, 1, True), (*conv, 8, 2, 1, True)} <= keys
    assert (*network, 8, 4, 4, False) in keys
    assert {(b, 64) for b in (1, 4, 16)} | {(1, t) for t in (32, 128)} <= {k[1:3] for k in keys if k[0] == "conv"}
    assert len(keys) == len(InferenceSettings().cases())


def test_quick_leaves_out_what_takes_long() -> None:
    quick = InferenceSettings().quick()
    assert [(c.workload.name, c.batch, c.tile) for c in quick.cases()] == [
        ("linear", 32, 64),
        ("conv", 1, 64),
        ("fashion-cnn", 1, 64),
    ]
    assert not quick.memory


def test_rows_have_all_figures_and_state_their_converters(report: InferenceReport) -> None:
    assert [(c.workload.name, c.batch, c.bits) for c in TINY.cases()] == [
        ("linear", 4, 16),
        ("linear", 4, 8),
        ("conv", 1, 16),
        ("conv", 1, 8),
        ("conv", 2, 16),
    ]
    assert [row.emulator for row in report.rows] == list(EMULATORS) * 5
    for row in report.rows:
        assert row.failure is None
        assert row.program_seconds
        assert row.over_torch == pytest.approx(row.read_seconds / row.torch_seconds)
        assert row.tile_vectors_per_second == pytest.approx(row.tile_vectors / row.read_seconds)
        assert (row.limit_seconds is None) == (row.emulator == CIRCUIT)
        architecture = Config.from_dict(json.loads(json.dumps(row.architecture)))
        assert architecture.adc_bits == (None if row.emulator == LOSSLESS else 14)
        assert row.adc.startswith("lossless" if row.emulator == LOSSLESS else "14 bit")
        assert architecture.tile == (8, 8)
        assert (architecture.weight_bits, architecture.input_bits) == (row.bits, row.bits)
        assert row.dtype == ("float64" if row.emulator == CIRCUIT else "float32")


def test_errors_are_of_the_numbers_and_of_the_crossbar(report: InferenceReport) -> None:
    rows = {row.emulator: row for row in report.rows if (row.workload, row.bits) == ("linear", 16)}
    # 15 bits of magnitude; the crossbar loses percents, of which physics knows all but thousandths.
    assert rows[LOSSLESS].error < 3e-4
    assert rows[CIRCUIT].error > 3e-3
    assert rows[PHYSICS].error == pytest.approx(rows[CIRCUIT].error, rel=0.02)
    assert rows[MLP].error is None
    assert "random weights" in rows[MLP].note


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_is_as_far_off_as_a_cpu(report: InferenceReport) -> None:
    found = bench_inference(dataclasses.replace(TINY, device="cuda", memory=True))
    for ours, other in zip(found.rows, report.rows, strict=True):
        assert ours.failure is None
        assert ours.peak_bytes > 0
        # Sums in another order move a count that lies between two ADC codes, 1 in 2^14.
        assert ours.error == pytest.approx(other.error, rel=0.01, abs=1e-4)


def test_shipped_networks_have_an_error_only_at_the_bits_they_know() -> None:
    for slices, known in (((4, 4), True), ((2, 1), False)):
        case = Case(LINEAR_LAYER, 4, 16, 16, *slices, signed=True)
        mine = make_contender(MLP, case, LINEAR_LAYER.module(0), LINEAR_LAYER.draw(4, True, 0))
        assert mine.trained == known
        assert bool(mine.note) != known


def test_the_exact_circuit_is_timed_on_few_vectors(monkeypatch: pytest.MonkeyPatch) -> None:
    def clock(actions: dict, repeats: int, patience: float) -> dict:
        seconds = {"torch": 0.5, "program": 3.0, "read": 6.0}
        return {key: Timing([seconds[key]], action()) for key, action in actions.items()}

    monkeypatch.setattr("geniex.bench.inference.time_in_turns", clock)
    # 3200 tile-vectors are 128 for each of 25 vectors.
    monkeypatch.setattr("geniex.bench.inference_models._FEW", 400)
    settings = dataclasses.replace(TINY, workloads=(dataclasses.replace(CONV_LAYER, batches=(1,)),), narrow=())
    rows = {row.emulator: row for row in bench_inference(settings).rows}
    assert rows[CIRCUIT].note.startswith("timed on 3 of 25 vectors")
    assert rows[CIRCUIT].read_seconds == pytest.approx(6.0 * 25 / 3)
    assert rows[CIRCUIT].tile_vectors_per_second == pytest.approx(3200 * 3 / 25 / 6.0)
    assert rows[IDEAL].read_seconds == 6.0
    assert rows[IDEAL].over_torch == 12.0
    assert rows[IDEAL].program_seconds == 3.0


def test_work_of_a_tile_is_that_of_its_products() -> None:
    case = Case(LINEAR_LAYER, 4, 16, 16, 4, 4, signed=True)
    architecture, like = case.architecture(), torch.empty(0)
    n, col_tiles = 16, 3
    plain = TileWork(2 * n * n, 4 * n * n)
    mlp = make_contender(MLP, case, LINEAR_LAYER.module(0), LINEAR_LAYER.draw(4, True, 0)).emulator
    assert isinstance(mlp, SurrogateEmulator)
    assert count_tile_work(IdealEmulator(), architecture, col_tiles, like) == plain
    assert count_tile_work(LinearEmulator(mlp.crossbar), architecture, col_tiles, like) == plain
    hidden = mlp.surrogate.hidden.out_features
    # The voltages' half of the hidden layer is shared by the arrays that the same inputs drive.
    flops = 2 * n * n + 2 * hidden * n + 2 * n * hidden / (2 * col_tiles)
    assert count_tile_work(mlp, architecture, col_tiles, like) == pytest.approx((flops, 4 * (n * n + hidden)))


@dataclasses.dataclass(frozen=True)
class TwoProducts:
    first: torch.Tensor
    terms: tuple[torch.Tensor, ...]
    unread: torch.Tensor


class TwoProductsEmulator(IdealEmulator):
    def program(self, conductances: torch.Tensor) -> TwoProducts:
        return TwoProducts(conductances.clone(), (conductances**2,), conductances.clone())

    def read(self, array: TwoProducts, voltages: torch.Tensor) -> torch.Tensor:
        return sum(
            torch.einsum("vacr,acrk->vack", voltages.expand(-1, 2, 3, -1), g) for g in (array.first, *array.terms)
        )


def test_work_is_of_all_products_and_of_what_is_read_of_an_array() -> None:
    architecture = Case(LINEAR_LAYER, 4, 16, 16, 4, 4, signed=True).architecture()
    found = count_tile_work(TwoProductsEmulator(), architecture, 3, torch.empty(0, dtype=torch.float64))
    assert found == (2 * 2 * 16 * 16, 2 * 8 * 16 * 16)


def test_least_work_of_a_product_and_its_limit() -> None:
    (found,) = observe_products(CONV.workload.module(0), CONV.workload.draw(1, True, 0))
    work = count_product_work(found, CONV.architecture(), TileWork(8192.0, 16384.0), 4)
    assert work.flops == 147456 * 8192
    drives, currents = 256 * 8 * 9 * 64, 147456 * 64
    assert work.bytes == 72 * 16384 + 4 * (drives + currents)
    collapsed = count_collapsed_work(found, 4)
    assert collapsed == (2 * 576 * 64 * 256, 4 * (576 * 64 + 256 * (576 + 64)))
    limits = Limits(1, 100.0, 10.0)
    assert Work(1000.0, 10.0).seconds(limits) == 10.0
    assert Work(100.0, 20.0).seconds(limits) == 2.0


def test_limits_are_of_this_machine(report: InferenceReport) -> None:
    (limits,) = report.limits
    assert limits.threads == 1
    assert 1e8 < limits.flops_per_second < 1e13
    assert 1e8 < limits.bytes_per_second < 1e12


def test_an_emulator_that_fails_has_a_row_and_the_others_go_on() -> None:
    settings = dataclasses.replace(TINY, workloads=(LINEAR_LAYER,), sizes=(300,), narrow=(), emulators=(PHYSICS, IDEAL))
    failed, worked = bench_inference(settings).rows
    assert "rows = 300 lies outside" in failed.failure
    assert failed.read_seconds is failed.over_torch is failed.error is failed.limit_seconds is None
    assert failed.tile_vectors == worked.tile_vectors
    assert worked.failure is None
    assert worked.read_seconds > 0


def test_the_work_whose_memory_is_measured_survives_the_way_to_its_process() -> None:
    case = TINY.cases()[0]
    name, case, settings = pickle.loads(pickle.dumps((IDEAL, case, TINY)))
    _prepared(name, case, settings)()


def _report(*rows: InferenceRow, **changes: object) -> InferenceReport:
    return make_report(dataclasses.replace(TINY, **changes), *rows)  # type: ignore[arg-type]


def test_growth_is_of_rows_that_differ_in_nothing_else() -> None:
    rows = [make_row(IDEAL, 2.0 * b, batch=b) for b in (1, 4, 16)] + [make_row(IDEAL, 99.0, batch=4, bits=8)]
    rows += [make_row(FAST, 64.0 / t, tile=t) for t in (32, 64)]
    batch, tile = _report(*rows).growth
    assert (batch.along, batch.values, batch.exponent) == ("batch", (1, 4, 16), pytest.approx(1.0))
    assert (tile.emulator, tile.along, tile.exponent) == (FAST, "tile", pytest.approx(-1.0))


def test_the_command_prints_figures_beside_bars_and_writes_json(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "220")
    chosen = ["--workload", "linear", "--emulator", LINEAR, "--emulator", IDEAL, "--sizes", "[32]"]
    assert main(["bench", "inference", *chosen, "--quick", "--json", str(tmp_path / "b.json")]) == 0
    printed = capsys.readouterr().out
    for words in ("Linear 256->64 on 1 thread", "14 bit", "tile-vec.", "Elsewhere", "not measured", "CrossSim"):
        assert words in printed
    found = json.loads((tmp_path / "b.json").read_text())
    assert (found["format"], found["schema_version"]) == ("geniex-bench-inference", 1)
    assert {"settings", "machine", "limits", "notes", "rows", "growth", "bars", "elsewhere"} <= set(found)
    assert [row["emulator"] for row in found["rows"]] == [IDEAL, LINEAR]
    assert set(found["rows"][0]) == {f.name for f in dataclasses.fields(InferenceRow)}


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["inference", "--tiles", "2"], "tiles: got 2; it is an option of `geniex bench surrogate`, not of inference"),
        (["solver", "--device", "meta"], "device: got meta; it is an option of `geniex bench inference`, not of"),
        (["surrogate", "--threads", "[2]"], "`geniex bench solver` and `geniex bench inference`, not of surrogate"),
        (["inference", "--threads", "[1,2,3]"], "threads: got [1, 2, 3]; give one number"),
        (["inference", "--workload", "vgg"], "workload: got 'vgg'; it must be one of linear, conv"),
        (["inference", "--emulator", "spice"], "emulator: got 'spice'; it must be one of ideal, ideal-lossless"),
        (["inference", "--device", "cuda:99"], "device: got 'cuda:99'; this machine cannot use it"),
    ],
)
def test_wrong_options_are_refused(options: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", *options]) == 2
    assert said in capsys.readouterr().err
