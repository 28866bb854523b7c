"""The GENIEx network: one hidden layer from (G, V) to the columns' ratios I_ideal / I."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.nn import functional

from geniex.circuit import Crossbar, shared_matmul
from geniex.circuit.checks import check_conductances
from geniex.config import check_positive_int
from geniex.mapping import ConductanceWindow
from geniex.surrogate.base import Surrogate, SurrogateArray
from geniex.surrogate.mlp.scalers import Scalers


@dataclass(frozen=True)
class MLPArray(SurrogateArray):
    """Programmed tiles of a ``GeniexMLP``."""

    hidden: Tensor
    """The conductances' half of the hidden layer's pre-activation (..., hidden), bias included."""


class GeniexMLP(Surrogate):
    """The network of GENIEx (Chakraborty et al., DAC 2020): concat(flatten(G'), V') -> ReLU hidden -> f_R'.

    The hidden layer's pre-activation is linear in its input, W concat(G', V') + b = (W_G G' + b) + W_V V'. The first
    half belongs to a tile and is computed once, in ``program``. The second belongs to an input vector and is shared by
    all tiles that the vector feeds. A column's current is I_ideal / f_R with the exact I_ideal = sum_i V_i G_ij, so
    V = 0 gives 0.

    Args:
        crossbar: the circuit that the network stands for.
        window: range of the conductances, siemens.
        v_max: highest voltage, volt.
        hidden: ReLU units of the hidden layer.
        r_min: lowest ratio of the training data.
        r_max: highest ratio of the training data.
    """

    cacheable = True

    def __init__(
        self,
        crossbar: Crossbar,
        window: ConductanceWindow,
        v_max: float,
        hidden: int = 500,
        r_min: float = 0.0,
        r_max: float = 1.0,
    ) -> None:
        super().__init__(crossbar, window, v_max)
        check_positive_int("hidden", hidden)
        self.scalers = Scalers(window, v_max, r_min, r_max)
        self.hidden = nn.Linear(crossbar.rows * crossbar.cols + crossbar.rows, hidden)
        self.output = nn.Linear(hidden, crossbar.cols)

    @property
    def floats_per_read(self) -> int:
        """The hidden layer before and after its ReLU."""
        return 2 * self.hidden.out_features

    def options(self) -> dict[str, Any]:
        """Hidden units and the ratio's range."""
        return {
            "hidden": self.hidden.out_features,
            "r_min": self.scalers.r_min,
            "r_max": self.scalers.r_max,
        }

    def program(self, conductances: Tensor) -> MLPArray:
        """The tiles' half of the hidden layer, for ``conductances`` (..., rows, cols) [S]."""
        check_conductances(conductances, self.crossbar.rows, self.crossbar.cols)
        return MLPArray(conductances, self.tile_half(self.scalers.scale_conductance(conductances)))

    def read(self, array: MLPArray, voltages: Tensor) -> Tensor:
        """Column currents (..., cols) [A] of ``array`` for driver ``voltages`` (..., rows) [V]."""
        half = self.vector_half(self.scalers.scale_voltage(voltages))
        ratio = self.scalers.unscale_ratio(self.scaled_ratio(array.hidden, half))
        return shared_matmul(voltages, array.conductances) / ratio

    def tile_half(self, scaled: Tensor) -> Tensor:
        """W_G G' + b (..., hidden) of scaled conductances (..., rows, cols)."""
        weight, bias = self.hidden.weight[:, : -self.crossbar.rows], self.hidden.bias
        return functional.linear(scaled.flatten(-2), weight.to(scaled), bias.to(scaled))

    def vector_half(self, scaled: Tensor) -> Tensor:
        """W_V V' (..., hidden) of scaled voltages (..., rows)."""
        return functional.linear(scaled, self.hidden.weight[:, -self.crossbar.rows :].to(scaled))

    def scaled_ratio(self, tile_half: Tensor, vector_half: Tensor) -> Tensor:
        """f_R' (..., cols) of the two halves, whose leading dimensions broadcast."""
        active = (tile_half + vector_half).relu_()  # in place: it is the largest tensor of a read
        return functional.linear(active, self.output.weight.to(active), self.output.bias.to(active))
