"""Models inside of what torch puts around them: replicas, compiled modules."""

from __future__ import annotations

import sys

from torch import nn
from torch.nn.parallel import DataParallel, DistributedDataParallel


def unwrapped(model: nn.Module) -> nn.Module:
    """The module inside of ``torch.compile``, ``DataParallel`` and ``DistributedDataParallel``; others as they are."""
    while True:
        if is_compiled(model):
            model = model._orig_mod  # type: ignore[assignment]
        elif isinstance(model, (DataParallel, DistributedDataParallel)):
            model = model.module
        else:
            return model


def is_compiled(model: nn.Module) -> bool:
    """Whether ``model`` is what ``torch.compile`` returned."""
    # Importing the compiler takes seconds; who has a compiled module has imported it.
    compiler = sys.modules.get("torch._dynamo.eval_frame")
    return compiler is not None and isinstance(model, compiler.OptimizedModule)
