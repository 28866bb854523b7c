"""Accuracy prediction, stage by stage: float, fixed point, ideal tiles, linear, surrogate, exact circuit."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from geniex import __version__
from geniex.circuit import Crossbar, non_ideality_factor
from geniex.emulator import CircuitEmulator, Emulator, IdealEmulator, LinearEmulator, SurrogateEmulator
from geniex.errors import InputError
from geniex.mapping import Architecture
from geniex.simulator import convert, crossbar_layers
from geniex.simulator.convert import ConversionReport, PerLayer
from geniex.study.statistics import wilson_interval
from geniex.surrogate import Surrogate

Progress = Callable[[str, int, int], None]
"""Called with the stage's name, the images done and the images to do."""

_NF_VECTORS = 24
"""Layer inputs per layer whose tiles are solved exactly for the NF statistics."""
_BATCH = 16
"""Images per forward pass of a converted model."""


@dataclass(frozen=True)
class Stage:
    """What one stage predicts, and how it compares with the exact circuit on the images of that."""

    name: str
    images: int
    correct: int
    accuracy: float
    low: float
    high: float
    """Ends of the 95 % Wilson interval of the accuracy."""
    seconds: float
    images_per_second: float
    agreement: float | None = None
    """Share of the circuit's images on which this stage predicts the circuit's class."""
    agreement_low: float | None = None
    agreement_high: float | None = None
    logit_error: float | None = None
    """RMS difference from the circuit's logits over the circuit's RMS logit, same images."""


@dataclass(frozen=True)
class LayerFigures:
    """The exact circuit's NF on a layer's tiles, over sampled inputs: fractions, not percent."""

    name: str
    currents: int
    mean: float
    std: float
    p05: float
    p95: float


@dataclass(frozen=True)
class Prediction:
    """The staged result of ``predict_accuracy`` with its whole configuration."""

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
        """JSON-ready."""
        return asdict(self)


@torch.no_grad()
def predict_accuracy(
    model: nn.Module,
    loader: Iterable[tuple[Tensor, Tensor]],
    *,
    crossbar: Crossbar,
    architecture: Architecture,
    surrogate: Surrogate | str | Path | None = None,
    circuit_images: int = 64,
    circuit_tol: float = 1e-6,
    calibration: Tensor | None = None,
    per_layer: PerLayer | None = None,
    progress: Progress | None = None,
) -> Prediction:
    """What accuracy ``model`` will have on crossbars, as a ``Prediction``.

    Stages: "float" (the model as it is), "fixed point" (quantised, exact sums), "ideal" (tiles with ADC and
    accumulator), "linear" (exact wires, linear cells), "surrogate" (if given) and "circuit" (the exact
    non-linear circuit, on the first ``circuit_images`` images only). Each has a 95 % interval; agreement and
    logit error compare each stage with the circuit on the circuit's images.

    Args:
        model: a classifier; its Linear and Conv2d layers are put onto crossbars.
        loader: batches of (images, labels).
        crossbar: the circuit of one tile.
        architecture: the digital side; its tile must be the crossbar's.
        surrogate: a surrogate trained for this crossbar, a shipped one's name, or a checkpoint's path.
        circuit_images: images that the exact circuit sees; 0 leaves it out.
        circuit_tol: relative current tolerance of the exact circuit, far below one ADC step.
        calibration: inputs that choose the fraction bits; None takes the first batch.
        per_layer: exceptions, as ``convert`` takes them.
        progress: called as stages go on.
    """
    images, labels = _gathered(loader)
    if not 0 <= circuit_images <= len(images):
        raise InputError("circuit_images", circuit_images, f"give 0 to {len(images)}, the images that there are")
    calibration = images[:128] if calibration is None else calibration
    trained = None if surrogate is None else _emulator(surrogate, crossbar, architecture, images.device)

    def on(emulator: Emulator, arch: Architecture = architecture, dtype: torch.dtype | None = None) -> nn.Module:
        return convert(model, arch, emulator, per_layer=per_layer, calibration=calibration, dtype=dtype)

    exact = architecture.replace(adc_bits=None, accumulator_bits=None, offset="analog_difference")
    builders: dict[str, Callable[[], nn.Module]] = {
        "float": lambda: copy.deepcopy(model).eval(),
        "fixed point": lambda: on(IdealEmulator(), exact),
        "ideal": lambda: on(IdealEmulator()),
        "linear": lambda: on(LinearEmulator(crossbar)),
    }
    if trained is not None:
        builders["surrogate"] = lambda: on(trained)
    # The truth that the others are held to is solved in float64.
    on_circuit = on(CircuitEmulator(crossbar, tol=circuit_tol), dtype=torch.float64)
    if circuit_images:
        builders["circuit"] = lambda: on_circuit

    logits, seconds = dict[str, Tensor](), dict[str, float]()
    for name, build in builders.items():
        count = circuit_images if name == "circuit" else len(images)
        network, start = build(), time.perf_counter()
        logits[name] = _run(network, images[:count], name, progress)
        seconds[name] = time.perf_counter() - start
    layers = _layer_figures(on_circuit, images[:2])
    return Prediction(
        stages=tuple(_stage(name, logits, labels, seconds[name]) for name in builders),
        layers=layers,
        circuit_images=circuit_images,
        configuration=_configuration(
            crossbar,
            architecture,
            None if trained is None else trained.surrogate,
            circuit_tol,
            on_circuit.conversion,  # type: ignore[arg-type]
        ),
    )


def _emulator(
    surrogate: Surrogate | str | Path, crossbar: Crossbar, architecture: Architecture, device: torch.device
) -> SurrogateEmulator:
    """The surrogate's emulator on ``device``, found fit for the task before any stage has run."""
    # A copy: the caller's own stays where it is.
    emulator = SurrogateEmulator(copy.deepcopy(surrogate), crossbar)
    emulator.check(architecture)
    emulator.surrogate.to(device)
    return emulator


def _gathered(loader: Iterable[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    batches = [(images, torch.as_tensor(labels)) for images, labels in loader]
    if not batches:
        raise InputError("loader", "no batch", "it must give at least one (images, labels)")
    images, labels = torch.cat([b[0] for b in batches]), torch.cat([b[1] for b in batches])
    if not len(images) or labels.shape != images.shape[:1]:
        given = f"images {tuple(images.shape)} and labels {tuple(labels.shape)}"
        raise InputError("loader", given, "it must give at least one image, and one label for each")
    return images, labels


def _run(network: nn.Module, images: Tensor, name: str, progress: Progress | None) -> Tensor:
    parts, done = [], 0
    for batch in images.split(_BATCH):
        parts.append(network(batch))
        done += len(batch)
        if progress is not None:
            progress(name, done, len(images))
    return torch.cat(parts)


def _stage(name: str, logits: dict[str, Tensor], labels: Tensor, seconds: float) -> Stage:
    own = logits[name]
    count = len(own)
    correct = int((own.argmax(-1) == labels[:count]).sum())
    low, high = wilson_interval(correct, count)
    result = Stage(name, count, correct, correct / count, low, high, seconds, count / max(seconds, 1e-9))
    if "circuit" not in logits:
        return result
    truth = logits["circuit"].double()
    same = own[: len(truth)].double()
    agreeing = int((same.argmax(-1) == truth.argmax(-1)).sum())
    agreement_low, agreement_high = wilson_interval(agreeing, len(truth))
    error = ((same - truth).square().mean() / truth.square().mean()).sqrt()
    compared = {
        "agreement": agreeing / len(truth),
        "agreement_low": agreement_low,
        "agreement_high": agreement_high,
        "logit_error": float(error),
    }
    return Stage(**(asdict(result) | compared))


def _layer_figures(network: nn.Module, images: Tensor) -> tuple[LayerFigures, ...]:
    """NF of every crossbar layer on inputs sampled (seeded) from what it sees in the running network."""
    figures: list[LayerFigures] = []
    generator = torch.Generator().manual_seed(0)

    def watch(name: str) -> Callable[[Any, Any], None]:
        def hook(layer: Any, args: tuple[Tensor, ...]) -> None:
            inputs = layer.matrix_inputs(args[0])
            chosen = torch.randperm(len(inputs), generator=generator)[:_NF_VECTORS]
            reads = layer.matrix.reads(inputs[chosen.to(inputs.device)])
            figures.append(_figures(name, non_ideality_factor(reads.ideal, reads.actual)))

        return hook

    hooks = [layer.register_forward_pre_hook(watch(name)) for name, layer in crossbar_layers(network).items()]
    try:
        network(images)
    finally:
        for hook in hooks:
            hook.remove()
    return tuple(figures)


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
    surrogate: Surrogate | None,
    circuit_tol: float,
    conversion: ConversionReport,
) -> dict[str, Any]:
    return {
        "geniex_version": __version__,
        "torch_version": torch.__version__,
        "crossbar": crossbar.to_dict(),
        "architecture": architecture.to_dict(),
        "surrogate": None if surrogate is None else surrogate.info,
        "circuit_tol": circuit_tol,
        "conversion": conversion.to_dict(),
    }
