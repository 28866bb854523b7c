"""What brings accuracy back that crossbars cost."""

from geniex.mitigation.finetune import fine_tune

__all__ = ["fine_tune"]
