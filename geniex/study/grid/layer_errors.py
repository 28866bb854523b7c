"""Output errors of layers on sampled inputs, by a model's own emulator and by the exact circuit."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from geniex.circuit import Crossbar
from geniex.emulator import CircuitEmulator
from geniex.mitigation import Batch
from geniex.mitigation.remap.observe import observe
from geniex.simulator import find_crossbar_layers, replace_by_ideal, replace_emulator


@dataclass(frozen=True)
class LayerError:
    """Output errors of one layer, by the model's emulator and by the exact circuit on the same inputs.

    An error is the RMS difference from ideal tiles over the RMS output of these. The weighted errors weight each output
    by the clean network's mean squared loss gradient, which is the quantity that remappings trade.
    """

    layer: str
    positions: int
    """Number of input vectors."""
    emulator: float
    circuit: float
    emulator_weighted: float
    circuit_weighted: float


@torch.no_grad()
def measure_layer_errors(
    model: nn.Module,
    unmoved: nn.Module,
    crossbar: Crossbar,
    batch: Batch,
    *,
    positions: int = 64,
    seed: int = 0,
    tol: float = 1e-6,
) -> tuple[LayerError, ...]:
    """The errors of every crossbar layer of a converted ``model``, on the clean network's layer inputs.

    The clean network is ``unmoved`` on ideal tiles. With the same ``unmoved``, ``batch`` and ``seed``, every model gets
    the same inputs.

    Args:
        model: the converted network, remapped or not.
        unmoved: the same converted network before remapping.
        crossbar: the circuit that is solved.
        batch: images whose layer inputs are sampled, with labels for the loss gradients that weight the errors.
        positions: number of input vectors that are sampled in each layer.
        seed: seed of the sample.
        tol: relative current tolerance of the exact circuit.
    """
    clean = replace_by_ideal(unmoved)
    seen, ideal_layers, layers = observe(clean, batch), find_crossbar_layers(clean), find_crossbar_layers(model)
    # The exact circuit is the reference, so it is solved in float64.
    exact = find_crossbar_layers(replace_emulator(copy.deepcopy(model).double(), CircuitEmulator(crossbar, tol=tol)))
    generator, out = torch.Generator().manual_seed(seed), list[LayerError]()
    for name, found in seen.items():
        vectors, gradients = found.inputs.flatten(0, 1), found.gradients.flatten(0, 1)
        chosen = vectors[torch.randperm(len(vectors), generator=generator)[:positions].to(vectors.device)]
        weights, ideal = gradients.double().square().mean(0), ideal_layers[name].product(chosen)
        own = _errors(layers[name].product(chosen), ideal, weights)
        circuit = _errors(exact[name].product(chosen.double()), ideal, weights)
        out.append(LayerError(name, len(chosen), own[0], circuit[0], own[1], circuit[1]))
    return tuple(out)


def compare_orders(pairs: Sequence[tuple[float, float]]) -> float | None:
    """Kendall's tau of two figures of the same things: 1 if both put them in the same order; None for a single one.

    >>> compare_orders([(0.1, 0.2), (0.3, 0.4), (0.2, 0.5)])
    0.3333333333333333
    """
    signs = [
        ((a[0] > b[0]) - (a[0] < b[0])) * ((a[1] > b[1]) - (a[1] < b[1]))
        for k, a in enumerate(pairs)
        for b in pairs[:k]
    ]
    return sum(signs) / len(signs) if signs else None


def _errors(given: Tensor, ideal: Tensor, weights: Tensor) -> tuple[float, float]:
    """The error of outputs (vectors, outputs) against ideal ones: plain, and weighted by output."""
    error, whole = (given - ideal).double().square(), ideal.double().square()
    plain = float((error.mean() / whole.mean()).sqrt())
    scale = (whole * weights).mean()
    return plain, float(((error * weights).mean() / scale).sqrt()) if scale > 0 else 0.0
