"""Accuracy prediction on a network small enough to follow."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path

import pytest
import torch
from scipy import stats
from torch import Tensor, nn

from geniex.cells import LinearCell
from geniex.circuit import Crossbar
from geniex.emulator import CircuitEmulator
from geniex.errors import CheckpointError, ConversionError, InputError
from geniex.mapping import Architecture, ConductanceWindow
from geniex.simulator import convert
from geniex.study.accuracy import _emulators, predict_accuracy
from geniex.study.html import make_html_table, make_markdown_page, write_page
from geniex.study.statistics import bootstrap_ratio, wilson_interval
from geniex.surrogate import GeniexMLP

CROSSBAR = Crossbar(8, 8, r_wire=200.0)
ARCH = Architecture(tile=(8, 8), weight_bits=8, input_bits=8)


@pytest.fixture(scope="module")
def model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 3, 3, stride=2), nn.ReLU(), nn.Flatten(), nn.Linear(3 * 9, 4)).eval()


@pytest.fixture(scope="module")
def batches(model: nn.Module) -> list[tuple[Tensor, Tensor]]:
    """Two batches whose labels are the float model's own, but for the last image's."""
    images = torch.rand(10, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    labels = model(images).argmax(-1)
    labels[-1] = (labels[-1] + 1) % 4
    return [(images[:6], labels[:6]), (images[6:], labels[6:])]


@pytest.mark.parametrize(("successes", "trials"), [(0, 10), (7, 10), (64, 64), (912, 1000)])
def test_wilson_interval_is_scipys(successes: int, trials: int) -> None:
    expected = stats.binomtest(successes, trials).proportion_ci(method="wilson")
    assert wilson_interval(successes, trials) == pytest.approx((float(expected.low), float(expected.high)), abs=1e-6)
    assert wilson_interval(0, 0) == (0.0, 1.0)


def test_wilson_interval_holds_the_share_in_floating_point_too() -> None:
    for trials in range(1, 200):
        assert wilson_interval(trials, trials)[1] == 1.0
        assert wilson_interval(0, trials)[0] == 0.0


@pytest.mark.slow
def test_stages_are_measured_against_labels_and_against_the_circuit(
    model: nn.Module, batches: list[tuple[Tensor, Tensor]]
) -> None:
    surrogate = GeniexMLP(CROSSBAR, ARCH.window, ARCH.v_max, hidden=8, r_min=0.9, r_max=1.1)
    seen: list[tuple[str, int, int]] = []
    report = predict_accuracy(
        model, batches, crossbar=CROSSBAR, architecture=ARCH, surrogates={"surrogate": surrogate}, circuit_images=4,
        progress=lambda *step: seen.append(step),
    )  # fmt: skip
    names = ["float", "fixed point", "ideal", "linear", "surrogate", "circuit"]
    assert [s.name for s in report.stages] == names
    assert [s.images for s in report.stages] == [10] * 5 + [4]
    assert report.stage("float").correct == 9
    assert ("float", 10, 10) in seen
    assert ("circuit", 4, 4) in seen

    images = batches[0][0]
    reference = convert(
        model, ARCH, CircuitEmulator(CROSSBAR, tol=1e-9), calibration=torch.cat([b[0] for b in batches]),
        dtype=torch.float64,
    )  # fmt: skip
    truth, own = reference(images[:4]), model(images[:4])
    error = ((own - truth).square().mean() / truth.square().mean()).sqrt().item()
    assert report.stage("float").logit_error == pytest.approx(error, rel=1e-3)
    assert report.stage("float").agreement == (own.argmax(-1) == truth.argmax(-1)).double().mean()
    assert report.stage("float").logit_error_low < error < report.stage("float").logit_error_high
    assert report.stage("linear").accuracy_difference == pytest.approx(
        report.stage("linear").agreement - 1, abs=1e-9
    ), "the labels of these four are the float model's, as the circuit's answers are"
    circuit = report.stage("circuit")
    assert (circuit.agreement, circuit.logit_error) == (1.0, 0.0)
    assert report.stage("linear").logit_error < report.stage("ideal").logit_error
    assert report.stage("fixed point").logit_error == pytest.approx(report.stage("float").logit_error, rel=0.3)

    assert [x.name for x in report.layers] == ["0", "3"]
    assert all(x.p05 <= x.mean <= x.p95 and x.currents > 0 for x in report.layers)
    told = json.loads(json.dumps(report.to_dict()))
    assert told["configuration"]["architecture"]["adc_bits"] == 14
    with pytest.raises(InputError, match="nonsense"):
        report.stage("nonsense")


def test_ideal_circuit_agrees_with_the_ideal_tiles(model: nn.Module, batches: list[tuple[Tensor, Tensor]]) -> None:
    crossbar = Crossbar(8, 8, r_source=0.0, r_sink=0.0, r_wire=0.0, cell=LinearCell())
    report = predict_accuracy(model, batches, crossbar=crossbar, architecture=ARCH, circuit_images=10)
    for name in ("ideal", "linear", "fixed point"):
        assert report.stage(name).agreement == 1.0
        assert report.stage(name).logit_error == pytest.approx(0.0, abs=1e-6)
    assert all(abs(x.mean) < 1e-6 for x in report.layers), "the tolerance of the circuit"


def test_nf_of_linear_cells_is_the_share_that_the_wires_take(
    model: nn.Module, batches: list[tuple[Tensor, Tensor]]
) -> None:
    crossbar = CROSSBAR.replace(cell=LinearCell())
    report = predict_accuracy(model, batches, crossbar=crossbar, architecture=ARCH, circuit_images=1)
    assert all(0 < x.p05 <= x.mean <= x.p95 < 1 for x in report.layers)


def test_layers_tell_how_well_their_converters_fit_as_the_conversion_does(
    model: nn.Module, batches: list[tuple[Tensor, Tensor]], monkeypatch: pytest.MonkeyPatch
) -> None:
    import geniex.study.stages as module

    def told(*args: object, **options: object) -> nn.Module:
        converted = convert(*args, **options)  # type: ignore[arg-type]
        report = converted.conversion
        layers = [dataclasses.replace(x, adc_clipped=k / 8, overflowed=0.5) for k, x in enumerate(report.layers)]
        converted.conversion = dataclasses.replace(report, layers=tuple(layers))
        return converted

    monkeypatch.setattr(module, "convert", told)
    report = predict_accuracy(model, batches, crossbar=CROSSBAR, architecture=ARCH, circuit_images=0)
    assert [(x.name, x.adc_clipped, x.overflowed) for x in report.layers] == [("0", 0.0, 0.5), ("3", 0.125, 0.5)]
    assert [x["adc_clipped"] for x in report.to_dict()["layers"]] == [0.0, 0.125]


@pytest.mark.filterwarnings("ignore::geniex.errors.ConversionWarning")
def test_fixed_point_has_no_converters_and_no_wrapping(model: nn.Module, batches: list[tuple[Tensor, Tensor]]) -> None:
    crossbar = Crossbar(8, 8, r_source=0.0, r_sink=0.0, r_wire=0.0, cell=LinearCell())
    for change in (
        {"adc_bits": 4, "adc_range": "unit"},
        {"accumulator_bits": 16, "accumulator_frac_bits": 24},
    ):
        report = predict_accuracy(
            model, batches, crossbar=crossbar, architecture=ARCH.replace(**change), circuit_images=10
        )
        # What clips and wraps in the tiles is in the ideal and the circuit stage alike.
        assert report.stage("ideal").logit_error < 1e-6
        assert report.stage("fixed point").logit_error > 0.1
        assert report.stage("fixed point").logit_error == pytest.approx(report.stage("float").logit_error, rel=0.1)


@pytest.mark.parametrize("scheme", ["offset", "twos_complement"])
def test_other_schemes_and_calibrated_converters_have_a_fixed_point_stage_too(
    scheme: str, model: nn.Module, batches: list[tuple[Tensor, Tensor]]
) -> None:
    arch = Architecture(
        tile=(8, 8), weight_bits=6, input_bits=6, slice_bits=3, weight_scheme=scheme, offset="reference_column",
        adc_bits=9, adc_range="calibrated", adc_granularity="tile",
    )  # fmt: skip
    report = predict_accuracy(model, batches, crossbar=CROSSBAR, architecture=arch, circuit_images=4)
    assert report.stage("fixed point").correct >= 7


def test_without_circuit_images_nothing_is_compared(model: nn.Module, batches: list[tuple[Tensor, Tensor]]) -> None:
    report = predict_accuracy(model, batches, crossbar=CROSSBAR, architecture=ARCH, circuit_images=0)
    assert [s.name for s in report.stages] == ["float", "fixed point", "ideal", "linear"]
    assert report.stage("float").agreement is None


def test_bad_input_is_named(model: nn.Module, batches: list[tuple[Tensor, Tensor]]) -> None:
    with pytest.raises(InputError, match="circuit_images: got 11"):
        predict_accuracy(model, batches, crossbar=CROSSBAR, architecture=ARCH, circuit_images=11)
    with pytest.raises(InputError, match="loader"):
        predict_accuracy(model, [], crossbar=CROSSBAR, architecture=ARCH)
    with pytest.raises(InputError, match="at least one image"):
        predict_accuracy(model, [(torch.empty(0, 1, 8, 8), torch.empty(0))], crossbar=CROSSBAR, architecture=ARCH)
    with pytest.raises(InputError, match=r"labels \(5,\)"):
        predict_accuracy(model, [(torch.rand(6, 1, 8, 8), torch.zeros(5))], crossbar=CROSSBAR, architecture=ARCH)
    with pytest.raises(InputError, match="window"):
        ARCH.replace(window=None)
    assert ARCH.window == ConductanceWindow(100e3, 6.0)


def test_a_surrogate_for_something_else_is_refused_before_any_stage_runs(
    model: nn.Module, batches: list[tuple[Tensor, Tensor]]
) -> None:
    def never(*step: object) -> None:
        raise AssertionError(f"{step} ran")

    options = {"crossbar": CROSSBAR, "architecture": ARCH, "circuit_images": 4, "progress": never}
    with pytest.raises(CheckpointError, match=r"r_wire_row=2\.5 and not 200"):
        predict_accuracy(model, batches, surrogates=[GeniexMLP(Crossbar(8, 8), ARCH.window, ARCH.v_max)], **options)
    with pytest.raises(ConversionError, match="v_max"):
        predict_accuracy(model, batches, surrogates=[GeniexMLP(CROSSBAR, ARCH.window, 0.5)], **options)


def test_the_surrogate_goes_where_the_images_are_and_the_callers_stays(model: nn.Module) -> None:
    mlp = GeniexMLP(CROSSBAR, ARCH.window, ARCH.v_max, hidden=2, r_min=0.9, r_max=1.1)
    (emulator,) = _emulators([mlp], CROSSBAR, ARCH, torch.device("meta")).values()
    assert {p.device.type for p in emulator.surrogate.parameters()} == {"meta"}
    assert {p.device.type for p in mlp.parameters()} == {"cpu"}


def test_two_surrogates_of_one_name_are_refused(model: nn.Module, batches: list[tuple[Tensor, Tensor]]) -> None:
    twins = [GeniexMLP(CROSSBAR, ARCH.window, ARCH.v_max, hidden=2) for _ in range(2)]
    with pytest.raises(InputError, match=r"GeniexMLP.*another stage has this name"):
        predict_accuracy(model, batches, crossbar=CROSSBAR, architecture=ARCH, surrogates=twins, circuit_images=0)
    with pytest.raises(InputError, match=r"linear.*another stage"):
        predict_accuracy(
            model, batches, crossbar=CROSSBAR, architecture=ARCH, surrogates={"linear": twins[0]}, circuit_images=0
        )


def test_a_killed_study_goes_on_and_ends_with_the_same_logits(
    model: nn.Module, batches: list[tuple[Tensor, Tensor]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("geniex.study.accuracy._BATCH", 3)
    options = {"crossbar": CROSSBAR, "architecture": ARCH, "circuit_images": 10}
    whole = predict_accuracy(model, batches, **options)
    seen: list[tuple[str, int, int]] = []

    def killed(*step: object) -> None:
        if step[:2] == ("circuit", 6):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        predict_accuracy(model, batches, work=tmp_path, progress=killed, **options)
    again = predict_accuracy(model, batches, work=tmp_path, progress=lambda *step: seen.append(step), **options)
    assert [step for step in seen if step[0] == "circuit"] == [
        ("circuit", 6, 10),
        ("circuit", 9, 10),
        ("circuit", 10, 10),
    ]
    assert [step for step in seen if step[0] == "linear"] == [("linear", 10, 10)]
    for one, other in zip(whole.stages, again.stages, strict=True):
        assert (one.correct, one.logit_error, one.agreement) == (other.correct, other.logit_error, other.agreement)
    # One more surrogate leaves the others' logits as they are; another circuit, or a torn file, starts anew.
    seen.clear()
    mlp = GeniexMLP(CROSSBAR, ARCH.window, ARCH.v_max, hidden=2, r_min=0.9, r_max=1.1)
    predict_accuracy(
        model, batches, work=tmp_path, surrogates=[mlp], progress=lambda *step: seen.append(step), **options
    )
    assert [step for step in seen if step[0] == "circuit"] == [("circuit", 10, 10)]
    seen.clear()
    for file in tmp_path.iterdir():
        file.write_bytes(file.read_bytes()[:20])
    predict_accuracy(model, batches, work=tmp_path, progress=lambda *step: seen.append(step), **options)
    assert ("circuit", 3, 10) in seen
    seen.clear()
    other = options | {"crossbar": CROSSBAR.replace(r_sink=0.0)}
    predict_accuracy(model, batches, work=tmp_path, progress=lambda *step: seen.append(step), **other)
    assert ("circuit", 3, 10) in seen


def test_kept_logits_are_of_one_network(batches: list[tuple[Tensor, Tensor]], tmp_path: Path) -> None:
    """Also where only what lies between the weights differs."""
    torch.manual_seed(0)
    layers = nn.Flatten(), nn.Linear(64, 8), nn.Linear(8, 4)
    options = {"crossbar": CROSSBAR, "architecture": ARCH, "circuit_images": 0}
    for between in (nn.ReLU(), nn.Tanh()):
        network = nn.Sequential(layers[0], layers[1], between, layers[2])
        kept = predict_accuracy(network, batches, work=tmp_path, **options)
        assert kept.stage("linear").correct == predict_accuracy(network, batches, **options).stage("linear").correct
    assert len(list(tmp_path.glob("linear-*"))) == 2


def test_bootstrap_interval_is_scipys() -> None:
    above, below = torch.rand(80, generator=torch.Generator().manual_seed(0)), torch.rand(80) + 1
    expected = stats.bootstrap(
        (above.numpy(), below.numpy()), lambda a, b, axis=-1: a.sum(axis) / b.sum(axis), paired=True,
        method="percentile", n_resamples=4000, rng=1,
    ).confidence_interval  # fmt: skip
    width = expected.high - expected.low
    assert all(math.isnan(end) for end in bootstrap_ratio(above, below - 1.5)), "a draw whose sum is below 0"
    assert bootstrap_ratio(above, below) == pytest.approx(
        (float(expected.low), float(expected.high)), abs=0.08 * float(width)
    )


def test_page_holds_what_it_is_given_and_escapes_it(tmp_path: Path) -> None:
    figure = tmp_path / "figure.png"
    figure.write_bytes(b"\x89PNG")
    page = tmp_path / "page.html"
    write_page(page, "a < b", ["note"], [make_html_table(["x"], [["<1>"]])], [figure], {"key": 1})
    text = page.read_text()
    assert "a &lt; b" in text
    assert "&lt;1&gt;" in text
    assert "data:image/png;base64,iVBORw==" in text
    assert "&quot;key&quot;: 1" in text
    assert (
        make_markdown_page("t", ["n"], [(["a", "b"], [["1", "2"]])])
        == "# t\n\n| a | b |\n| --- | --: |\n| 1 | 2 |\n\nn\n"
    )


class Judge(nn.Module):
    """A classifier of sequences that is called by keyword, and gives logits as Hugging Face's models do."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.mix, self.head = nn.Embedding(9, 8), nn.Linear(8, 8), nn.Linear(8, 4)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> dict[str, Tensor]:
        x = self.embedding(input_ids) * attention_mask[..., None]
        return {"logits": self.head(self.mix(input=x.mean(1)).relu())}


def sequences(seed: int, count: int, length: int) -> dict[str, Tensor]:
    ids = torch.randint(0, 9, (count, length), generator=torch.Generator().manual_seed(seed))
    return {"input_ids": ids, "attention_mask": (ids > 0).long()}


def test_models_whose_inputs_are_mappings_are_judged(tmp_path: Path) -> None:
    """Batches of sequences of other lengths, which fit into no one tensor."""
    torch.manual_seed(0)
    judge = Judge().eval()
    inputs = [sequences(0, 5, 6), sequences(1, 3, 6), sequences(2, 2, 4)]
    with torch.no_grad():
        labels = [judge(**one)["logits"].argmax(-1) for one in inputs]
    labels[0] = (labels[0] + torch.tensor([1, 0, 0, 0, 0])) % 4
    crossbar = Crossbar(8, 8, r_source=0.0, r_sink=0.0, r_wire=0.0, cell=LinearCell())
    told = {"crossbar": crossbar, "architecture": ARCH.replace(adc_bits=None), "circuit_images": 9}
    loader = [{**one, "labels": label} for one, label in zip(inputs, labels, strict=True)]
    report = predict_accuracy(judge, loader, **told, work=tmp_path)
    assert [stage.images for stage in report.stages] == [10, 10, 10, 10, 9]
    assert report.stage("float").correct == 9
    assert report.stage("linear").logit_error < 1e-4
    again = predict_accuracy(judge, list(zip(inputs, labels, strict=True)), **told, calibration=iter(inputs))
    assert [s.correct for s in again.stages] == [s.correct for s in report.stages]
    other = predict_accuracy(
        judge, [{**sequences(5, 4, 6), "labels": labels[0][:4]}], **told | {"circuit_images": 1}, work=tmp_path
    )
    assert other.stage("float").images == 4, "logits of other inputs are not taken for these"
    with pytest.raises(InputError, match=r"loader: got a batch without labels"):
        predict_accuracy(judge, inputs, **told)
    with pytest.raises(InputError, match=r"calibration: got a function; with work= .*give batches"):
        predict_accuracy(judge, loader, **told, calibration=lambda m: m(**inputs[0]), work=tmp_path)
    by_function = predict_accuracy(judge, loader, **told, calibration=lambda m: [m(**one) for one in inputs])
    assert by_function.stage("ideal").correct == report.stage("ideal").correct


def test_what_gives_no_logits_is_named(model: nn.Module, batches: list[tuple[Tensor, Tensor]]) -> None:
    per_pixel = nn.Conv2d(1, 4, 1)
    with pytest.raises(InputError, match=r"model: got an output \(1, 4, 8, 8\) for 1 images; .*\(images, classes\)"):
        predict_accuracy(per_pixel, batches, crossbar=CROSSBAR, architecture=ARCH, circuit_images=1)
    with pytest.raises(InputError, match=r"loader: got a batch of 6 images and labels \(5,\)"):
        predict_accuracy(model, [(batches[0][0], batches[0][1][:5])], crossbar=CROSSBAR, architecture=ARCH)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (torch.full((10,), 4), r"labels from 4 to 4; the model has the classes 0 to 3"),
        (torch.full((10,), -1), r"labels from -1 to -1"),
        (torch.rand(10), r"labels of torch.float32; labels must be whole numbers"),
    ],
)
def test_labels_that_are_no_classes_are_told(
    model: nn.Module, batches: list[tuple[Tensor, Tensor]], labels: Tensor, message: str
) -> None:
    images = torch.cat([images for images, _ in batches])
    with pytest.raises(InputError, match=message):
        predict_accuracy(model, (images, labels), crossbar=CROSSBAR, architecture=ARCH, circuit_images=0)


def test_one_logit_is_no_classifier(batches: list[tuple[Tensor, Tensor]]) -> None:
    binary = nn.Sequential(nn.Flatten(), nn.Linear(64, 1))
    with pytest.raises(InputError, match=r"model: got 1 logit per image; .*a binary classifier needs two"):
        predict_accuracy(binary, batches, crossbar=CROSSBAR, architecture=ARCH, circuit_images=0)
