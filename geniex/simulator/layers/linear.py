"""``nn.Linear`` on crossbars."""

from __future__ import annotations

from torch import Tensor, nn

from geniex.mapping import ConvGeometry, Packing
from geniex.simulator.layers.crossbar import CrossbarLayer, register_layer
from geniex.simulator.modes import check_mode


class CrossbarLinear(CrossbarLayer):
    """``nn.Linear`` on crossbars: each input drives a word line, each output is read from a group of bit lines."""

    @staticmethod
    def weight_of(module: nn.Linear) -> Tensor:
        """The weight matrix (1, outputs, inputs)."""
        return module.weight[None]

    @staticmethod
    def weight_to(module: nn.Linear, matrices: Tensor) -> Tensor:
        """A copy of the one matrix (outputs, inputs)."""
        return matrices[0].clone()

    @staticmethod
    def read_fields(x: Tensor, packing: Packing, geometry: ConvGeometry | None) -> Tensor:
        """The input's vectors (count, in_features)."""
        return x.reshape(-1, packing.features)

    @property
    def output_dim(self) -> int:
        """The last dimension."""
        return -1

    def output_vectors(self, y: Tensor) -> Tensor:
        """The output's vectors (count, out_features)."""
        return y.reshape(-1, self.packing.outputs)

    def forward(self, input: Tensor) -> Tensor:
        """The outputs (..., out_features) for inputs (..., in_features)."""
        check_mode(input)
        return self.product(input)


register_layer(nn.Linear, CrossbarLinear)
