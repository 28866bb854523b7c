"""Digital corrections of what crossbars give: gains and offsets of outputs, and batch norms that know the crossbars."""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
from torch import Tensor, nn

from geniex.errors import InputError
from geniex.mitigation.observe import hooked
from geniex.simulator import CrossbarLayer, crossbar_layers, on_ideal
from geniex.simulator.exchange import check_converted


@torch.no_grad()
def calibrate_outputs(model: nn.Module, images: Tensor, *, offset: bool = True) -> nn.Module:
    """A copy of a converted ``model`` with a gain, and an offset, of each output of each crossbar layer.

    They are the least-squares fit of a layer's outputs to those of ideal crossbars on the same ``images`` (count, ...),
    layer by layer, with the layers before corrected: what hardware measures once and corrects digitally. Outputs that
    do not vary get an offset alone. A layer that is called more than once is fitted at its first call.

    Args:
        model: what ``convert`` returned.
        images: calibration images.
        offset: whether to fit offsets too.
    """
    check_converted(model)
    for name, layer in crossbar_layers(model).items():
        if layer.output_gain is not None:
            raise InputError("model", f"layer {name!r}, calibrated before", "calibrate the model that had no gains yet")
    _check_images(images)
    wanted = _outputs(on_ideal(model), images)
    fitted, done = copy.deepcopy(model), set[str]()

    def fit(name: str) -> Callable[..., Tensor | None]:
        def hook(layer: CrossbarLayer, args: tuple[Tensor, ...], output: Tensor) -> Tensor | None:
            if name in done:
                return None
            done.add(name)
            _fit(layer, layer.output_vectors(output), wanted[name], offset)
            return layer(*args)

        return hook

    layers = crossbar_layers(fitted)
    with hooked((layer, fit(name)) for name, layer in layers.items()):
        fitted(images)
    return fitted


@torch.no_grad()
def refit_batch_norm(model: nn.Module, images: Tensor) -> nn.Module:
    """A copy of ``model`` whose batch norms have the means and variances that ``images`` (count, ...) give them now.

    All images go through at once, each norm's own statistics in force for what follows it.

    Raises:
        InputError: the model has no batch norm with running statistics.
    """
    _check_images(images)
    refitted = copy.deepcopy(model)
    norms = _batch_norms(refitted)
    if not norms:
        raise InputError("model", "no batch norm with running statistics", "convert the network before folding them")
    if len(images) < 2:
        raise InputError("images", len(images), "variances need at least two")
    before = [(norm.training, norm.momentum) for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.train()
        norm.momentum = None  # a mean over all calls
    refitted(images)
    for norm, (training, momentum) in zip(norms, before, strict=True):
        norm.train(training)
        norm.momentum = momentum
    return refitted


def has_batch_norms(model: nn.Module) -> bool:
    """Whether ``model`` has a batch norm with running statistics."""
    return bool(_batch_norms(model))


def _batch_norms(model: nn.Module) -> list[nn.modules.batchnorm._BatchNorm]:
    norms = (m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm))
    return [norm for norm in norms if norm.track_running_stats]


def _fit(layer: CrossbarLayer, given: Tensor, wanted: Tensor, offset: bool) -> None:
    """Put the gains and offsets that take ``given`` to ``wanted`` (vectors, outputs) into the layer."""
    bias = 0.0 if layer.bias is None else layer.bias
    dtype = given.dtype
    given, wanted = (given - bias).double(), (wanted - bias).double()
    means = (given.mean(0), wanted.mean(0)) if offset else (torch.zeros_like(given[0]),) * 2
    centred = given - means[0]
    power = centred.square().sum(0)
    still = power <= 1e-12 * given.square().sum(0).clamp(min=1e-30)
    gain = torch.where(still, 1.0, (centred * (wanted - means[1])).sum(0) / torch.where(still, 1.0, power))
    layer.output_gain = gain.to(dtype)
    if offset:
        shift = (means[1] - gain * means[0]).to(dtype)
        layer.bias = nn.Parameter(shift + bias)
    elif layer.bias is None:
        layer.bias = nn.Parameter(torch.zeros_like(layer.output_gain))  # a calibrated layer has both


def _outputs(model: nn.Module, images: Tensor) -> dict[str, Tensor]:
    """What each crossbar layer gives at its first call (vectors, outputs)."""
    seen: dict[str, Tensor] = {}

    def watch(name: str) -> Callable[..., None]:
        def hook(layer: CrossbarLayer, args: tuple[Tensor, ...], output: Tensor) -> None:
            seen.setdefault(name, layer.output_vectors(output.clone()))  # the network may go on in place

        return hook

    with hooked((layer, watch(name)) for name, layer in crossbar_layers(model).items()):
        model(images)
    return seen


def _check_images(images: object) -> None:
    if not isinstance(images, Tensor) or images.dim() < 2 or not len(images):
        raise InputError("images", getattr(images, "shape", type(images).__name__), "a batch of inputs (count, ...)")
