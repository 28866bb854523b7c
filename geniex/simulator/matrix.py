"""A weight matrix on crossbar tiles, and its product with inputs."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any, Literal, NoReturn

import torch
from torch import Tensor, nn

from geniex.circuit import shared_matmul
from geniex.circuit.checks import check_conductances, has_values
from geniex.emulator import Emulator, map_tensors
from geniex.emulator.base import check_emulator, move_copy_once
from geniex.errors import InputError
from geniex.mapping import Architecture, Arrangement, Location, TileLayout
from geniex.mapping.fixed_point import pass_straight_through
from geniex.mapping.slicing import to_tile_levels
from geniex.simulator.collapse import Programmed, collapse, find_shortcuts
from geniex.simulator.matrix_state import MatrixState, move_once, read_state, write_state
from geniex.simulator.modes import check_mode, refuse_script
from geniex.simulator.periphery.accumulator import BinaryPoints
from geniex.simulator.periphery.adc import choose_step, to_voltages
from geniex.simulator.periphery.converters import (
    PROBE_VECTORS,
    ConverterUse,
    choose_binary_points,
    choose_calibration_vectors,
    choose_step_before_calibration,
    count_ends,
    measure_converter_use,
)
from geniex.simulator.periphery.dac import quantise_inputs
from geniex.simulator.read import Reader, Reads
from geniex.simulator.recompute import program_lean
from geniex.simulator.scales import (
    FullScale,
    InputStatistics,
    check_vectors,
    check_weight,
    choose_input_scale,
    choose_weight_scale,
)
from geniex.simulator.weights import WeightWatch, find_weight_ends

Gradients = Literal["emulator", "ideal"]


class CrossbarMatrix(nn.Module):
    """x @ weight.T computed by tiles of crossbars.

    The weights are programmed at construction. Gradients flow to the inputs through the emulator's own derivative and
    straight through the quantisers: rounding has the derivative 1, clipping has 0 beyond its ends, and the digits of a
    number share its derivative equally. Gradients of a ``trainable`` matrix also flow through programming to its
    weights; they are an estimate where slices are coarse, and the derivative itself as slices become fine. With
    ``.gradients = "ideal"`` they are those of x @ weight.T, straight through everything that is not ideal.

    Args:
        weight: (outputs, inputs).
        architecture: fixed point, slices, streams, converters.
        emulator: the crossbar's physics; its tile must be the architecture's. It stays as it is: ``.emulator`` is
            ``emulator.bind(architecture)``.
        inputs: statistics of the inputs in calibration, or their largest magnitude. They are needed where
            ``architecture.input_frac_bits`` is None; percentile and MSE ranges and the ADC range "calibrated" need
            statistics. Where these saw no negative input, one pass is streamed, and negative inputs clip to 0.
        dtype: the dtype of conductances, voltages and currents, float32 or float64; None takes the weight's dtype, at
            least float32.
        trainable: whether the weight stays a parameter, ``.weight``; a mask (outputs, inputs) makes it one too and says
            which weights are not always 0. The parameter is programmed again whenever it has changed, and in every
            forward pass that needs its gradient. The scales remain those of the first weight.
        checkpoint: whether the backward pass computes intermediate values again, one chunk of inputs at a time,
            instead of keeping them from the forward pass. True does so for programming and reading, False for neither,
            None for reading alone, and only where equal reads give equal currents.
        layout: the weight's layout on tiles; None is a grid. With ``ToeplitzTiles`` the weight holds the kernels
            (channels, inputs of a group), and the unrolled matrix has more outputs and inputs.
        weight_full_scale: the magnitude that the largest integer stands for, or one magnitude for each output with the
            architecture's ``weight_scale`` "channel"; None takes the weight's own. Larger weights clip.

    >>> from geniex.emulator import IdealEmulator
    >>> weight = torch.tensor([[0.5, -0.25]])
    >>> CrossbarMatrix(weight, Architecture(), IdealEmulator(), inputs=1.0)(torch.tensor([0.5, 0.5]))
    tensor([0.1250])
    """

    conductances: Tensor
    codes: Tensor | None
    """The ideal levels, bit lines in natural order, kept where the offset scheme reads them."""
    weight_gain: Tensor | None
    """Factor of a product besides the binary points, float32, () or (outputs,); None is 1."""
    input_gain: Tensor | None
    """Divisor of an input, and factor of the product, float32, (); None is 1."""
    adc_step: Tensor | None
    """Counts per ADC code, broadcasting with (row_tiles, converters, col_tiles, cols); None is 1."""
    weight_mask: Tensor | None
    """Trainable weights that are not always 0, bool (outputs, inputs); None is all."""
    target_conductances: Tensor | None
    """Conductances before ``vary`` first changed them; None if nothing was varied, or if they are no longer known
    because the matrix was loaded from a file or programmed since."""
    varied: bool = False
    """Whether ``vary`` has changed the conductances."""
    gradients: Gradients = "emulator"
    """Source of the derivatives in a trainable matrix' backward pass."""

    def __init__(
        self,
        weight: Tensor,
        architecture: Architecture,
        emulator: Emulator,
        *,
        inputs: InputStatistics | float | None = None,
        dtype: torch.dtype | None = None,
        trainable: bool | Tensor = False,
        checkpoint: bool | None = None,
        layout: TileLayout | None = None,
        weight_full_scale: FullScale | None = None,
    ) -> None:
        super().__init__()
        check_weight(weight)
        if not isinstance(architecture, Architecture):
            raise InputError("architecture", type(architecture).__name__, "it must be an Architecture")
        self.architecture, self.checkpoint = architecture, checkpoint
        self.set_emulator(check_emulator(emulator).bind(architecture))
        self.weight = nn.Parameter(weight.detach().clone()) if trainable is not False else None
        self.register_buffer("weight_mask", trainable if isinstance(trainable, Tensor) else None)
        self._watch = None if self.weight is None else WeightWatch(self.weight)
        layout = layout or TileLayout(architecture, inputs=weight.shape[1], outputs=weight.shape[0])
        self.layout = layout.map_indices(lambda index: index if weight.is_meta else index.to(weight.device))
        with torch.no_grad():
            self.weight_frac_bits, weight_gain = choose_weight_scale(architecture, weight, weight_full_scale)
            self.input_frac_bits, input_gain = choose_input_scale(architecture, inputs)
            self.non_negative = isinstance(inputs, InputStatistics) and inputs.non_negative
            """Whether inputs are treated as unsigned, so that negative ones clip to 0."""
            self.register_buffer("weight_gain", weight_gain)
            self.register_buffer("input_gain", None if input_gain is None else input_gain.to(weight.device))
            dtype = dtype or torch.promote_types(weight.dtype, torch.float32)
            codes = to_tile_levels(weight.detach(), self.layout, self.weight_frac_bits, weight_gain, dtype)
            conductances = self._conductances(codes)
        self.register_buffer("codes", codes if architecture.offset == "ideal_before" else None)
        self.register_buffer("conductances", conductances)
        self.register_buffer("target_conductances", None, persistent=False)
        self.register_buffer("adc_step", choose_step_before_calibration(conductances, self.layout))
        bits = self.weight_frac_bits + self.input_frac_bits
        self.points = choose_binary_points(bits, conductances, self.layout, grows=self.weight is not None)
        with torch.no_grad():
            self.tiles = self._programmed(conductances, self.codes)
        self._calibrate(inputs)
        self.register_load_state_dict_post_hook(_program_again)

    emulator: Emulator
    """The emulator that reads the tiles, bound to the architecture. It is not a submodule, because layers share it, and
    because a matrix's state is what is programmed, whichever emulator reads it."""

    def set_emulator(self, emulator: Emulator) -> None:
        """Read by ``emulator``, bound to the architecture, from now on; ``reprogram`` programs it."""
        vars(self)["emulator"] = emulator  # past torch, which would make it a submodule

    def program(self, conductances: Tensor) -> None:
        """Put other conductances (row_tiles, arrays, col_tiles, rows, cols) [S] on the tiles, e.g. measured ones.

        ``.conductances`` has the present ones. If there are two arrays, the first holds the positive parts. The ranges
        of calibrated ADCs stay; ``calibrate_adc`` chooses new ones. A trainable matrix programs its own weight.
        """
        if self.weight is not None:
            raise InputError("conductances", tuple(conductances.shape), "a trainable matrix programs its own weight")
        self._put(conductances)
        self.target_conductances = None

    def reprogram(self) -> None:
        """Program the present conductances again, with the present emulator."""
        with torch.no_grad():
            if self.weight is None:
                self._put(self.conductances)
            else:
                self._watch = WeightWatch(self.weight)
                self._current()

    def _put(self, conductances: Tensor) -> None:
        check_conductances(conductances, *self.architecture.tile)
        shape = tuple(self.conductances.shape)
        if conductances.shape != shape:
            raise InputError("conductances", tuple(conductances.shape), f"this matrix has {shape}")
        with torch.no_grad():
            self.conductances = conductances.to(self.conductances)
            self.tiles = self._programmed(self.conductances, self.codes)

    def arrange(self, arrangement: Arrangement, vectors: Tensor | None = None) -> None:
        """Move inputs, outputs and bit lines to other places and program the tiles; the product stays the same.

        Conductances move with their weights, measured and varied ones too. ADC ranges that were calibrated by tile or
        column are calibrated again on ``vectors`` (count, inputs), which are then required; other ranges stay.
        """
        own_ranges = self.architecture.adc_range == "calibrated" and self.architecture.adc_granularity != "layer"
        if own_ranges and vectors is None:
            raise InputError("vectors", None, "ADC ranges by tile or column are calibrated again: give (count, inputs)")
        if vectors is not None:
            check_vectors(vectors, self.layout.inputs)
        old = self.layout
        orders = arrangement.map_orders(lambda order: order.to(self.conductances.device))
        new = dataclasses.replace(old, arrangement=orders)
        if self.weight is None:
            target = self.target_conductances
            self.conductances = old.relocate_lines(self.conductances, new)
            self.target_conductances = None if target is None else old.relocate_lines(target, new)
            self.codes = None if self.codes is None else old.relocate(self.codes, new)
        self.layout = new
        self.reprogram()
        if own_ranges and vectors is not None:
            self.calibrate_adc(vectors)

    def calibrate_adc(self, vectors: Tensor) -> None:
        """Choose the ADC's ranges from the counts that the emulator gives for ``vectors`` (count, inputs)."""
        arch = self.architecture
        if arch.adc_range not in ("auto", "calibrated"):
            allowed = "only the ADC ranges 'auto' and 'calibrated' are calibrated"
            raise InputError("architecture.adc_range", repr(arch.adc_range), allowed)
        reader, tiles, integers = self._apart(vectors)
        low, high = count_ends(reader, tiles, integers)
        if not (low.isfinite().all() and high.isfinite().all()):
            allowed = "its currents are NaN or infinite on the calibration inputs: use one that fits these tiles"
            raise InputError("emulator", self.emulator.description, allowed)
        self.adc_step = choose_step(low, high, arch)
        if arch.adc_range == "auto" and bool((self.adc_step == 1).all()):
            self.adc_step = None  # codes of one count are read faster where no step is kept
            self.tiles = collapse(tiles, self.layout, None, self.points)

    def converter_use(self, vectors: Tensor) -> ConverterUse:
        """The use of ADCs and accumulators by ``vectors`` (count, inputs): the shares that clip and overflow."""
        return measure_converter_use(*self._apart(vectors))

    @property
    def bit_lines(self) -> int:
        """The number of bit lines of all tiles; a pair of W+ and W- counts once."""
        return math.prod(self.layout.stack) * self.architecture.tile[1]

    @property
    def array(self) -> Any:
        """The array that the emulator programmed for the tiles."""
        return self.tiles.array

    def locate(self, output: int, input: int) -> Location:
        """The location of the weight from ``input`` to ``output``."""
        return self.layout.locate(output, input)

    def forward(self, x: Tensor, *, nan: bool = True) -> Tensor:
        """The product (..., outputs) for inputs (..., inputs), in the inputs' dtype.

        A vector with a NaN gives NaN, unless ``nan`` is False, where a NaN counts as 0. Infinite inputs clip as the
        largest inputs do.
        """
        check_mode(x)
        if x.dim() == 0 or x.shape[-1] != self.layout.inputs or not x.is_floating_point():
            given = f"{x.dtype} of shape {tuple(x.shape)}"
            raise InputError("x", given, f"it must be a floating-point tensor (..., {self.layout.inputs})")
        flat = x.reshape(math.prod(x.shape[:-1]), self.layout.inputs)
        if flat.shape[0] == 0:
            return x.new_zeros(*x.shape[:-1], self.layout.outputs) + flat.sum()  # 0, with the inputs' graph
        # Autocast would compute the products in half precision, in which microamperes underflow.
        with torch.autocast(x.device.type, enabled=False):
            if self.weight is not None and self.gradients == "ideal" and torch.is_grad_enabled():
                with torch.no_grad():
                    value = self._product(flat)
                finite = torch.where(flat.isfinite(), flat, 0.0)  # the derivatives do not depend on the value
                exact = self.layout.multiply_exactly(finite.to(value), self._masked(self.weight).to(value))
                product = pass_straight_through(value, exact)
            else:
                product = self._product(flat)
        if nan:
            product = product.masked_fill(flat.detach().amax(-1, keepdim=True).isnan(), math.nan)
        return product.reshape(*x.shape[:-1], self.layout.outputs).to(x.dtype)

    def reads(self, x: Tensor) -> Reads:
        """All voltages and currents of the reads of ``x`` (count, inputs), for inspection; keep ``count`` small."""
        tiles, codes = self._current()
        levels, _ = self._reader(codes).levels(self._integers(x), tiles.example.dtype)
        voltages = to_voltages(levels, self.architecture)
        return Reads(voltages, shared_matmul(voltages, tiles.example), self.emulator.read(tiles.array, voltages))

    def extra_repr(self) -> str:
        """Sizes, for ``print(model)``."""
        layout, tile = self.layout, self.architecture.tile
        return f"{layout.inputs} -> {layout.outputs}, {layout.grid} tiles of {tile}, {self.emulator.name}"

    def clip_weight(self) -> None:
        """Clip trained weights to the ends of the scale, in place, because no gradient flows beyond them."""
        if self.weight is None:
            allowed = "only a trainable matrix keeps a weight to clip: pass trainable=True"
            raise InputError("matrix", "not trainable", allowed)
        with torch.no_grad():
            gain = None if self.weight_gain is None else self.weight_gain.to(self.weight.device)
            ends = find_weight_ends(self.architecture, self.weight_frac_bits, gain, self.weight.dtype)
            self.weight.copy_(self.weight.clamp(*ends))

    def __prepare_scriptable__(self) -> NoReturn:
        refuse_script()

    def _product(self, flat: Tensor) -> Tensor:
        """The product (count, outputs), float64, of the tiles for inputs (count, inputs)."""
        tiles, codes = self._current()
        product = self._reader(codes).product(self._integers(flat), tiles)
        # Two float32 gains have an exact product in float64, so that the result is rounded once.
        by_output = None if self.weight_gain is None else self.layout.by_output(self.weight_gain)
        gains = [gain.double() for gain in (by_output, self.input_gain) if gain is not None]
        return product * math.prod(gains) if gains else product

    def _current(self) -> tuple[Programmed, Tensor | None]:
        """The tiles of the present weight, and its levels if reads need them."""
        if self.weight is None:
            return self.tiles, self.codes
        if self.weight.requires_grad and torch.is_grad_enabled():
            return self._written(self.weight)
        if self._watch is None or self._watch.has_changed(self.weight):
            self.tiles, self.codes = self._written(self.weight)
            self.conductances = self.tiles.example
            self._watch = WeightWatch(self.weight, self.weight.detach().clone())
        return self.tiles, self.codes

    def _written(self, weight: Tensor) -> tuple[Programmed, Tensor | None]:
        """The tiles of another ``weight``, and its levels if reads need them."""
        check_weight(weight)
        scale = (self.weight_frac_bits, self.weight_gain)
        codes = to_tile_levels(self._masked(weight), self.layout, *scale, self.conductances.dtype)
        kept = None if self.codes is None else codes
        return self._programmed(self._conductances(codes), kept), kept

    def _masked(self, weight: Tensor) -> Tensor:
        return weight if self.weight_mask is None else weight * self.weight_mask

    def _conductances(self, codes: Tensor) -> Tensor:
        window = self.architecture.window
        return self.layout.onto_lines(window.to_conductance(codes, 2**self.architecture.slice_bits))

    def _integers(self, x: Tensor) -> Tensor:
        scale = (self.input_frac_bits, self.input_gain)
        return quantise_inputs(x, self.architecture, *scale, non_negative=self.non_negative)

    def _reader(self, codes: Tensor | None) -> Reader:
        again = self.emulator.deterministic if self.checkpoint is None else self.checkpoint
        return Reader(self.emulator, self.layout, self.points, self.adc_step, codes, self.non_negative, again)

    def _apart(self, vectors: Tensor) -> tuple[Reader, Programmed, Tensor]:
        """A reader with noise of its own, the tiles, and the integers of input ``vectors`` (count, inputs).

        Calibration thus does not advance the noise of the model's reads.
        """
        check_vectors(vectors, self.layout.inputs)
        with torch.no_grad():
            tiles, codes = self._current()
        reader = dataclasses.replace(self._reader(codes), emulator=self.emulator.with_noise_seed())
        return reader, tiles, self._integers(vectors.to(self.conductances.device))

    def _programmed(self, conductances: Tensor, codes: Tensor | None) -> Programmed:
        if self.checkpoint and conductances.requires_grad:
            array = program_lean(self.emulator.program, conductances)
        else:
            array = self.emulator.program(conductances)
        return self._shortened(conductances, array, codes)

    def _shortened(self, conductances: Tensor, array: Any, codes: Tensor | None) -> Programmed:
        step, points = self.adc_step, self.points
        return find_shortcuts(conductances, array, self.emulator, self.layout, codes=codes, step=step, points=points)

    def _calibrate(self, inputs: InputStatistics | float | None) -> None:
        """Choose the ADC's ranges from the statistics of the ``inputs``, if the architecture calibrates them."""
        arch = self.architecture
        if not has_values(self.conductances) or arch.adc_range not in ("auto", "calibrated"):
            return
        if arch.adc_range == "auto":
            if not isinstance(inputs, InputStatistics) or not inputs.count or arch.adc_codes is None:
                return
            # If all ideal counts fit the ADC's range, only strongly super-linear cells can exceed it.
            linear = self.emulator.response(self.tiles.array) is not None
            probe = inputs.vectors[:PROBE_VECTORS]
            if self.adc_step is None and (linear or not self.converter_use(probe).clipped):
                return
        self.calibrate_adc(choose_calibration_vectors(inputs, arch, self.bit_lines))

    def get_extra_state(self) -> Tensor:
        """Binary points, whether inputs have a sign, and the arrangement, without which conductances mean nothing.

        The state also says whether conductances were varied, so that a loaded matrix is not taken for a nominal one.
        """
        own = (self.weight_frac_bits, self.input_frac_bits, self.non_negative, self.points.held, self.varied)
        return write_state(self.architecture, MatrixState(*own), self.layout)

    def set_extra_state(self, state: Tensor) -> None:
        """Restore a saved matrix's state; raises ``InputError`` if it had another architecture."""
        own, layout = read_state(state, self.layout)
        self.weight_frac_bits, self.input_frac_bits, self.non_negative, held, self.varied = own
        self.points = BinaryPoints(self.weight_frac_bits + self.input_frac_bits, held)
        self.layout = layout.map_indices(lambda index: index.to(self.conductances.device))

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        """Load a saved matrix; its ADC ranges may have another shape, or be absent."""
        if f"{prefix}conductances" in state_dict:
            step = state_dict.get(f"{prefix}adc_step")
            self.adc_step = None if step is None else torch.empty_like(step, device=self.conductances.device)
        super()._load_from_state_dict(state_dict, prefix, *args)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> CrossbarMatrix:
        move = move_once(fn)
        array = map_tensors(self.tiles.array, move)
        self.set_emulator(move_copy_once(self.emulator, fn))
        super()._apply(move, recurse)
        self.layout = self.layout.map_indices(move)
        self.tiles = self._shortened(self.conductances, array, self.codes)
        return self


def _program_again(matrix: CrossbarMatrix, _: object) -> None:
    """Program the loaded conductances on the tiles."""
    matrix._put(matrix.conductances)
    matrix.target_conductances = None
