"""A check that the exact circuit ranks mappings as the surrogate does, by layer output errors on sampled inputs."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from geniex.circuit import Crossbar
from geniex.emulator import CircuitEmulator, Emulator
from geniex.mitigation.remap.observe import Batch, observe
from geniex.mitigation.remap.sensitivity import matrices_of
from geniex.simulator import CrossbarLayer, crossbar_layers, on_ideal


@dataclass(frozen=True)
class LayerCheck:
    """Output errors of one layer under one mapping, by the surrogate and by the exact circuit on the same inputs.

    An error is the RMS difference from ideal tiles over the RMS output of these. The weighted errors weight each output
    by the clean network's mean squared loss gradient, which is the quantity that mappings trade.
    """

    layer: str
    method: str
    positions: int
    surrogate: float
    circuit: float
    surrogate_weighted: float
    circuit_weighted: float


@torch.no_grad()
def check_layers(
    models: Mapping[str, nn.Module],
    crossbar: Crossbar,
    batch: Batch,
    *,
    positions: int = 64,
    seed: int = 0,
    tol: float = 1e-6,
    progress: Callable[[int, int], None] = lambda done, whole: None,
) -> tuple[LayerCheck, ...]:
    """The errors of every crossbar layer of converted ``models`` (by mapping), on the clean network's layer inputs.

    Args:
        models: the same network under several mappings.
        crossbar: the circuit that is solved.
        batch: images whose layer inputs are sampled, with labels for the loss gradients that weight the errors.
        positions: number of input vectors sampled in each layer, the same for all mappings.
        seed: seed of the sample.
        tol: relative current tolerance of the exact circuit.
        progress: called as layers are done.
    """
    clean = on_ideal(next(iter(models.values())))
    seen, layers = observe(clean, batch), crossbar_layers(clean)
    generator, out, circuit = (
        torch.Generator().manual_seed(seed),
        list[LayerCheck](),
        CircuitEmulator(crossbar, tol=tol),
    )
    for done, (name, found) in enumerate(seen.items(), start=1):
        vectors, gradients = found.inputs.flatten(0, 1), found.gradients.flatten(0, 1)
        chosen = vectors[torch.randperm(len(vectors), generator=generator)[:positions].to(vectors.device)]
        weights, ideal = gradients.double().square().mean(0), layers[name].product(chosen)
        for method, model in models.items():
            layer = crossbar_layers(model)[name]
            plain, weighted = zip(
                *(_errors(got, ideal, weights) for got in (layer.product(chosen), _by(layer, circuit, chosen))),
                strict=True,
            )
            out.append(LayerCheck(name, method, len(chosen), *plain, *weighted))
        progress(done, len(seen))
    return tuple(out)


def same_order(checks: tuple[LayerCheck, ...]) -> dict[str, float]:
    """Kendall's tau, by layer, of the mappings' weighted errors by surrogate and by circuit; 1 means equal order."""
    by_layer: dict[str, list[LayerCheck]] = {}
    for check in checks:
        by_layer.setdefault(check.layer, []).append(check)
    return {name: _tau([(c.surrogate_weighted, c.circuit_weighted) for c in found]) for name, found in by_layer.items()}


def _tau(pairs: list[tuple[float, float]]) -> float:
    signs = [
        ((a[0] > b[0]) - (a[0] < b[0])) * ((a[1] > b[1]) - (a[1] < b[1]))
        for k, a in enumerate(pairs)
        for b in pairs[:k]
    ]
    return sum(signs) / len(signs) if signs else 1.0


def _by(layer: CrossbarLayer, emulator: Emulator, vectors: Tensor) -> Tensor:
    """The outputs of the layer for ``vectors`` if ``emulator`` reads its arrays, in float64."""
    copied = copy.deepcopy(layer).double()
    for matrix in matrices_of(copied):
        matrix.emulator = emulator
        matrix.reprogram()
    return copied.product(vectors.double())


def _errors(given: Tensor, ideal: Tensor, weights: Tensor) -> tuple[float, float]:
    error, whole = (given - ideal).double().square(), ideal.double().square()
    plain = float((error.mean() / whole.mean()).sqrt())
    scale = (whole * weights).mean()
    return plain, float(((error * weights).mean() / scale).sqrt()) if scale > 0 else 0.0
