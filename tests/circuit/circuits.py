"""Random drives and tiles, and how far two sets of column currents are apart."""

from __future__ import annotations

import torch
from torch import Tensor

V_MAX, G_OFF, G_ON = 0.25, 1e-6 / 0.6, 1e-5

WIRINGS = {
    "nominal": {},
    "asymmetric": {"r_source": 1000.0, "r_sink": 70.0, "r_wire_row": 7.0, "r_wire_col": 0.5},
    "no source": {"r_source": 0.0},
    "no sink": {"r_sink": 0.0},
    "no row wire": {"r_wire_row": 0.0},
    "no column wire": {"r_wire_col": 0.0},
    "row only": {"r_sink": 0.0, "r_wire_col": 0.0},
    "column only": {"r_source": 0.0, "r_wire_row": 0.0},
    "wires only": {"r_source": 0.0, "r_sink": 0.0},
    "terminals only": {"r_wire": 0.0},
    "ideal": {"r_source": 0.0, "r_sink": 0.0, "r_wire": 0.0},
}
"""Resistances of the crossbar, by what is special about them."""


def drives(*shape: int, generator: torch.Generator, low: float = -V_MAX, high: float = V_MAX) -> Tensor:
    """Uniform voltages in float64."""
    return low + (high - low) * torch.rand(*shape, dtype=torch.float64, generator=generator)


def tiles(*shape: int, generator: torch.Generator) -> Tensor:
    """Uniform conductances between G_off and G_on in float64."""
    return G_OFF + (G_ON - G_OFF) * torch.rand(*shape, dtype=torch.float64, generator=generator)


def error(actual: Tensor, expected: Tensor) -> float:
    """Largest |dI_j| / max(|I_j|, 1e-3 max_j |I_j|)."""
    assert actual.shape == expected.shape
    scale = torch.maximum(expected.abs(), 1e-3 * expected.abs().amax(-1, keepdim=True))
    missed = (actual.to(expected) - expected).abs()
    return torch.where(missed == 0, 0, missed / scale).max().item()
