"""The gradient of a solution, taken from the equation that it solves and not through the solver."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from geniex.circuit.wires import Wires

Inverse = Callable[[Tensor, Tensor], Tensor]
"""A function that applies (1 + K D)^-1 to a field; slopes D and field are (..., rows, cols), the slopes first.

The function is given the slopes and does not hold them: a checkpoint can drop saved tensors only.
"""


def attach_gradient(h: Tensor, u: Tensor, slopes: Tensor, wires: Wires, inverse: Inverse) -> Tensor:
    """``u``, the solution of u = h(u) = b - K f(u), with the gradient du = (1 + K D)^-1 dh, D = f' the ``slopes``."""
    return _Step.apply(h, u, slopes.detach(), wires.detached(), inverse)


class _Step(torch.autograd.Function):
    """Identity on the solution; its backward multiplies by the transpose of (1 + K D)^-1."""

    @staticmethod
    def forward(ctx: Any, h: Tensor, u: Tensor, slopes: Tensor, wires: Wires, inverse: Inverse) -> Tensor:
        ctx.save_for_backward(slopes)
        ctx.wires, ctx.inverse = wires, inverse
        return u.clone()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, w: Tensor) -> tuple[Tensor, None, None, None, None]:
        (slopes,) = ctx.saved_tensors
        # (1 + D K)^-1 w = w - D z with z + K D z = K w: z solves an array of linear cells D that is driven by K w.
        return w - slopes * ctx.inverse(slopes, ctx.wires.drop(w)), None, None, None, None
