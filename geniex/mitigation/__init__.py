"""What brings accuracy back that crossbars cost: remapping, calibration, fine-tuning."""

from geniex.mitigation.calibration import calibrate_outputs, refit_batch_norm
from geniex.mitigation.finetune import fine_tune
from geniex.mitigation.observe import Batch
from geniex.mitigation.remap import REMAPPINGS, Remapped, RemappedLayer, Remapping, remap
from geniex.mitigation.sensitivity import sensitivity

__all__ = [
    "REMAPPINGS",
    "Batch",
    "Remapped",
    "RemappedLayer",
    "Remapping",
    "calibrate_outputs",
    "fine_tune",
    "refit_batch_norm",
    "remap",
    "sensitivity",
]
