"""Accuracy prediction in stages: float, fixed point, ideal tiles, linear, surrogate, exact circuit."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from geniex import __version__
from geniex.circuit import Crossbar, non_ideality_factor
from geniex.emulator import SurrogateEmulator
from geniex.emulator.base import move_copy
from geniex.errors import InputError
from geniex.jobs import Executor, ResultStore, check_workers, digest, use_job_threads
from geniex.mapping import Architecture
from geniex.simulator import find_crossbar_layers
from geniex.simulator.arguments import Arguments, Examples
from geniex.simulator.batches import Data, LabelledData, is_function, read_batches
from geniex.simulator.convert import ConversionReport, PerLayer
from geniex.simulator.observe_inputs import add_hooks
from geniex.study.logits import gather_images
from geniex.study.stages import STAGES, Logits, Part, Progress, StageTask, compute_stage_logits, seed_by_names
from geniex.study.statistics import measure_logit_error, wilson_interval
from geniex.surrogate import Surrogate

_NF_VECTORS = 24
"""Inputs of each layer for which its tiles are solved exactly for the NF statistics."""
_CALIBRATION = 128
"""Images that choose the fraction bits by default."""
_BATCH = 16
"""Images per forward pass of a converted model."""
_FORM = "geniex-logits-1"
"""Meaning and version of the kept logits."""


@dataclass(frozen=True)
class Stage:
    """The accuracy that one stage predicts, and its comparison with the exact circuit on the circuit's images."""

    name: str
    images: int
    correct: int
    accuracy: float
    low: float
    high: float
    """Ends of the 95 % Wilson interval of the accuracy."""
    seconds: float
    """Seconds spent on the images, summed over all workers."""
    images_per_second: float
    """Images per second of one worker."""
    agreement: float | None = None
    """Share of the circuit's images on which this stage predicts the circuit's class."""
    agreement_low: float | None = None
    agreement_high: float | None = None
    """Ends of the 95 % Wilson interval of the agreement."""
    logit_error: float | None = None
    """RMS difference from the circuit's logits over the circuit's RMS logit, on the circuit's images."""
    logit_error_low: float | None = None
    logit_error_high: float | None = None
    """Ends of the 95 % bootstrap interval of the logit error over the images."""
    accuracy_difference: float | None = None
    """Accuracy minus the circuit's accuracy, both on the circuit's images."""


@dataclass(frozen=True)
class LayerFigures:
    """The NF of a layer's tiles in the exact circuit, over sampled inputs, and the fit of its converters, as fractions.

    ``currents`` column currents have an NF; ``mean``, ``std``, ``p05`` and ``p95`` (percentiles) are over these.
    """

    name: str
    currents: int
    mean: float
    std: float
    p05: float
    p95: float
    adc_clipped: float | None = None
    """Share of ADC conversions that clip on calibration inputs; None without an ADC."""
    adc_codes_used: float | None = None
    """Span of the ADC codes on calibration inputs, as a share of all codes; None without an ADC."""
    overflowed: float | None = None
    """Share of accumulated sums that wrap or saturate on calibration inputs; None if accumulators are unbounded."""


@dataclass(frozen=True)
class Prediction:
    """The result of ``predict_accuracy``, stage by stage, with its whole configuration."""

    stages: tuple[Stage, ...]
    layers: tuple[LayerFigures, ...]
    circuit_images: int
    configuration: dict[str, Any] = field(repr=False)

    def stage(self, name: str) -> Stage:
        """One stage by its name."""
        for stage in self.stages:
            if stage.name == name:
                return stage
        raise InputError("name", repr(name), f"stages are {[s.name for s in self.stages]}")

    def to_dict(self) -> dict[str, Any]:
        """The prediction as JSON-ready plain values."""
        return asdict(self)


@torch.no_grad()
def predict_accuracy(
    model: nn.Module,
    loader: LabelledData,
    *,
    crossbar: Crossbar,
    architecture: Architecture,
    surrogates: Sequence[Surrogate | str | Path] | Mapping[str, Surrogate] = (),
    circuit_images: int = 64,
    circuit_tol: float = 1e-6,
    calibration: Data | None = None,
    per_layer: PerLayer | None = None,
    progress: Progress | None = None,
    work: str | Path | None = None,
    workers: int | None = None,
    executor: Executor = "local",
) -> Prediction:
    """The accuracy that ``model`` is predicted to have on crossbars, as a ``Prediction``.

    The stages are "float" (the model as it is), "fixed point" (quantised, exact sums), "ideal" (tiles with ADC and
    accumulator), "linear" (exact wires, linear cells), each surrogate by its name, and "circuit" (the exact
    non-linear circuit, on the first ``circuit_images`` images only). Each accuracy has a 95 % interval. Agreement and
    logit error compare each stage with the circuit on the circuit's images.

    Args:
        model: a classifier; its matrix-product layers are put onto crossbars.
        loader: batches of (images, labels), or of mappings with "labels", or one such batch; ``read_labelled_batches``
            has the rules.
        crossbar: the circuit of one tile.
        architecture: the digital side; its tile must be the crossbar's.
        surrogates: surrogates of this crossbar: loaded ones by name, or names of shipped ones and checkpoint paths.
        circuit_images: number of images for the exact circuit; 0 leaves this stage out.
        circuit_tol: relative current tolerance of the exact circuit, far below one ADC step.
        calibration: inputs that choose the fraction bits, in any form that ``convert`` takes; None takes the loader's
            first 128 images.
        per_layer: exceptions for single layers, as ``convert`` takes them.
        progress: called as stages go on.
        work: folder where logits are kept batch by batch, so that a killed run can go on, if nothing that the logits
            depend on has changed.
        workers: local processes of one thread each, among which the batches are split; every process converts the
            model for itself. None works in this process on torch's threads. The logits are the same to the bit for
            every number of workers, also after a kill; those of several threads may differ in the last bits. On Ray,
            batches that are under way; None means two for each processor of the cluster. With several local processes
            a script needs the ``if __name__ == "__main__":`` guard.
        executor: "local" for processes, or "ray" for the cluster at ``RAY_ADDRESS``, else one on this machine.

    Raises:
        InputError: there are no images, fewer images than ``circuit_images``, or two surrogates of one name;
            ``calibration`` is a function although ``work``, several workers or Ray are given; or the model cannot be
            sent to another process.
        CheckpointError, ConversionError: a surrogate is for another circuit; raised before any stage runs.
        JobError: workers keep dying, there is no cluster, or the disk is full.
        MissingDependencyError: Ray is missing.
    """
    check_workers(workers, executor)
    images, labels = gather_images(loader, model)
    if not 0 <= circuit_images <= len(images):
        raise InputError("circuit_images", circuit_images, f"it must be 0 to {len(images)}, the number of images")
    calibration = _held(images[:_CALIBRATION] if calibration is None else calibration, model)
    if is_function(calibration):
        if work is not None:
            raise InputError(
                "calibration",
                "a function",
                "with work= the inputs need a digest, which a function does not have: give batches",
            )
        if workers not in (None, 1) or executor != "local":
            allowed = "with several workers a function might run other inputs in each: give batches"
            raise InputError("calibration", "a function", allowed)
    trained = _emulators(surrogates, crossbar, architecture, images.device)
    task = StageTask(model, crossbar, architecture, trained, circuit_tol, per_layer, calibration)
    with use_job_threads(workers, executor):
        on_circuit = task.network("circuit", warn=True)
        # Weights and settings do not identify the operations between layers; the first image's logits do.
        seen_first = task(Part("float", 0, next(iter(images[:1])))).values
    _check_labels(labels, seen_first.shape[1])
    conversion: ConversionReport = on_circuit.conversion  # type: ignore[assignment]
    configuration = _configuration(crossbar, architecture, trained, circuit_tol, conversion)
    stages = dict.fromkeys(("float", "fixed point", "ideal", "linear", *trained), images)
    if circuit_images:
        stages["circuit"] = images[:circuit_images]
    keys = dict.fromkeys(stages, "")
    if work is not None:
        told = {name: value for name, value in configuration.items() if name != "surrogates"}
        shared = digest(model.state_dict(), *calibration, told, repr(per_layer), repr(model), seen_first)  # type: ignore[misc]
        own = {name: (e.surrogate.state_dict(), configuration["surrogates"][name]) for name, e in trained.items()}
        keys = {name: digest(shared, name, *own.get(name, ())) for name in stages}
    found = compute_stage_logits(
        task,
        stages,
        keys,
        batch=_BATCH,
        store=ResultStore(work, _FORM),
        workers=workers,
        executor=executor,
        progress=progress,
    )
    with use_job_threads(workers, executor), seed_by_names("layers"):
        layers = _layer_figures(on_circuit, images[:2])
    return Prediction(
        stages=tuple(_stage(name, found, labels) for name in stages),
        layers=_with_converters(layers, conversion),
        circuit_images=circuit_images,
        configuration=configuration,
    )


def _check_labels(labels: Tensor, classes: int) -> None:
    """Raise ``InputError`` unless ``labels`` are classes of a model that gives so many logits."""
    if classes < 2:
        allowed = "the class is that of the largest logit, so that a binary classifier needs two logits"
        raise InputError("model", f"{classes} logit per image", allowed)
    if labels.is_floating_point() or labels.is_complex():
        raise InputError("loader", f"labels of {labels.dtype}", "labels must be whole numbers")
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high >= classes:
        raise InputError("loader", f"labels from {low} to {high}", f"the model has the classes 0 to {classes - 1}")


def _emulators(
    surrogates: Sequence[Surrogate | str | Path] | Mapping[str, Surrogate],
    crossbar: Crossbar,
    architecture: Architecture,
    device: torch.device,
) -> dict[str, SurrogateEmulator]:
    """The surrogates' emulators on ``device`` by name, checked to fit crossbar and architecture."""
    if isinstance(surrogates, Mapping):
        pairs: list[tuple[str, Surrogate | str | Path]] = list(surrogates.items())
    else:
        pairs = [(Path(s).name if isinstance(s, str | Path) else type(s).__name__, s) for s in surrogates]
    out: dict[str, SurrogateEmulator] = {}
    for name, given in pairs:
        if name in out or name in STAGES:
            raise InputError("surrogates", name, "another stage has this name: give each surrogate a name of its own")
        bound = SurrogateEmulator(given, crossbar).bind(architecture)
        out[name] = move_copy(bound, lambda tensor: tensor.to(device))
    return out


def _held(calibration: Data, model: nn.Module) -> list[Arguments] | Callable[[nn.Module], object]:
    """The calibration inputs in a form that every stage can go through, even if they come from a one-time iterator."""
    if is_function(calibration):
        return calibration
    return [batch.inputs for batch in read_batches(calibration, model)]


def _stage(name: str, found: dict[str, Logits], labels: Tensor) -> Stage:
    own, seconds = found[name].values, found[name].seconds
    count = len(own)
    correct = int((own.argmax(-1) == labels[:count]).sum())
    low, high = wilson_interval(correct, count)
    result = Stage(name, count, correct, correct / count, low, high, seconds, count / max(seconds, 1e-9))
    if "circuit" not in found:
        return result
    truth = found["circuit"].values.double()
    same, labels = own[: len(truth)].double(), labels[: len(truth)]
    agreeing = int((same.argmax(-1) == truth.argmax(-1)).sum())
    agreement_low, agreement_high = wilson_interval(agreeing, len(truth))
    error, error_low, error_high = measure_logit_error(same, truth)
    return replace(
        result,
        agreement=agreeing / len(truth),
        agreement_low=agreement_low,
        agreement_high=agreement_high,
        logit_error=error,
        logit_error_low=error_low,
        logit_error_high=error_high,
        accuracy_difference=float(
            ((same.argmax(-1) == labels).double() - (truth.argmax(-1) == labels).double()).mean()
        ),
    )


def _layer_figures(network: nn.Module, images: Examples) -> tuple[LayerFigures, ...]:
    """The NF figures of every crossbar layer, on a seeded sample of the layer's inputs in the running network."""
    figures: list[LayerFigures] = []
    generator = torch.Generator().manual_seed(0)

    def watch(name: str) -> Callable[..., None]:
        def hook(layer: Any, args: tuple[Tensor, ...], kwargs: dict[str, Tensor]) -> None:
            inputs = layer.matrix_inputs(args[0] if args else kwargs["input"])
            chosen = torch.randperm(len(inputs), generator=generator)[:_NF_VECTORS]
            reads = layer.reads(inputs[chosen.to(inputs.device)])
            nf = [non_ideality_factor(matrix.ideal, matrix.actual).flatten() for matrix in reads]
            figures.append(_figures(name, torch.cat(nf)))

        return hook

    with add_hooks((layer, "pre", watch(name)) for name, layer in find_crossbar_layers(network).items()):
        for part in images:
            part.run(network)
    return tuple(figures)


def _with_converters(layers: Iterable[LayerFigures], report: ConversionReport) -> tuple[LayerFigures, ...]:
    """The layers' figures completed by those of their converters from the conversion's report."""
    told = ((figures, report.layer(figures.name)) for figures in layers)
    return tuple(
        replace(
            figures,
            adc_clipped=layer.adc_clipped,
            adc_codes_used=layer.adc_codes_used,
            overflowed=layer.overflowed,
        )
        for figures, layer in told
    )


def _figures(name: str, nf: Tensor) -> LayerFigures:
    values = nf[torch.isfinite(nf)].double()
    if values.numel() == 0:
        return LayerFigures(name, 0, 0.0, 0.0, 0.0, 0.0)
    # torch.quantile refuses more than 16 million values.
    p05, p95 = torch.quantile(values[:: max(1, values.numel() // 1_000_000)], values.new_tensor([0.05, 0.95]))
    return LayerFigures(
        name, values.numel(), float(values.mean()), float(values.std(correction=0)), float(p05), float(p95)
    )


def _configuration(
    crossbar: Crossbar,
    architecture: Architecture,
    surrogates: Mapping[str, SurrogateEmulator],
    circuit_tol: float,
    conversion: ConversionReport,
) -> dict[str, Any]:
    return {
        "geniex_version": __version__,
        "torch_version": torch.__version__,
        "crossbar": crossbar.to_dict(),
        "architecture": architecture.to_dict(),
        "surrogates": {
            name: {"class": type(e.surrogate).__name__} | e.surrogate.options() | e.surrogate.info
            for name, e in surrogates.items()
        },
        "circuit_tol": circuit_tol,
        "conversion": conversion.to_dict(),
    }
