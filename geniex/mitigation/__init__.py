"""Methods that recover accuracy lost on crossbars: remapping, corrected outputs, pruning, fine-tuning."""

from geniex.mitigation.batch_norm import refit_batch_norm
from geniex.mitigation.correct_outputs import Correction, correct_outputs
from geniex.mitigation.fine_tune import fine_tune
from geniex.mitigation.prune.prune import Pruned, PrunedLayer, prune
from geniex.mitigation.prune.weight_cut import weight_cut, weight_full_scales
from geniex.mitigation.remap.observe import Batch
from geniex.mitigation.remap.remap import REMAPPINGS, Remapped, RemappedLayer, Remapping, remap
from geniex.mitigation.remap.sensitivity import sensitivity

__all__ = [
    "REMAPPINGS",
    "Batch",
    "Correction",
    "Pruned",
    "PrunedLayer",
    "Remapped",
    "RemappedLayer",
    "Remapping",
    "correct_outputs",
    "fine_tune",
    "prune",
    "refit_batch_norm",
    "remap",
    "sensitivity",
    "weight_cut",
    "weight_full_scales",
]
