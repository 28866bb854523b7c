"""``convert``: a torch model's matrix products onto crossbars, in one verb."""

from __future__ import annotations

import copy

import torch
from torch import nn

from geniex.emulator import Emulator
from geniex.mapping import Architecture, Layout
from geniex.simulator.calibrate import Calibration, calibrated
from geniex.simulator.fold import fold_in_place
from geniex.simulator.memory import first_call, pass_memory, without_values
from geniex.simulator.plan import DigitalLayer, PlannedLayer, planned, projected, replaced
from geniex.simulator.programming import OwnEmulators, build, check_emulator
from geniex.simulator.report import ConversionReport, LayerReport, built_report, digital_report, folded_report
from geniex.simulator.rules import PerLayer, Rules


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
) -> nn.Module:
    """A copy of ``model`` whose matrix products with weights run on crossbars; the original is untouched.

    Linear layers, convolutions (also grouped and transposed) and attention's projections are put onto crossbars; all
    else stays digital. The copy is in evaluation mode, has emulators of its own, and ``.conversion``, a
    ``ConversionReport`` of which layers went where and why not.

    Args:
        model: any module.
        architecture: fixed point, slices, streams, converters.
        emulator: the crossbar's physics; its tile must be the architecture's.
        per_layer: exceptions for layer names or patterns with ``*``: an architecture of its own, a ``LayerRule``, or
            None to keep the layer digital. An exact name beats a pattern, a later pattern an earlier one; a name
            covers the modules below. Attention's projections are ``q_proj``, ``k_proj``, ``v_proj`` and ``out_proj``.
        calibration: a batch of inputs, or several, or a function that runs the model it is given; each layer's input
            range is taken from it, which is needed where the architecture leaves ``input_frac_bits`` None. A layer
            that is not called then stays digital.
        layout: of convolutions, all of which compute the same integers. "dense": receptive fields one after the other,
            each group on arrays of its own. "block_diagonal": the same, but as many groups on one array as fit.
            "sparse": unrolled (a Toeplitz matrix), all positions at once on arrays of their own; for maps of the one
            size that calibration or ``LayerRule(map_size=)`` tells. Linear layers are the same in all of these.
            "squeezed": block-diagonal without the rows and columns that are 0, of the matrix or of each tile, whichever
            takes the fewest arrays (T, for pruned networks; see ``geniex.mapping.squeezed``).
        fold: put batch norms into the convolutions before them, see ``fold_batch_norm``. Off by default: layers keep
            their names and weights, and where all channels share one scale a folded weight has fewer significant
            bits. On for hardware that cannot scale digitally.
        dtype: of conductances, voltages and currents, float32 or float64; None means the weights', at least
            float32.
        trainable: keep the weights on crossbars as parameters, so that an optimiser can be given ``.parameters()``;
            ``CrossbarMatrix`` states the gradients, ``digital_copy`` is the way back.
        checkpoint: whether a backward pass computes intermediate values once more, so that a forward pass keeps little
            in memory: True of programming and of reading, False of neither, None of reading alone (unless it is noisy).

    Raises:
        ConversionError: a rule that names no layer, or one that cannot go onto crossbars, a tile other than the
            emulator's.
    """
    check_emulator(emulator, architecture)
    converted, plan, folded = prepared(model, Rules(architecture, layout, per_layer), fold)
    with first_call(converted) as calls:
        plan, seen = calibrated(converted, plan, calibration)
    if calibration is not None:
        plan = without_uncalled(plan, set(seen))
    emulators, options = OwnEmulators(emulator), {"dtype": dtype, "trainable": trainable, "checkpoint": checkpoint}
    made, reports = dict[int, nn.Module](), list[LayerReport]()
    for layer in plan:
        if isinstance(layer, DigitalLayer):
            reports.append(digital_report(layer))
            continue
        built = build(layer, emulators, seen.get(id(layer.module)), **options)
        made[id(layer.module)] = built
        reports.append(built_report(layer, built))
    converted = replaced(converted, made)
    bare = without_values(converted) if calls else converted
    memory = pass_memory(lambda: bare, next(iter(calls), None))
    converted.conversion = ConversionReport((*reports, *folded), memory=memory)  # type: ignore[assignment]
    return converted


def prepared(
    model: nn.Module, rules: Rules, fold: bool
) -> tuple[nn.Module, list[PlannedLayer | DigitalLayer], list[LayerReport]]:
    """A copy of ``model`` in the form that is converted, what happens to each of its layers, and what is folded."""
    copied = copy.deepcopy(model).eval()
    folded = [folded_report(norm, conv) for norm, conv in (fold_in_place(copied) if fold else {}).items()]
    copied = projected(copied, rules)
    return copied, planned(copied, rules), folded


def without_uncalled(plan: list[PlannedLayer | DigitalLayer], called: set[int]) -> list[PlannedLayer | DigitalLayer]:
    """The plan with layers digital that the model did not call: it does without them, or reads their weights."""
    return [
        DigitalLayer(layer.name, layer.module, "never called on the inputs given")
        if isinstance(layer, PlannedLayer) and id(layer.module) not in called
        else layer
        for layer in plan
    ]
