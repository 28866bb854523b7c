"""Measures of how much each output of a layer matters, behind one interface; kernels are ranked by them."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from geniex.errors import InputError
from geniex.jobs import share_registry
from geniex.mitigation.remap.observe import Batch, Observation, add_hooks, compute_mean_loss, observe
from geniex.mitigation.remap.position_effects import has_places, measure_place_effects, read_at_places
from geniex.simulator import CrossbarLayer, CrossbarMatrix, find_crossbar_layers, read_weight, replace_by_ideal
from geniex.simulator.batches import LabelledData
from geniex.simulator.transforms import check_converted
from geniex.variation.seeds import make_generator

Scores = dict[str, Tensor]
"""Scores by layer, float64 (groups * outputs,); a higher score means that an output matters more."""
Measure = Callable[[nn.Module, nn.Module, Batch, tuple[str, ...]], Scores]
"""A function that scores the named layers of a converted model on a batch; errors are those of the second model's
arrays."""

_PLACES = 4
"""Number of places at which the errors of an output are taken."""


def sensitivity(
    model: nn.Module,
    measure: str | Measure,
    calibration: LabelledData | Batch,
    *,
    arrays: nn.Module | None = None,
    layers: tuple[str, ...] | None = None,
    seed: int = 0,
) -> Scores:
    """Scores (groups * outputs,) that say how much each output of each crossbar layer of ``model`` matters.

    ========================  =====================================================================================
    measure                   score of an output
    ========================  =====================================================================================
    "taylor"                  sum over its weights of |w dL/dw|, L the mean loss (Molchanov et al., 2017)
    "gradient_variance"       mean squared dL/dy times the variance of its error over vectors and places on its tile
    "displacement"            rise of L with its distance from the drivers, due to its own error (see ``assign``)
    "leave_one_out"           rise of L if all its weights are 0; one forward pass per output
    "l1"                      sum of |w|
    "random"                  a draw from ``seed``
    ========================  =====================================================================================

    Args:
        model: the model that ``convert`` returned. L, its gradients and the layers' inputs are taken on it.
            ``replace_by_ideal(model)`` gives "clean" scores.
        measure: one of the measures above, or a function of model, arrays, batch and layer names.
        calibration: training images and labels for L: (images, labels), a mapping with "labels", a loader of such
            batches, or a ``Batch``.
        arrays: the same model on the crossbars whose errors count, if they are not those of ``model``;
            "gradient_variance" and "displacement" read its layers.
        layers: names of the crossbar layers to score; None means all whose outputs have one place each, which excludes
            unrolled convolutions. Measures that need gradients leave out a layer that is never called.
        seed: seed of "random".
    """
    check_converted(model)
    known, calibration = find_crossbar_layers(model), Batch.of(calibration, model)
    placed = [name for name, layer in known.items() if has_places(layer)]
    names = tuple(placed if layers is None else layers)
    for name in names:
        if name not in placed:
            allowed = f"crossbar layers with one place for each output are {', '.join(map(repr, placed))}"
            raise InputError("layers", repr(name), allowed)
    arrays = model if arrays is None else arrays
    check_converted(arrays)
    if {name: layer.packing for name, layer in find_crossbar_layers(arrays).items()} != {
        n: x.packing for n, x in known.items()
    }:
        raise InputError("arrays", type(arrays).__name__, "it must have the model's layers with the same packing")
    if callable(measure):
        return measure(model, arrays, calibration, names)
    if measure == "random":
        return {
            name: torch.rand(_outputs(known[name]), generator=make_generator(seed, name), dtype=torch.float64)
            for name in names
        }
    if measure not in MEASURES:
        raise InputError("measure", repr(measure), f"it must be one of {', '.join((*MEASURES, 'random'))}")
    return MEASURES[measure](model, arrays, calibration, names)


def read_layer_weights(layer: CrossbarLayer) -> list[Tensor]:
    """The weights (outputs, inputs), float64, that are programmed for each of the layer's matrices."""
    return [read_weight(matrix) for matrix in find_matrices(layer)]


def find_matrices(layer: CrossbarLayer) -> list[CrossbarMatrix]:
    """The layer's matrices that are on crossbars."""
    return [matrix for matrix in layer.matrices if isinstance(matrix, CrossbarMatrix)]


def split_outputs(layer: CrossbarLayer, values: Tensor) -> tuple[Tensor, ...]:
    """The part of ``values`` (..., groups * outputs) that belongs to each of the layer's matrices."""
    return values.split([matrix.layout.outputs for matrix in find_matrices(layer)], dim=-1)


def compute_product_gradients(layer: CrossbarLayer, seen: Observation) -> Tensor:
    """Gradients of each image's loss by the matrices' outputs, before the layer's gain."""
    return seen.gradients if layer.output_gain is None else seen.gradients * layer.output_gain


def measure_effects(layer: CrossbarLayer, arrays: CrossbarLayer, seen: Observation, samples: int) -> list[Tensor]:
    """The place effects of each matrix of ``arrays``; d is 0 for the outputs of ``layer`` on the same inputs."""
    fields, gradients = arrays.packing.split(seen.inputs), split_outputs(arrays, compute_product_gradients(layer, seen))
    clean = find_matrices(layer)
    return [
        measure_place_effects(
            matrix, fields[k], gradients[k], samples, None if layer is arrays else clean[k](fields[k])
        )
        for k, matrix in enumerate(find_matrices(arrays))
    ]


def _taylor(model: nn.Module, arrays: nn.Module, batch: Batch, names: tuple[str, ...]) -> Scores:
    layers, gradients = find_crossbar_layers(model), dict[str, list[Tensor]]()
    for part in batch.parts():
        for name, seen in observe(model, part, names).items():
            found = _weight_gradients(layers[name], seen)
            before = gradients.get(name, [torch.zeros_like(g) for g in found])
            gradients[name] = [a + b for a, b in zip(before, found, strict=True)]
    count = len(batch.images)
    return {
        name: torch.cat(
            [(w * g).abs().sum(1) / count for w, g in zip(read_layer_weights(layers[name]), found, strict=True)]
        ).cpu()
        for name, found in gradients.items()
    }


def _weight_gradients(layer: CrossbarLayer, seen: Observation) -> list[Tensor]:
    """Gradients of the loss by each matrix' weights (outputs, inputs), float64."""
    fields = layer.packing.split(seen.inputs.flatten(0, 1).double())
    outputs = split_outputs(layer, compute_product_gradients(layer, seen).flatten(0, 1).double())
    return [g.T @ x for g, x in zip(outputs, fields, strict=True)]


@torch.no_grad()
def _gradient_variance(model: nn.Module, arrays: nn.Module, batch: Batch, names: tuple[str, ...]) -> Scores:
    layers, real, ideal = (find_crossbar_layers(m) for m in (model, arrays, replace_by_ideal(arrays)))
    moments: dict[str, Tensor] = {}
    vectors: dict[str, int] = {}
    for part in batch.parts():
        for name, seen in observe(model, part, names).items():
            gradients = compute_product_gradients(layers[name], seen).double()
            found = torch.stack([gradients.square().sum((0, 1)), *_error_moments(real[name], ideal[name], seen)])
            moments[name] = moments.get(name, torch.zeros_like(found)) + found
            vectors[name] = vectors.get(name, 0) + seen.inputs[..., 0].numel()
    out: Scores = {}
    for name, sums in moments.items():
        gradient, mean, square = sums / vectors[name]
        out[name] = (gradient * (square - mean.square()).clamp(min=0)).cpu()
    return out


def _error_moments(layer: CrossbarLayer, ideal: CrossbarLayer, seen: Observation) -> tuple[Tensor, Tensor]:
    """The sums over vectors (groups * outputs,) of the errors and of their squares, averaged over places."""
    fields, first, second = layer.packing.split(seen.inputs), list[Tensor](), list[Tensor]()
    for field, matrix, clean in zip(fields, find_matrices(layer), find_matrices(ideal), strict=True):
        wanted = clean(field)
        found = [(given - wanted).double() for _, given in read_at_places(matrix, field, _PLACES)]
        first.append(torch.stack([error.sum((0, 1)) for error in found]).mean(0))
        second.append(torch.stack([error.square().sum((0, 1)) for error in found]).mean(0))
    return torch.cat(first), torch.cat(second)


def _displacement(model: nn.Module, arrays: nn.Module, batch: Batch, names: tuple[str, ...]) -> Scores:
    layers, real = find_crossbar_layers(model), find_crossbar_layers(arrays)
    costs: dict[str, list[Tensor]] = {}
    for part in batch.parts():
        for name, seen in observe(model, part, names).items():
            found = [(d + d.square() / 2).sum(0) for d in measure_effects(layers[name], real[name], seen, _PLACES)]
            costs[name] = [a + b for a, b in zip(costs[name], found, strict=True)] if name in costs else found
    return {
        name: torch.cat([_slope(cost) for cost in found]).cpu() / len(batch.images) for name, found in costs.items()
    }


def _slope(cost: Tensor) -> Tensor:
    """The slope of the least-squares line through each output's cost (outputs, nearness), times the tile's length."""
    places = torch.linspace(-0.5, 0.5, cost.shape[1], dtype=cost.dtype, device=cost.device)
    return cost @ places / places.square().sum() if len(places) > 1 else torch.zeros_like(cost[:, 0])


def _leave_one_out(model: nn.Module, arrays: nn.Module, batch: Batch, names: tuple[str, ...]) -> Scores:
    layers, before = find_crossbar_layers(model), compute_mean_loss(model, batch)
    out: Scores = {}
    for name in names:
        layer, scores = layers[name], []
        for output in range(_outputs(layer)):
            with add_hooks([(layer, _without(output))]):
                scores.append(compute_mean_loss(model, batch) - before)
        out[name] = torch.tensor(scores, dtype=torch.float64)
    return out


def _without(output: int) -> Callable[..., Tensor]:
    """A hook that replaces an output by its bias."""

    def hook(layer: CrossbarLayer, args: tuple[Tensor, ...], y: Tensor) -> Tensor:
        silent = y.clone()
        silent.select(layer.output_dim, output).fill_(0.0 if layer.bias is None else float(layer.bias[output]))
        return silent

    return hook


def _l1(model: nn.Module, arrays: nn.Module, batch: Batch, names: tuple[str, ...]) -> Scores:
    layers = find_crossbar_layers(model)
    return {name: torch.cat([w.abs().sum(1) for w in read_layer_weights(layers[name])]).cpu() for name in names}


def _outputs(layer: CrossbarLayer) -> int:
    return layer.packing.groups * layer.packing.outputs


MEASURES: dict[str, Measure] = {
    "taylor": _taylor,
    "gradient_variance": _gradient_variance,
    "displacement": _displacement,
    "leave_one_out": _leave_one_out,
    "l1": _l1,
}
"""The measures that are computed, by name. Worker processes know those that a user adds."""


def _add_measure(name: str, measure: Measure) -> None:
    MEASURES[name] = measure


share_registry(lambda: [(_add_measure, item) for item in MEASURES.items() if item[1].__module__ != __name__])

OF_ERRORS = ("gradient_variance", "displacement")
"""Measures that depend on the errors of crossbars; on ideal crossbars there are none to measure."""
