"""Digital corrections of crossbar outputs: a gain and an offset of each output, or one factor for a whole layer."""

from __future__ import annotations

import copy
import warnings
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from geniex.errors import InputError
from geniex.mitigation.forward_calls import Call, Reached, evaluate_only, record_calls, run_until_reached
from geniex.mitigation.reference import SAME_LAYERS, make_comparable
from geniex.mitigation.remap.observe import add_hooks
from geniex.mitigation.sums import PairedSums
from geniex.simulator import CrossbarLayer, find_crossbar_layers, undo_variation
from geniex.simulator.observe_inputs import Calibration
from geniex.simulator.observe_inputs import add_hooks as hooked_before
from geniex.simulator.transforms import check_converted

Correction = Literal["gains_and_offsets", "gains", "one_factor"]
"""The kind of correction of a layer's outputs; see ``correct_outputs``."""


@torch.no_grad()
def correct_outputs(
    model: nn.Module,
    data: Calibration,
    reference: nn.Module | None = None,
    *,
    mode: Correction = "gains_and_offsets",
) -> nn.Module:
    """A copy of a converted ``model`` whose crossbar layers' outputs are fitted to a reference, in evaluation order.

    Each layer's outputs on ``data`` are fitted by least squares, after the layers before it have been corrected.
    Hardware can do the same: it measures once and then corrects digitally. The correction removes systematic errors,
    such as the common decay of drifted conductances or the mean loss along wires. Errors that are random from cell to
    cell remain.

    All batches and all calls of a layer count alike, so that the batch size makes no difference. One batch takes one
    pass through each model. Several batches, or a layer that is called more than once, take another pass through the
    model and, for each layer, a partial pass through both models; the layer's own later calls then see the
    reference's outputs. Layers that the data do not call stay uncorrected, with a warning.

    Args:
        model: the model that ``convert`` or ``vary`` returned; the original is untouched.
        data: a batch of inputs, a mapping of keywords, a loader of batches, or a function that runs the model passed
            to it.
        reference: the model whose outputs are right, with the same layers by name: a converted model, or the torch
            model that was converted. The torch model's batch norms are then folded and its attention is taken apart as
            in ``model``. None means ``model`` itself on ideal crossbars, with its conductances from before the first
            ``vary``, or its present ones if it was never varied.
        mode: "gains_and_offsets" of each output, "gains" only, or "one_factor" for all outputs of a layer, as chips
            do with a reference read (global drift compensation). With "gains_and_offsets", an output that does not
            vary gets only an offset. In the modes without offsets, an output that is always 0 gets no correction.

    Raises:
        InputError: the model has nothing on crossbars, or its outputs were corrected before; it was varied, its
            conductances from before are not known, and no reference is given; the reference has other layers; the
            data do not call the model, or outputs on them are not finite.

    >>> from geniex import Architecture, IdealEmulator, convert
    >>> from geniex.simulator import vary
    >>> from geniex.variation import Drift, Variations
    >>> x, arch = torch.rand(20, 3), Architecture(adc_rounding="none", adc_bits=None, accumulator_bits=None)
    >>> model = convert(nn.Linear(3, 2), arch, IdealEmulator(), calibration=x)
    >>> aged = vary(model, Variations((Drift(seconds=3e7, nu=0.06),)))
    >>> corrected = correct_outputs(aged, x, mode="one_factor")
    >>> torch.allclose(corrected(x), model(x), atol=1e-5)
    True
    """
    _check(model, mode)
    if reference is None:
        right = _before(model)
    else:
        right = make_comparable(reference, model)
    corrected = copy.deepcopy(model)
    with evaluate_only(right, corrected):
        seen = _first_pass(right, find_crossbar_layers(model), data)
        fitting = _Fitting(corrected, right, mode)
        if len(seen.calls) == 1 and max(seen.counts[0].values()) == 1:
            fitting.all_at_once(seen.calls[0], seen.outputs)
        else:
            fitting.check_calls(seen.calls, seen.counts)
            for name in seen.called:
                fitting.one_layer(name, seen.calls, [count[name] for count in seen.counts])
    uncalled = ", ".join(repr(name) for name in find_crossbar_layers(model) if name not in seen.called)
    if uncalled:
        warnings.warn(f"layers that the data do not call stay uncorrected: {uncalled}", stacklevel=3)
    return corrected


def _check(model: nn.Module, mode: object) -> None:
    if mode not in get_args(Correction):
        raise InputError("mode", repr(mode), f"modes are {', '.join(map(repr, get_args(Correction)))}")
    check_converted(model)
    for name, layer in find_crossbar_layers(model).items():
        if layer.output_gain is not None:
            raise InputError(
                "model", f"layer {name!r}, corrected before", "correct the model from before that correction"
            )


def _before(model: nn.Module) -> nn.Module:
    try:
        return undo_variation(model)
    except InputError as error:
        allowed = f"{error.allowed}: give reference=, a model with the right outputs, such as the float model"
        raise InputError(error.name, error.value, allowed) from error


@dataclass
class _Seen:
    """The record of a run of the reference on the data."""

    calls: list[Call] = field(default_factory=list)
    counts: list[Counter[str]] = field(default_factory=list)
    """Number of times that each of ``calls`` runs each layer."""
    outputs: dict[str, Tensor] = field(default_factory=dict)
    """Outputs of each layer's first run in the first of ``calls``; empty if there are several calls."""

    @property
    def called(self) -> list[str]:
        """Names of the layers in the order in which they are first called."""
        return list(dict.fromkeys(name for count in self.counts for name in count))


def _first_pass(right: nn.Module, names: Iterable[str], data: Calibration) -> _Seen:
    seen = _Seen()

    def begin(module: nn.Module, args: object, kwargs: object) -> None:
        seen.counts.append(Counter())
        if len(seen.counts) > 1:
            seen.outputs.clear()

    def watch(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: object, output: Tensor) -> None:
            if not seen.counts:
                raise InputError("data", "a function that runs a part of the model", "it must call the model itself")
            seen.counts[-1][name] += 1
            if len(seen.counts) == 1:
                seen.outputs.setdefault(name, output.clone())  # the network may change it in place

        return hook

    with (
        hooked_before([(right, "pre", begin)]),
        add_hooks((right.get_submodule(name), watch(name)) for name in names),
    ):
        record_calls(right, data, seen.calls)
    if not seen.called:
        raise InputError("data", type(data).__name__, "it calls no crossbar layer: give inputs of the model")
    return seen


class _Fitting:
    """Fits corrections of ``model`` to the reference ``right``, layer by layer."""

    def __init__(self, model: nn.Module, right: nn.Module, mode: Correction) -> None:
        self.model, self.right, self.mode = model, right, mode
        self.layers = find_crossbar_layers(model)
        self.dtypes: dict[str, torch.dtype] = {}
        """Dtypes of the outputs of each layer that is called."""

    def all_at_once(self, call: Call, outputs: dict[str, Tensor]) -> None:
        """Fit all layers to the reference's ``outputs`` in one pass of ``call``, each when it is called."""

        def fit(name: str) -> Callable[..., Tensor]:
            def hook(layer: CrossbarLayer, args: object, output: Tensor) -> Tensor:
                sums, before = PairedSums(), _bias(layer)
                if name not in outputs or layer.output_gain is not None:
                    raise self._other_calls(name)
                self._add(sums, name, output, outputs.pop(name))
                self._put(name, sums)
                return _corrected(layer, output, before)

            return hook

        with add_hooks((layer, fit(name)) for name, layer in self.layers.items()):
            run_until_reached(self.model, call)
        for name in outputs:
            raise self._other_calls(name)

    def one_layer(self, name: str, calls: list[Call], counts: list[int]) -> None:
        """Fit one layer to all ``calls``; ``counts`` says how often each call runs it."""
        sums = PairedSums()
        for call, count in zip(calls, counts, strict=True):
            if count:
                self._add_call(sums, name, call, self._wanted(name, call, count))
        self._put(name, sums)

    def check_calls(self, calls: list[Call], counts: list[Counter[str]]) -> None:
        """Raise ``InputError`` if the model calls a layer more or less often than the reference's ``counts``."""
        for call, count in zip(calls, counts, strict=True):
            found = Counter[str]()

            def watch(name: str, found: Counter[str] = found) -> Callable[..., None]:
                return lambda *_: found.update([name])

            with add_hooks((layer, watch(name)) for name, layer in self.layers.items()):
                run_until_reached(self.model, call)
            for name in self.layers:
                if found[name] != count[name]:
                    raise self._other_calls(name)

    def _wanted(self, name: str, call: Call, count: int) -> list[Tensor]:
        """The outputs of the reference's layer in its ``count`` runs within ``call``."""
        outputs: list[Tensor] = []

        def hook(module: nn.Module, args: object, output: Tensor) -> None:
            outputs.append(output.clone())
            if len(outputs) == count:
                raise Reached

        with add_hooks([(self.right.get_submodule(name), hook)]):
            run_until_reached(self.right, call)
        return outputs

    def _add_call(self, sums: PairedSums, name: str, call: Call, wanted: list[Tensor]) -> None:
        """Add the outputs of the model's layer in ``call``, paired with the ``wanted`` outputs, to ``sums``."""
        left = list(wanted)

        def hook(layer: CrossbarLayer, args: object, output: Tensor) -> Tensor:
            right = left.pop(0)
            self._add(sums, name, output, right)
            if not left:
                raise Reached
            return right.to(output)  # later layers get inputs as if this one were corrected already

        with add_hooks([(self.layers[name], hook)]):
            run_until_reached(self.model, call)

    def _add(self, sums: PairedSums, name: str, output: Tensor, wanted: Tensor) -> None:
        if output.shape != wanted.shape:
            told = f"layer {name!r} with outputs of shape {tuple(wanted.shape)}"
            raise InputError("reference", told, f"the model's have shape {tuple(output.shape)}: {SAME_LAYERS}")
        layer, self.dtypes[name] = self.layers[name], output.dtype
        bias = _bias(layer)
        sums.add(*(layer.output_vectors(y).double() - bias for y in (output, wanted.to(output.device))))

    def _put(self, name: str, sums: PairedSums) -> None:
        """Store the fitted gains and offsets in the layer."""
        if not sums.count:
            raise InputError("data", f"no vector for layer {name!r}", "it must give the model at least one input")
        layer = self.layers[name]
        gain, offset = _least_squares(sums, self.mode)
        if not all(x.isfinite().all() for x in (gain, offset) if x is not None):
            raise InputError(
                "data", f"outputs of layer {name!r} that are not finite", "they must be finite: give finite inputs"
            )
        bias = _bias(layer) + (torch.zeros_like(gain) if offset is None else offset)
        trained = layer.trainable if layer.bias is None else layer.bias.requires_grad
        dtype = self.dtypes[name]
        layer.output_gain = gain.to(dtype).contiguous()
        layer.bias = nn.Parameter(bias.to(dtype), requires_grad=trained)  # a corrected layer has a gain and a bias

    def _other_calls(self, name: str) -> InputError:
        return InputError("reference", f"layer {name!r}, which is called another number of times", SAME_LAYERS)


def _least_squares(sums: PairedSums, mode: Correction) -> tuple[Tensor, Tensor | None]:
    """The least-squares gains and offsets (outputs,); the offsets are None if the ``mode`` has none."""
    power = sums.squares + sums.count * sums.given.square()
    if mode == "gains_and_offsets":
        gain = _ratio(sums.products, sums.squares, sums.squares <= 1e-12 * power)
        return gain, sums.wanted - gain * sums.given
    common = sums.products + sums.count * sums.given * sums.wanted
    if mode == "one_factor":
        common, power = common.sum().expand_as(common), power.sum().expand_as(power)
    return _ratio(common, power, power <= 0), None


def _ratio(part: Tensor, whole: Tensor, nothing: Tensor) -> Tensor:
    return torch.where(nothing, 1.0, part / torch.where(nothing, 1.0, whole))


def _bias(layer: CrossbarLayer) -> Tensor:
    """The layer's bias (outputs,), or 0 () if it has none, float64."""
    if layer.bias is None:
        return torch.zeros((), dtype=torch.float64)
    return layer.bias.detach().double()


def _corrected(layer: CrossbarLayer, output: Tensor, before: Tensor) -> Tensor:
    """The layer's corrected output for the ``output`` that it gave without a gain and with the bias ``before``."""
    assert layer.output_gain is not None
    trailing = [1] * (-1 - layer.output_dim)
    gain, bias = (x.double().reshape(-1, *trailing) for x in (layer.output_gain, _bias(layer)))
    return ((output.double() - before.reshape(-1, *trailing)) * gain + bias).to(output)
