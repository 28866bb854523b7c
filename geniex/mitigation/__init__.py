"""Methods that recover accuracy lost on crossbars: remapping, corrected outputs, pruning, fine-tuning."""

from geniex.mitigation.batch_norm import refit_batch_norm
from geniex.mitigation.correct_outputs import Correction, correct_outputs
from geniex.mitigation.finetune import fine_tune
from geniex.mitigation.observe import Batch
from geniex.mitigation.pruning import Pruned, PrunedLayer, prune
from geniex.mitigation.remap import REMAPPINGS, Remapped, RemappedLayer, Remapping, remap
from geniex.mitigation.sensitivity import sensitivity
from geniex.mitigation.weight_cut import weight_cut, weight_full_scales

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
