"""The torch device that an option names."""

from __future__ import annotations

import re

import torch

from geniex.errors import InputError


def check_device(name: str) -> torch.device:
    """The device called ``name``; raises ``InputError`` if this machine cannot use it."""
    try:
        torch.zeros((), device=name).item()
        return torch.device(name)
    except (RuntimeError, AssertionError) as error:
        why = re.split(r"\n|\. ", str(error), maxsplit=1)[0]
        raise InputError("device", repr(name), f"this machine cannot use it ({why})") from None
