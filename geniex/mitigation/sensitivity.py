"""How much each output of a layer matters: measures behind one interface, by which kernels are ranked."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from geniex.errors import InputError
from geniex.mitigation.observe import Batch, Observation, hooked, mean_loss, observe
from geniex.simulator import CrossbarLayer, CrossbarMatrix, crossbar_layers, on_ideal, programmed_weight
from geniex.variation.base import seeded

Scores = dict[str, Tensor]
"""By layer, float64 (groups * outputs,): the more, the more an output matters."""
Measure = Callable[[nn.Module, Batch, tuple[str, ...]], Scores]
"""Scores of the named layers of a converted model, judged on a batch."""


def sensitivity(
    model: nn.Module,
    measure: str | Measure,
    calibration: Batch,
    *,
    layers: tuple[str, ...] | None = None,
    seed: int = 0,
) -> Scores:
    """How much each output (groups * outputs,) of each crossbar layer of a converted ``model`` matters.

    ========================  =====================================================================================
    measure                   score of an output
    ========================  =====================================================================================
    "taylor"                  sum over its weights of |w dL/dw|, L the mean loss (Molchanov et al., 2017)
    "gradient_variance"       mean squared dL/dy times the variance of the error that its crossbars make now
    "leave_one_out"           rise of the loss where all its weights are 0: one forward pass an output
    "l1"                      sum of |w|
    "random"                  a draw from ``seed``
    ========================  =====================================================================================

    Args:
        model: what ``convert`` returned. "Clean" scores are those of ``on_ideal(model)``.
        measure: one of those, or a function of model, batch and layer names.
        calibration: training images and labels that L is of.
        layers: names of the crossbar layers to score; None is all. A layer that is never called is left out.
        seed: of "random".
    """
    known = crossbar_layers(model)
    names = tuple(known) if layers is None else tuple(layers)
    for name in names:
        if name not in known:
            raise InputError("layers", repr(name), f"crossbar layers are {', '.join(map(repr, known))}")
    if callable(measure):
        return measure(model, calibration, names)
    if measure == "random":
        return {
            name: torch.rand(_outputs(known[name]), generator=seeded(seed, name), dtype=torch.float64) for name in names
        }
    if measure not in MEASURES:
        raise InputError("measure", repr(measure), f"it must be one of {', '.join((*MEASURES, 'random'))}")
    return MEASURES[measure](model, calibration, names)


def layer_weights(layer: CrossbarLayer) -> list[Tensor]:
    """The weights (outputs, inputs), float64, that each of the layer's matrices has on its crossbars."""
    return [programmed_weight(matrix) for matrix in matrices_of(layer)]


def matrices_of(layer: CrossbarLayer) -> list[CrossbarMatrix]:
    """The layer's matrices."""
    return [matrix for matrix in layer.matrices if isinstance(matrix, CrossbarMatrix)]


def split_outputs(layer: CrossbarLayer, values: Tensor) -> tuple[Tensor, ...]:
    """What belongs to each matrix of ``values`` (..., groups * outputs)."""
    return values.split([matrix.layout.outputs for matrix in matrices_of(layer)], dim=-1)


def errors(layer: CrossbarLayer, ideal: CrossbarLayer, inputs: Tensor) -> Tensor:
    """What ``layer`` gives more than ``ideal`` (..., groups * outputs) for the same vectors (..., groups * inputs)."""
    with torch.no_grad():
        return layer.product(inputs) - ideal.product(inputs)


def _taylor(model: nn.Module, batch: Batch, names: tuple[str, ...]) -> Scores:
    layers, gradients = crossbar_layers(model), dict[str, list[Tensor]]()
    for part in batch.parts():
        for name, seen in observe(model, part, names).items():
            found = _weight_gradients(layers[name], seen)
            before = gradients.get(name, [torch.zeros_like(g) for g in found])
            gradients[name] = [a + b for a, b in zip(before, found, strict=True)]
    count = len(batch.images)
    return {
        name: torch.cat(
            [(w * g).abs().sum(1) / count for w, g in zip(layer_weights(layers[name]), found, strict=True)]
        ).cpu()
        for name, found in gradients.items()
    }


def _weight_gradients(layer: CrossbarLayer, seen: Observation) -> list[Tensor]:
    """Of the loss by each matrix' weights (outputs, inputs), float64."""
    fields = layer.packing.split(seen.inputs.flatten(0, 1).double())
    outputs = split_outputs(layer, seen.gradients.flatten(0, 1).double())
    return [g.T @ x for g, x in zip(outputs, fields, strict=True)]


def _gradient_variance(model: nn.Module, batch: Batch, names: tuple[str, ...]) -> Scores:
    layers, ideal = crossbar_layers(model), crossbar_layers(on_ideal(model))
    moments: dict[str, Tensor] = {}
    vectors: dict[str, int] = {}
    for part in batch.parts():
        for name, seen in observe(model, part, names).items():
            error = errors(layers[name], ideal[name], seen.inputs).double()
            found = torch.stack([x.sum((0, 1)) for x in (seen.gradients.double().square(), error, error.square())])
            moments[name] = moments.get(name, torch.zeros_like(found)) + found
            vectors[name] = vectors.get(name, 0) + error[..., 0].numel()
    out: Scores = {}
    for name, sums in moments.items():
        gradient, mean, square = sums / vectors[name]
        out[name] = (gradient * (square - mean.square()).clamp(min=0)).cpu()
    return out


def _leave_one_out(model: nn.Module, batch: Batch, names: tuple[str, ...]) -> Scores:
    layers, before = crossbar_layers(model), mean_loss(model, batch)
    out: Scores = {}
    for name in names:
        layer, scores = layers[name], []
        for output in range(_outputs(layer)):
            with hooked([(layer, _without(output))]):
                scores.append(mean_loss(model, batch) - before)
        out[name] = torch.tensor(scores, dtype=torch.float64)
    return out


def _without(output: int) -> Callable[..., Tensor]:
    """A hook after which an output is its bias alone."""

    def hook(layer: CrossbarLayer, args: tuple[Tensor, ...], y: Tensor) -> Tensor:
        silent = y.clone()
        silent.select(layer.output_dim, output).fill_(0.0 if layer.bias is None else float(layer.bias[output]))
        return silent

    return hook


def _l1(model: nn.Module, batch: Batch, names: tuple[str, ...]) -> Scores:
    layers = crossbar_layers(model)
    return {name: torch.cat([w.abs().sum(1) for w in layer_weights(layers[name])]).cpu() for name in names}


def _outputs(layer: CrossbarLayer) -> int:
    return layer.packing.groups * layer.packing.outputs


MEASURES: dict[str, Measure] = {
    "taylor": _taylor,
    "gradient_variance": _gradient_variance,
    "leave_one_out": _leave_one_out,
    "l1": _l1,
}
"""The measures that are computed, by name."""
