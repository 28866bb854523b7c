"""``convert``: a torch model's matrix products onto crossbars, in one verb."""

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
    else stays digital. The copy is in evaluation mode, has emulators of its own, and ``.conversion``, a
    ``ConversionReport`` of which layers went where and why not. It computes what the model computes: weights that torch
    derives from other tensors (pruning, weight and spectral norms, parametrizations) are programmed as they are in
    force, and layers keep their hooks, which then see the crossbar layer as their module. A hook runs on the
    calibration inputs too. Of ``torch.compile``, ``DataParallel`` and ``DistributedDataParallel`` the module inside is
    converted, and the wrapper is left out.

    Args:
        model: any module that has its weights, and is not on crossbars already.
        architecture: fixed point, slices, streams, converters.
        emulator: the crossbar's physics; its tile must be the architecture's.
        per_layer: exceptions for layer names or patterns with ``*``: an architecture of its own, a ``LayerRule``, or
            None to keep the layer digital. An exact name beats a pattern, a later pattern an earlier one; a name
            covers the modules below. Attention's projections are ``q_proj``, ``k_proj``, ``v_proj`` and ``out_proj``.
        calibration: inputs from which each layer's range is taken, needed where the architecture leaves
            ``input_frac_bits`` None. A tensor, a tuple or a mapping (``model(**batch)``) is one batch; a list, a
            DataLoader or another iterable is several, also of (inputs, labels), whose labels are left out; a function
            runs the model that it is given. ``read_batches`` states the rules. A layer that is not called stays
            digital.
        layout: of convolutions, all of which compute the same integers. "dense": receptive fields one after the other,
            each group on arrays of its own. "block_diagonal": the same, but as many groups on one array as fit.
            "toeplitz": unrolled (a Toeplitz matrix), all positions at once on arrays of their own; for maps of the one
            size that calibration or ``LayerRule(map_size=)`` tells. Linear layers are the same in all of these.
            "compacted": block-diagonal without the rows and columns that are 0, of the matrix or of each tile,
            whichever takes the fewest arrays (T, for pruned networks; see ``geniex.mapping.compact``).
        fold: put batch norms into the convolutions before them, see ``fold_batch_norm``. Off by default: layers keep
            their names and weights, and where all channels share one scale a folded weight has fewer significant
            bits. On for hardware that cannot scale digitally.
        dtype: of conductances, voltages and currents, float32 or float64; None means the weights', at least
            float32.
        trainable: keep the weights on crossbars as parameters, so that an optimiser can be given ``.parameters()``;
            ``CrossbarMatrix`` states the gradients, ``to_digital`` is the way back. Parameters that need no gradient
            in the model need none here. Without it nothing does, so that a forward pass keeps no graph unless an input
            asks for one.
        checkpoint: whether a backward pass computes intermediate values once more, so that a forward pass keeps little
            in memory: True of programming and of reading, False of neither, None of reading alone (unless it is noisy).
        allow_empty: whether a model may be returned that has no layer on crossbars.

    Raises:
        ConversionError: nothing that goes onto crossbars, a rule that names no layer, or one that cannot go onto
            crossbars, a tile other than the emulator's, a model that is converted already, compiled by ``torch.jit`` or
            without weights as yet; with ``trainable``, a weight on crossbars that is shared with another module or
            derived from other tensors.
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
    """A copy of ``model`` in the form that is converted, what happens to each of its layers, and what is folded."""
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
    """Raise ``ConversionError`` where nothing goes onto crossbars, and say why."""
    digital = [layer for layer in plan if isinstance(layer, DigitalLayer)]
    if len(digital) < len(plan):
        return
    reasons = [f"{layer.name or 'the model'} ({type(layer.module).__name__}): {layer.reason}" for layer in digital]
    more = f", and {len(reasons) - _MOST_REASONS} more" if len(reasons) > _MOST_REASONS else ""
    why = "; ".join(reasons[:_MOST_REASONS]) + more if reasons else "it has no layer with weights"
    raise ConversionError(f"model: nothing of it goes onto crossbars: {why}. allow_empty=True lets it pass")


def drop_uncalled(plan: list[PlannedLayer | DigitalLayer], called: set[int]) -> list[PlannedLayer | DigitalLayer]:
    """The plan with layers digital that the model did not call: it does without them, or reads their weights."""
    return [
        DigitalLayer(layer.name, layer.module, "never called on the inputs given")
        if isinstance(layer, PlannedLayer) and id(layer.module) not in called
        else layer
        for layer in plan
    ]
