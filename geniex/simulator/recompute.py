"""Programming that keeps no intermediate values: the backward pass programs again instead."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from geniex.emulator import map_tensors


def program_lean(program: Callable[[Tensor], Any], conductances: Tensor) -> Any:
    """The result of ``program`` for ``conductances``, differentiable in nothing else.

    torch's own checkpoints would run ``program`` again for each backward pass inside the backward pass of ``program``.
    """
    made: list[Any] = []
    tensors = iter(_Programming.apply(program, made, conductances))
    return map_tensors(made[0], lambda _: next(tensors))


class _Programming(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, program: Callable[[Tensor], Any], made: list[Any], conductances: Tensor
    ) -> tuple[Tensor, ...]:
        ctx.program = program
        ctx.save_for_backward(conductances)
        ctx.set_materialize_grads(False)
        made.append(program(conductances))
        return tuple(collect_tensors(made[0]))

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *cotangents: Tensor | None) -> tuple[None, None, Tensor | None]:
        (conductances,) = ctx.saved_tensors
        with torch.enable_grad():
            again = conductances.detach().requires_grad_()
            outputs = collect_tensors(ctx.program(again))
        felt = [(out, c) for out, c in zip(outputs, cotangents, strict=True) if c is not None and out.requires_grad]
        if not felt:
            return None, None, None
        outs, given = zip(*felt, strict=True)
        return None, None, torch.autograd.grad(outs, again, given)[0]


def collect_tensors(array: Any) -> list[Tensor]:
    """The tensors of a programmed array, in the order in which ``map_tensors`` comes to them."""
    found: list[Tensor] = []

    def keep(tensor: Tensor) -> Tensor:
        found.append(tensor)
        return tensor

    map_tensors(array, keep)
    return found
