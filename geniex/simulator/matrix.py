"""A weight matrix on crossbar tiles, and its product with inputs."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from collections.abc import Callable
from typing import Any, Literal, NamedTuple, NoReturn

import torch
from torch import Tensor, nn

from geniex.circuit import shared_matmul
from geniex.circuit.checks import check_conductances, has_values
from geniex.emulator import Emulator, map_tensors
from geniex.emulator.base import moved_once
from geniex.errors import InputError
from geniex.mapping import Architecture, Arrangement, Location, TileLayout
from geniex.mapping.fixed_point import straight_through
from geniex.mapping.slicing import bias_digits, weight_digits
from geniex.simulator.collapse import Programmed, collapse, shortened
from geniex.simulator.modes import check_mode, refuse_script
from geniex.simulator.periphery.accumulator import BinaryPoints
from geniex.simulator.periphery.adc import calibrated_step, stream_voltages
from geniex.simulator.periphery.converters import (
    ConverterUse,
    binary_points,
    converter_use,
    count_ends,
    step_of_weights,
)
from geniex.simulator.periphery.dac import whole_inputs
from geniex.simulator.read import Reader
from geniex.simulator.recompute import program_lean
from geniex.simulator.scales import FullScale, InputStatistics, check_weight, input_scale, weight_scale

Gradients = Literal["emulator", "ideal"]

_FREE = (
    "weight_frac_bits",
    "input_frac_bits",
    "input_calibration",
    "input_percentile",
    "rounding",
    "accumulator_bits",
    "accumulator_frac_bits",
    "accumulator_overflow",
)
"""Fields of an architecture that a saved state knows better, or that change no meaning of what is saved."""
_CALIBRATION_VECTORS = 64
"""Fewest inputs that are read to calibrate ADCs which share one range; all that are kept are, where they do not."""
_PROBE_VECTORS = 4
"""Inputs that tell whether ADC codes of one count suffice."""
_CALIBRATION_COLUMNS = 1 << 15
"""Bit lines times inputs that are read to calibrate, where there are so few bit lines that more inputs are needed."""


class Reads(NamedTuple):
    """What the tiles of a matrix see: drives that broadcast against the tiles, and their currents."""

    voltages: Tensor
    """(reads, inputs, row_tiles, 1, 1, rows) [V]."""
    ideal: Tensor
    """Currents without any non-ideality (reads, inputs, row_tiles, arrays, col_tiles, cols) [A], as bit lines lie."""
    actual: Tensor
    """Currents of the emulator, same shape [A]."""


class CrossbarMatrix(nn.Module):
    """x @ weight.T computed by tiles of crossbars.

    The weights are programmed at construction. Gradients flow to the inputs, through the emulator's own derivative and
    straight through the quantisers (rounding has the derivative 1, clipping 0 beyond its ends, and a number's digits
    share its derivative alike). So they do to the weights of a ``trainable`` matrix, through programming as well: an
    estimate where slices are coarse, the derivative itself as they become fine. ``.gradients = "ideal"`` takes the
    derivatives of x @ weight.T instead, of what the emulator gives: straight through all that is not ideal.

    Args:
        weight: (outputs, inputs).
        architecture: fixed point, slices, streams, converters.
        emulator: what stands for the crossbar's physics; its tile must be the architecture's. It stays as it is:
            ``.emulator`` is ``emulator.bind(architecture)``.
        inputs: statistics of its inputs in calibration, or their largest magnitude; needed where
            ``architecture.input_frac_bits`` is None; statistics are needed for percentile and MSE ranges and for the
            ADC range "calibrated". Where they saw no negative input, one pass is streamed and negative inputs clip to
            0.
        dtype: of conductances, voltages and currents, float32 or float64; None means the weight's, at least float32.
        trainable: keep the weight as a parameter, ``.weight``, which is programmed again whenever it has changed, and
            in every forward pass that needs its gradient; or a mask (outputs, inputs) of the weights that are not
            always 0. Scales stay those of the first weight.
        checkpoint: whether the backward pass computes intermediate values once more, one chunk of inputs at a time,
            instead of keeping them from the forward pass. True does so for programming and reading, False for neither,
            None for reading alone, and only where equal reads give equal currents.
        layout: how the weight lies on tiles; None is as a matrix. ``ToeplitzTiles`` lays kernels out, (channels, inputs
            of a group), and then there are more outputs and inputs than the weight has.
        weight_full_scale: the magnitude that the largest integer stands for, or one for each output with the
            architecture's ``weight_scale`` "channel"; None takes the weight's own. What is beyond clips.

    >>> from geniex.emulator import IdealEmulator
    >>> weight = torch.tensor([[0.5, -0.25]])
    >>> CrossbarMatrix(weight, Architecture(), IdealEmulator(), inputs=1.0)(torch.tensor([0.5, 0.5]))
    tensor([0.1250])
    """

    conductances: Tensor
    codes: Tensor | None
    """The ideal levels, bit lines in natural order, kept where the offset scheme reads them."""
    weight_gain: Tensor | None
    """float32, () or (outputs,): what a product is multiplied by, beside the binary points; None is 1."""
    input_gain: Tensor | None
    """float32, (): what an input is divided by before, and a product multiplied by after; None is 1."""
    adc_step: Tensor | None
    """Counts per ADC code, broadcasting with (row_tiles, converters, col_tiles, cols); None is 1."""
    weight_mask: Tensor | None
    """bool (outputs, inputs): which trainable weights are not always 0; None is all."""
    target_conductances: Tensor | None
    """What ``vary`` was given the first time, shape and unit of ``conductances``; None where nothing was varied, or
    where it is not known any more: neither files nor ``program`` tell it."""
    varied: bool = False
    """Whether the conductances are what ``vary`` made of others."""
    gradients: Gradients = "emulator"
    """Whose derivatives a backward pass takes, of a trainable matrix."""

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
        if not isinstance(emulator, Emulator):
            allowed = "it must be an Emulator, such as LinearEmulator(crossbar)"
            raise InputError("emulator", getattr(emulator, "__name__", type(emulator).__name__), allowed)
        self.architecture, self.emulator, self.checkpoint = architecture, emulator.bind(architecture), checkpoint
        self.weight = nn.Parameter(weight.detach().clone()) if trainable is not False else None
        self.register_buffer("weight_mask", trainable if isinstance(trainable, Tensor) else None)
        self._programmed_state = self._weight_state
        self._programmed_weight: Tensor | None = None
        layout = layout or TileLayout(architecture, inputs=weight.shape[1], outputs=weight.shape[0])
        self.layout = layout.map_indices(lambda index: index if weight.is_meta else index.to(weight.device))
        with torch.no_grad():
            self.weight_frac_bits, weight_gain = weight_scale(architecture, weight, weight_full_scale)
            self.input_frac_bits, input_gain = input_scale(architecture, inputs)
            self.non_negative = isinstance(inputs, InputStatistics) and inputs.non_negative
            """Whether inputs are taken to have no sign, whatever they are."""
            self.register_buffer("weight_gain", weight_gain)
            self.register_buffer("input_gain", None if input_gain is None else input_gain.to(weight.device))
            codes = self._codes(weight.detach(), dtype or torch.promote_types(weight.dtype, torch.float32))
            conductances = self._conductances(codes)
        self.register_buffer("codes", codes if architecture.offset == "ideal_before" else None)
        self.register_buffer("conductances", conductances)
        self.register_buffer("target_conductances", None, persistent=False)
        self.register_buffer("adc_step", step_of_weights(conductances, self.layout))
        exact = self.weight_frac_bits + self.input_frac_bits
        self.points = binary_points(exact, conductances, self.layout, grows=self.weight is not None)
        with torch.no_grad():
            self.tiles = self._programmed(conductances, self.codes)
        self._calibrate(inputs)
        self.register_load_state_dict_post_hook(_program_again)

    def program(self, conductances: Tensor) -> None:
        """Put other conductances (row_tiles, arrays, col_tiles, rows, cols) [S] on the tiles, e.g. measured ones.

        ``.conductances`` has those that are programmed now. Of two arrays, the first holds the positive parts. The
        ranges of calibrated ADCs stay: ``calibrate_adc`` chooses them anew. A trainable matrix programs its own weight.
        """
        if self.weight is not None:
            raise InputError("conductances", tuple(conductances.shape), "a trainable matrix programs its own weight")
        self._put(conductances)
        self.target_conductances = None

    def reprogram(self) -> None:
        """Program what is on the tiles again, by the emulator as it is now."""
        with torch.no_grad():
            if self.weight is None:
                self._put(self.conductances)
            else:
                self._programmed_weight = None
                self._current()

    def _put(self, conductances: Tensor) -> None:
        check_conductances(conductances, *self.architecture.tile)
        if conductances.shape != self.conductances.shape:
            raise InputError(
                "conductances", tuple(conductances.shape), f"this matrix has {tuple(self.conductances.shape)}"
            )
        with torch.no_grad():
            self.conductances = conductances.to(self.conductances)
            self.tiles = self._programmed(self.conductances, self.codes)

    def arrange(self, arrangement: Arrangement, vectors: Tensor | None = None) -> None:
        """Put inputs, outputs and bit lines in other places, and program the tiles so; the product stays the same.

        Conductances move with their weights, also measured or varied ones. ADC ranges that were calibrated by tile or
        column are chosen anew by ``vectors`` (count, inputs), which they need; other ranges stay.
        """
        own_ranges = self.architecture.adc_range == "calibrated" and self.architecture.adc_granularity != "layer"
        if own_ranges and vectors is None:
            raise InputError("vectors", None, "ADC ranges by tile or column are chosen anew: give (count, inputs)")
        if vectors is not None:
            self._check_vectors(vectors)
        old = self.layout
        new = dataclasses.replace(old, arrangement=self._moved(arrangement))
        if self.weight is None:

            def moved(cells: Tensor) -> Tensor:
                return new.onto_lines(old.relocate(old.off_lines(cells), new))

            self.conductances = moved(self.conductances)
            self.target_conductances = None if self.target_conductances is None else moved(self.target_conductances)
            self.codes = None if self.codes is None else old.relocate(self.codes, new)
        self.layout = new
        self.reprogram()
        if own_ranges and vectors is not None:
            self.calibrate_adc(vectors)

    def calibrate_adc(self, vectors: Tensor) -> None:
        """Choose the ADC's ranges by the counts that input ``vectors`` (count, inputs) cause on the emulator."""
        arch = self.architecture
        if arch.adc_range not in ("auto", "calibrated"):
            raise InputError("architecture.adc_range", repr(arch.adc_range), "only a calibrated range can be chosen")
        self._check_vectors(vectors)
        with torch.no_grad():
            tiles, codes = self._current()
        low, high = count_ends(self._apart(codes), tiles, self._integers(vectors.to(self.conductances.device)))
        if not (low.isfinite().all() and high.isfinite().all()):
            allowed = "its currents are NaN or infinite on the calibration inputs: it does not stand for these tiles"
            raise InputError("emulator", self.emulator.description, allowed)
        self.adc_step = calibrated_step(low, high, arch)
        if arch.adc_range == "auto" and bool((self.adc_step == 1).all()):
            self.adc_step = None  # codes of one count are read faster where no step is kept
            self.tiles = collapse(tiles, self.layout, None, self.points)

    def converter_use(self, vectors: Tensor) -> ConverterUse:
        """How input ``vectors`` (count, inputs) use the ADCs and accumulators: what clips, what overflows."""
        self._check_vectors(vectors)
        with torch.no_grad():
            tiles, codes = self._current()
        integers = self._integers(vectors.to(self.conductances.device))
        return converter_use(self._apart(codes), tiles, integers)

    @property
    def bit_lines(self) -> int:
        """Bit lines of all its tiles, those of W+ and W- counted once."""
        return math.prod(self.layout.stack) * self.architecture.tile[1]

    @property
    def array(self) -> Any:
        """The tiles as the emulator has programmed them."""
        return self.tiles.array

    def locate(self, output: int, input: int) -> Location:
        """Where the weight from ``input`` to ``output`` lies."""
        return self.layout.locate(output, input)

    def forward(self, x: Tensor, *, nan: bool = True) -> Tensor:
        """The product (..., outputs) for inputs (..., inputs), in the inputs' dtype.

        A vector with a NaN gives NaN, unless ``nan`` is False, where a NaN counts as 0. Infinite inputs clip as the
        largest inputs do.
        """
        check_mode(x)
        if x.dim() == 0 or x.shape[-1] != self.layout.inputs or not x.is_floating_point():
            given = f"{x.dtype} of shape {tuple(x.shape)}"
            raise InputError("x", given, f"it must be floating, its last dimension the {self.layout.inputs} inputs")
        flat = x.reshape(math.prod(x.shape[:-1]), self.layout.inputs)
        if flat.shape[0] == 0:
            return x.new_zeros(*x.shape[:-1], self.layout.outputs) + flat.sum()  # 0, with the inputs' graph
        # Microamperes do not survive the half precision that autocast would take the products to.
        with torch.autocast(x.device.type, enabled=False):
            if self.weight is not None and self.gradients == "ideal" and torch.is_grad_enabled():
                with torch.no_grad():
                    value = self._product(flat)
                finite = torch.where(flat.isfinite(), flat, 0.0)  # the derivatives do not depend on the value
                exact = self.layout.multiply_exactly(finite.to(value), self._masked(self.weight).to(value))
                product = straight_through(value, exact)
            else:
                product = self._product(flat)
        if nan:
            product = product.masked_fill(flat.detach().amax(-1, keepdim=True).isnan(), math.nan)
        return product.reshape(*x.shape[:-1], self.layout.outputs).to(x.dtype)

    def reads(self, x: Tensor) -> Reads:
        """Every voltage and current that inputs (count, inputs) cause, to look inside; keep ``count`` small."""
        tiles, codes = self._current()
        levels, _ = self._reader(codes).levels(self._integers(x), tiles.example.dtype)
        voltages = stream_voltages(levels, self.architecture)
        ideal = shared_matmul(voltages, tiles.example)
        return Reads(voltages, ideal, self.emulator.read(tiles.array, voltages))

    def extra_repr(self) -> str:
        """Sizes, for ``print(model)``."""
        grid = f"{self.layout.grid} tiles of {self.architecture.tile}"
        return f"{self.layout.inputs} -> {self.layout.outputs}, {grid}, {self.emulator.name}"

    def clip_weight(self) -> None:
        """Put trained weights that the scale cannot hold onto its ends, in place: beyond them no gradient flows."""
        if self.weight is None:
            raise InputError("matrix", "its weight is on crossbars alone", "it must be trainable")
        gain = torch.ones(()) if self.weight_gain is None else self.weight_gain.reshape(-1, 1)
        with torch.no_grad():
            last_bit = gain.to(self.weight.device).double() * 2.0**-self.weight_frac_bits
            low, high = (_towards_zero(end * last_bit, self.weight.dtype) for end in self.architecture.weight_range)
            self.weight.copy_(self.weight.clamp(low, high))

    def __prepare_scriptable__(self) -> NoReturn:
        refuse_script()

    def _check_vectors(self, vectors: Tensor) -> None:
        if vectors.dim() != 2 or not len(vectors) or vectors.shape[1] != self.layout.inputs:
            raise InputError("vectors", tuple(vectors.shape), f"one or more of {self.layout.inputs} inputs each")

    def _product(self, flat: Tensor) -> Tensor:
        """The product (count, outputs), float64, of the tiles for inputs (count, inputs)."""
        tiles, codes = self._current()
        product = self._reader(codes).product(self._integers(flat), tiles)
        # Two float32 gains have an exact product in float64, so that the result is rounded once.
        by_output = None if self.weight_gain is None else self.layout.by_output(self.weight_gain)
        gains = [gain.double() for gain in (by_output, self.input_gain) if gain is not None]
        return product * math.prod(gains) if gains else product

    def _current(self) -> tuple[Programmed, Tensor | None]:
        """The tiles, and the levels where they are read, of the weight as it is now."""
        if self.weight is None:
            return self.tiles, self.codes
        if self.weight.requires_grad and torch.is_grad_enabled():
            return self._written(self.weight)
        if self._weight_changed:
            self.tiles, self.codes = self._written(self.weight)
            self.conductances, self._programmed_state = self.tiles.example, self._weight_state
            self._programmed_weight = self.weight.detach().clone()
        return self.tiles, self.codes

    def _written(self, weight: Tensor) -> tuple[Programmed, Tensor | None]:
        """Tiles with another ``weight``, and its levels where they are read."""
        check_weight(weight)
        codes = self._codes(self._masked(weight), self.conductances.dtype)
        kept = None if self.codes is None else codes
        return self._programmed(self._conductances(codes), kept), kept

    @property
    def _weight_state(self) -> tuple[int, int, int] | None:
        """What changes when the weight does: a copy or a loaded one is another tensor, of any version."""
        if self.weight is None:
            return None
        return (id(self.weight), self.weight._version, self.weight.data_ptr() if has_values(self.weight) else 0)

    @property
    def _weight_changed(self) -> bool:
        """Whether tiles are of another weight; writes to ``.data`` leave no trace, so the CPU's values are compared."""
        if self.weight is None:
            return False
        if self._weight_state != self._programmed_state or self._programmed_weight is None:
            return True
        looked = self.weight.device.type == "cpu" and has_values(self.weight)
        return looked and not torch.equal(self.weight, self._programmed_weight)

    def _masked(self, weight: Tensor) -> Tensor:
        return weight if self.weight_mask is None else weight * self.weight_mask

    def _conductances(self, codes: Tensor) -> Tensor:
        window = self.architecture.window
        return self.layout.onto_lines(window.to_conductance(codes, 2**self.architecture.slice_bits))

    def _integers(self, x: Tensor) -> Tensor:
        return whole_inputs(x, self.architecture, self.input_frac_bits, self.input_gain, non_negative=self.non_negative)

    def _reader(self, codes: Tensor | None) -> Reader:
        again = self.emulator.deterministic if self.checkpoint is None else self.checkpoint
        return Reader(
            self.emulator, self.layout, self.points, self.adc_step, codes, self.non_negative, checkpoint=again
        )

    def _apart(self, codes: Tensor | None) -> Reader:
        """A reader whose noise is its own, so that the noise of the model's reads begins after calibration."""
        return dataclasses.replace(self._reader(codes), emulator=self.emulator.restarted())

    def _programmed(self, conductances: Tensor, codes: Tensor | None) -> Programmed:
        if self.checkpoint and conductances.requires_grad:
            array = program_lean(self.emulator.program, conductances)
        else:
            array = self.emulator.program(conductances)
        return self._shortened(conductances, array, codes)

    def _shortened(self, conductances: Tensor, array: Any, codes: Tensor | None) -> Programmed:
        step, points = self.adc_step, self.points
        return shortened(conductances, array, self.emulator, self.layout, codes=codes, step=step, points=points)

    def _calibrate(self, inputs: InputStatistics | float | None) -> None:
        """Choose the ADC's ranges by what calibration saw of the ``inputs``, if they are to follow it."""
        arch = self.architecture
        if not has_values(self.conductances) or arch.adc_range not in ("auto", "calibrated"):
            return
        if arch.adc_range == "auto":
            if not isinstance(inputs, InputStatistics) or not inputs.count or arch.adc_codes is None:
                return
            # Where the ideal counts have room, only cells that conduct far more than linearly can leave it.
            linear = self.emulator.response(self.tiles.array) is not None
            probe = inputs.vectors[:_PROBE_VECTORS]
            if self.adc_step is None and (linear or not self.converter_use(probe).clipped):
                return
        count = max(_CALIBRATION_VECTORS, _CALIBRATION_COLUMNS // self.bit_lines)
        vectors = _calibration_vectors(inputs)
        self.calibrate_adc(vectors[:count] if arch.adc_granularity == "layer" else vectors)

    def _codes(self, weight: Tensor, dtype: torch.dtype) -> Tensor:
        """The levels (row_tiles, arrays, col_tiles, rows, cols) of ``weight``, bit lines in their natural order."""
        arch = self.architecture
        bias = bias_digits(arch, weight).to(dtype) if arch.bias_cols else None
        # Gains are one for all, or one for each output.
        gain = None if self.weight_gain is None else self.weight_gain.reshape(-1, 1)

        def digits(part: Tensor) -> Tensor:
            scaled = part if gain is None else part.double() / gain
            return weight_digits(scaled, arch, self.weight_frac_bits).to(dtype)

        return self.layout.levels(weight, digits, bias)

    def _moved(self, arrangement: Arrangement) -> Arrangement:
        return arrangement.map_orders(lambda order: order.to(self.conductances.device))

    def get_extra_state(self) -> Tensor:
        """Binary points, whether inputs have a sign, and places, without which the conductances mean nothing.

        Also whether they were varied: a model that is loaded cannot be taken for one as it was meant to be.
        """
        places = self.layout.to_numbers()
        own = (self.weight_frac_bits, self.input_frac_bits, self.non_negative, self.points.held, self.varied)
        return torch.tensor([_number_of(self.architecture), *own, *places])

    def set_extra_state(self, state: Tensor) -> None:
        """Take over what a saved matrix knew; raise ``InputError`` where it was of another architecture."""
        number, self.weight_frac_bits, self.input_frac_bits, non_negative, held, varied, *places = state.tolist()
        if number != _number_of(self.architecture):
            allowed = "this matrix has another one, by which its conductances mean other weights: convert with the same"
            raise InputError("state_dict", "the state of a matrix of another architecture", allowed)
        self.non_negative, self.varied = bool(non_negative), bool(varied)
        self.points = BinaryPoints(self.weight_frac_bits + self.input_frac_bits, held)
        layout = self.layout.from_numbers(places)
        self.layout = layout.map_indices(lambda index: index.to(self.conductances.device))

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        """Loads a saved matrix, whose ADC ranges may have another shape or none at all."""
        if f"{prefix}conductances" in state_dict:
            step = state_dict.get(f"{prefix}adc_step")
            self.adc_step = None if step is None else torch.empty_like(step, device=self.conductances.device)
        super()._load_from_state_dict(state_dict, prefix, *args)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> CrossbarMatrix:
        moved: dict[int, Tensor] = {}

        def move(tensor: Tensor) -> Tensor:
            """Once for each tensor, so that the array goes on sharing them; never below float32."""
            if id(tensor) not in moved:
                new, wide = fn(tensor), (torch.float32, torch.float64)
                kept = new.dtype in wide and tensor.dtype in wide
                moved[id(tensor)] = new if kept else tensor.to(new.device)
            return moved[id(tensor)]

        array, self.emulator = map_tensors(self.tiles.array, move), moved_once(self.emulator, fn)
        super()._apply(move, recurse)
        self.layout = self.layout.map_indices(move)
        self.tiles = self._shortened(self.conductances, array, self.codes)
        return self


def _number_of(architecture: Architecture) -> int:
    """A number that tells architectures apart by which a saved state means different products."""
    told = {name: value for name, value in architecture.to_dict().items() if name not in _FREE}
    return int.from_bytes(hashlib.sha256(json.dumps(told, sort_keys=True).encode()).digest()[:7])


def _program_again(matrix: CrossbarMatrix, _: object) -> None:
    """Put loaded conductances on the tiles."""
    matrix._put(matrix.conductances)
    matrix.target_conductances = None


def _calibration_vectors(inputs: InputStatistics | float | None) -> Tensor:
    if not isinstance(inputs, InputStatistics) or not inputs.count:
        raise InputError(
            "architecture.adc_range",
            "'calibrated'",
            "it needs inputs to calibrate on: convert(..., calibration=images) or inputs=InputStatistics",
        )
    return inputs.vectors


def _towards_zero(value: Tensor, dtype: torch.dtype) -> Tensor:
    """``value`` rounded to ``dtype``, to no larger magnitude."""
    near = value.to(dtype)
    return torch.where(near.abs() > value.abs(), torch.nextafter(near, torch.zeros_like(near)), near)
