"""``convert``, which puts a torch model's matrix products onto crossbars."""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import nn

from geniex.emulator import Emulator
from geniex.errors import ConversionError, ConversionWarning
from geniex.mapping import Architecture, Layout
from geniex.simulator.batch_norm import fold_in_place
from geniex.simulator.build import OwnEmulators, build, check_fit
from geniex.simulator.layers.crossbar import CrossbarLayer
from geniex.simulator.matrix import CrossbarMatrix
from geniex.simulator.memory.pass_memory import Call, copy_without_values, measure_pass_memory, record_first_call
from geniex.simulator.observe_inputs import Calibration, observe_inputs
from geniex.simulator.originals import copy_model
from geniex.simulator.plan import (
    DigitalLayer,
    PlannedLayer,
    check_trainable,
    make_weights_plain,
    plan_layers,
    split_attention,
)
from geniex.simulator.replace import replace_modules
from geniex.simulator.report import ConversionReport, LayerReport, report_built, report_digital, report_folded
from geniex.simulator.rules import PerLayer, Rules
from geniex.simulator.scales import InputStatistics

_MOST_REASONS = 8
"""Layers that an error lists."""


def convert(
    model: nn.Module,
    architecture: Architecture,
    emulator: Emulator,
    *,
    per_layer: PerLayer | None = None,
    calibration: Calibration = None,
    layout: Layout = "block_diagonal",
    fold: bool = False,
    dtype: torch.dtype | None = None,
    trainable: bool = False,
    checkpoint: bool | None = None,
    allow_empty: bool = False,
) -> nn.Module:
    """A copy of ``model`` whose matrix products with weights run on crossbars; the original is untouched.

    Linear layers, convolutions (also grouped and transposed) and attention's projections are put onto crossbars; all
    other layers stay digital. The copy is in evaluation mode and has emulators of its own. Its ``.conversion``, a
    ``ConversionReport``, says where each layer went, and why some stayed digital. The copy computes what the model
    computes: weights that torch derives from other tensors (pruning, weight and spectral norms, parametrizations) are
    programmed with their present values, and layers keep their hooks, which then get the crossbar layer as their
    module. Hooks also run on the calibration inputs. The wrappers ``torch.compile``, ``DataParallel`` and
    ``DistributedDataParallel`` are removed, and the module inside is converted.

    Args:
        model: a module whose weights are initialised and which is not on crossbars already.
        architecture: fixed point, slices, streams, converters.
        emulator: the crossbar's physics; its tile must be the architecture's.
        per_layer: exceptions by layer name or by pattern with ``*``: an architecture, a ``LayerRule``, or None to keep
            the layer digital. An exact name takes precedence over a pattern, and a later pattern over an earlier one; a
            name covers the modules below it. Attention's projections are called ``q_proj``, ``k_proj``, ``v_proj`` and
            ``out_proj``.
        calibration: inputs from which each layer's range is taken; they are needed where the architecture leaves
            ``input_frac_bits`` None. A tensor, a tuple or a mapping (``model(**batch)``) is one batch. A list, a
            DataLoader or another iterable gives several batches; labels of (inputs, labels) batches are ignored. A
            function runs the model that it is given. ``read_batches`` states the rules. A layer that is not called
            stays digital.
        layout: the layout of convolutions; all layouts compute the same integers. "dense" applies one receptive field
            after another, with each group on arrays of its own. "block_diagonal" puts as many groups on one array as
            fit. "toeplitz" unrolls the convolution (a Toeplitz matrix), so that all positions are computed at once, for
            maps of one size, which calibration or ``LayerRule(map_size=)`` gives. Linear layers are the same in these
            three layouts. "compacted" is block-diagonal without the zero rows and columns of the matrix or of each
            tile, whichever takes the fewest arrays (the transformation T for pruned networks; see
            ``geniex.mapping.compact``).
        fold: whether batch norms are folded into the convolutions before them, see ``fold_batch_norm``. The default
            keeps the layers' names and weights; a folded weight has fewer significant bits where all channels share one
            scale. Fold for hardware that cannot scale digitally.
        dtype: the dtype of conductances, voltages and currents, float32 or float64; None takes the weights' dtype, at
            least float32.
        trainable: whether the weights on crossbars stay parameters, so that an optimiser can be given
            ``.parameters()``. ``CrossbarMatrix`` states the gradients, and ``to_digital`` is the way back. Parameters
            that need no gradient in the model need none here. Without ``trainable`` no parameter needs one, and a
            forward pass keeps no graph unless an input asks for it.
        checkpoint: whether a backward pass computes intermediate values again, so that a forward pass keeps little in
            memory: True does so for programming and reading, False for neither, None for reading alone (unless reads
            are noisy).
        allow_empty: whether a model without any layer on crossbars may be returned.

    Raises:
        ConversionError: nothing goes onto crossbars; a rule names no layer, or a layer that cannot go onto crossbars;
            the tile is not the emulator's; the model is converted already, is compiled by ``torch.jit`` or has no
            weights yet; or, with ``trainable``, a weight on crossbars is shared with another module or derived from
            other tensors.
    """
    check_fit(emulator, architecture)
    converted, plan, folded = prepare(model, Rules(architecture, layout, per_layer), fold, trainable=trainable)
    calls, seen = list[Call](), dict[int, list[InputStatistics]]()
    if calibration is not None:
        with record_first_call(converted) as calls:
            plan, seen = observe_inputs(converted, plan, calibration)
        plan = drop_uncalled(plan, set(seen))
    if not allow_empty:
        check_not_empty(plan)
    emulators, options = OwnEmulators(emulator), {"dtype": dtype, "trainable": trainable, "checkpoint": checkpoint}
    made, reports = dict[int, nn.Module](), list[LayerReport]()
    for layer in plan:
        if isinstance(layer, DigitalLayer):
            reports.append(report_digital(layer))
            continue
        built = build(layer, emulators, seen.get(id(layer.module)), **options)
        keep_frozen(layer.module, built)
        made[id(layer.module)] = built
        reports.append(report_built(layer, built, seen.get(id(layer.module))))
    converted = replace_modules(converted, made)
    if not trainable:
        converted.requires_grad_(False)
    memory = None
    if calls:
        bare = copy_without_values(converted)
        memory = measure_pass_memory(lambda: bare, calls[0])
    report = ConversionReport((*reports, *folded), emulator.description, memory=memory)
    converted.conversion = report  # type: ignore[assignment]
    if report.cautions:
        first, *rest = report.cautions
        more = f" ({len(rest)} more of its kind: print(model.conversion))" if rest else ""
        warnings.warn(first + more, ConversionWarning, stacklevel=2)
    return converted


def prepare(
    model: nn.Module, rules: Rules, fold: bool, *, trainable: bool = False
) -> tuple[nn.Module, list[PlannedLayer | DigitalLayer], list[LayerReport]]:
    """A copy of ``model`` that is ready for conversion, the plan of its layers, and the batch norms that are folded."""
    plain = copy_model(model)
    if trainable:
        check_trainable(plain, rules)
    if fold or not trainable:
        make_weights_plain(plain)
    folded = [report_folded(norm, conv) for norm, conv in (fold_in_place(plain) if fold else {}).items()]
    plain = split_attention(plain, rules)
    return plain, plan_layers(plain, rules), folded


def keep_frozen(module: Any, built: CrossbarLayer) -> None:
    """Train no parameter of a crossbar layer that was not trained in the torch layer whose place it takes."""
    for matrix in built.matrices:
        if isinstance(matrix, CrossbarMatrix) and matrix.weight is not None:
            matrix.weight.requires_grad_(module.weight.requires_grad)
    if built.bias is not None and module.bias is not None:  # a correction may have brought the bias
        built.bias.requires_grad_(module.bias.requires_grad)


def check_not_empty(plan: list[PlannedLayer | DigitalLayer]) -> None:
    """Raise ``ConversionError``, with the reasons, if nothing goes onto crossbars."""
    digital = [layer for layer in plan if isinstance(layer, DigitalLayer)]
    if len(digital) < len(plan):
        return
    reasons = [f"{layer.name or 'the model'} ({type(layer.module).__name__}): {layer.reason}" for layer in digital]
    more = f", and {len(reasons) - _MOST_REASONS} more" if len(reasons) > _MOST_REASONS else ""
    why = "; ".join(reasons[:_MOST_REASONS]) + more if reasons else "it has no layer with weights"
    raise ConversionError(f"model: no layer goes onto crossbars: {why}; pass allow_empty=True to allow this")


def drop_uncalled(plan: list[PlannedLayer | DigitalLayer], called: set[int]) -> list[PlannedLayer | DigitalLayer]:
    """The plan in which layers that ``model`` did not call are digital: it skips them or reads their weights itself."""
    return [
        DigitalLayer(layer.name, layer.module, "never called on the inputs given")
        if isinstance(layer, PlannedLayer) and id(layer.module) not in called
        else layer
        for layer in plan
    ]
