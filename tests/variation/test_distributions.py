"""Spread, programming, faults and ageing against scipy's distributions and closed forms."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from geniex.errors import InputError
from geniex.mapping import ConductanceWindow
from geniex.variation import (
    ConductanceSpread,
    Drift,
    FiniteStates,
    LevelSpread,
    LogLine,
    ProgrammingError,
    RangeSpread,
    Retention,
    StuckCells,
    StuckLines,
    Variation,
    Variations,
    pcm,
)

WINDOW = ConductanceWindow(50e3, 10.0)
G_ON, G_OFF = WINDOW.g_on, WINDOW.g_off
P = 1e-4
"""Significance: with fixed seeds a test passes or fails for good."""


def drawn(variation: Variation, g: float, shape: tuple[int, ...] = (20, 64, 64), seed: int = 0) -> Tensor:
    cells = torch.full(shape, g, dtype=torch.float64)
    return variation.apply(cells, WINDOW, torch.Generator().manual_seed(seed))


def follows(values: Tensor, distribution: object) -> bool:
    """Whether a Kolmogorov-Smirnov test does not reject it."""
    return bool(stats.kstest(values.flatten().numpy(), distribution.cdf).pvalue > P)  # type: ignore[attr-defined]


def test_normal_spread_is_relative_to_the_conductance() -> None:
    for g in (G_OFF, 0.7 * G_ON):
        assert follows(drawn(ConductanceSpread(0.1), g), stats.norm(g, 0.1 * g))


def test_lognormal_spread_keeps_the_median() -> None:
    assert follows(drawn(ConductanceSpread(0.5, "lognormal"), G_ON), stats.lognorm(0.5, scale=G_ON))


def test_spread_of_an_array_is_one_factor_for_all_its_cells() -> None:
    factors = drawn(ConductanceSpread(0.1, per="array"), G_ON, (3000, 4, 4)) / G_ON
    assert torch.equal(factors, factors[:, :1, :1].expand_as(factors))
    assert follows(factors[:, 0, 0], stats.norm(1, 0.1))


@pytest.mark.parametrize(("g", "sigma"), [(G_ON, 0.1), (G_OFF, 0.3)])
def test_spread_of_the_range_moves_its_ends_like_their_resistances(g: float, sigma: float) -> None:
    resistances = 1 / drawn(RangeSpread(0.1, 0.3), g)
    assert follows(resistances, stats.lognorm(sigma, scale=1 / g))


def test_normal_spread_of_the_range_is_one_of_resistances() -> None:
    assert follows(1 / drawn(RangeSpread(0.2, 0.1, "normal"), G_ON), stats.norm(1 / G_ON, 0.2 / G_ON))


def test_spread_of_the_range_keeps_the_place_between_its_ends() -> None:
    g = torch.tensor([[G_OFF, G_OFF + 0.25 * (G_ON - G_OFF), G_ON]], dtype=torch.float64)
    off, between, on = RangeSpread(0.2, 0.4, "normal", per="array").apply(g, WINDOW, torch.Generator())[0].tolist()
    assert (off, on) != pytest.approx((G_OFF, G_ON), rel=1e-3)
    assert between == pytest.approx(0.75 * off + 0.25 * on, rel=1e-12)


def test_spread_by_level_follows_its_table() -> None:
    table = LevelSpread(sigmas=(0.01, 0.03, 0.02), shifts=(0.0, -0.05, 0.05))
    middle = (G_ON + G_OFF) / 2
    assert follows(drawn(table, middle), stats.norm(middle - 0.05 * G_ON, 0.03 * G_ON))
    assert follows(drawn(table, (G_ON + middle) / 2), stats.norm((G_ON + middle) / 2, 0.025 * G_ON))
    assert follows(drawn(table, G_ON), stats.norm(1.05 * G_ON, 0.02 * G_ON))


def test_finite_states_are_numpys_nearest(generator: torch.Generator) -> None:
    g = G_OFF + (G_ON - G_OFF) * torch.rand(30, 30, generator=generator, dtype=torch.float64)
    states = np.linspace(G_OFF, G_ON, 5)
    nearest = states[np.abs(g.numpy()[..., None] - states).argmin(-1)]
    assert np.allclose(FiniteStates(5).apply(g, WINDOW, generator).numpy(), nearest, rtol=1e-12, atol=0)
    at_states = torch.from_numpy(states)[None]
    assert torch.equal(FiniteStates(5).apply(at_states, WINDOW, generator), at_states)


def test_programming_error_is_a_polynomial_of_the_target() -> None:
    share = 0.4
    error = ProgrammingError((0.01, 0.08, -0.05))
    expected = 0.01 + 0.08 * share - 0.05 * share**2
    assert follows(drawn(error, share * G_ON), stats.norm(share * G_ON, expected * G_ON))
    assert torch.all(drawn(ProgrammingError((-0.1,)), G_ON) == G_ON)


@pytest.mark.parametrize("attempts", [1, 2, 5])
def test_write_verify_leaves_as_many_cells_wrong_as_independent_tries_do(attempts: int) -> None:
    sigma, tolerance = 0.05, 0.03
    error = drawn(ProgrammingError((sigma,), tolerance, attempts), 0.5 * G_ON) - 0.5 * G_ON
    wrong = error.abs() > tolerance * G_ON
    share = (2 * stats.norm.sf(tolerance / sigma)) ** attempts
    assert stats.binomtest(int(wrong.sum()), wrong.numel(), share).pvalue > P
    inside = error[~wrong] / (sigma * G_ON)
    assert follows(inside, stats.truncnorm(-tolerance / sigma, tolerance / sigma))


def test_write_verify_meets_its_tolerance_with_attempts_enough() -> None:
    error = drawn(ProgrammingError((0.05,), 0.03, 100), 0.5 * G_ON) - 0.5 * G_ON
    assert error.abs().max() <= 0.03 * G_ON


@pytest.mark.parametrize("cluster", [1, 4])
def test_stuck_cells_have_their_probability(cluster: int) -> None:
    got = drawn(StuckCells(off=0.02, on=0.09, cluster=cluster), 0.5 * G_ON, (400, 32, 32))
    # Cells a square apart are independent in clusters too.
    apart = got[..., ::cluster, ::cluster]
    for value, share in ((G_OFF, 0.02), (G_ON, 0.09), (0.5 * G_ON, 0.89)):
        assert stats.binomtest(int((apart == value).sum()), apart.numel(), share).pvalue > P


def test_stuck_cells_are_none_all_or_exactly_the_rest() -> None:
    assert torch.all(drawn(StuckCells(0.0, 0.0), 0.5 * G_ON) == 0.5 * G_ON)
    assert torch.all(drawn(StuckCells(1.0, 0.0), 0.5 * G_ON) == G_OFF)
    assert torch.all(drawn(StuckCells(0.0, 1.0), 0.5 * G_ON) == G_ON)
    half = drawn(StuckCells(0.3, 0.7), 0.5 * G_ON)
    assert int((half == G_OFF).sum() + (half == G_ON).sum()) == half.numel()


def test_clustered_faults_have_faulty_neighbours_as_the_field_correlates() -> None:
    """Fields of neighbours share edge (edge - 1) of edge^2 draws: a bivariate normal gives both being faulty."""
    edge, share = 4, 0.1
    stuck = drawn(StuckCells(share, 0.0, cluster=edge), 0.5 * G_ON, (1500, 16, 16)) == G_OFF
    both = float((stuck[:, :, 1:] & stuck[:, :, :-1]).double().mean())
    end = stats.norm.ppf(share)
    expected = stats.multivariate_normal([0, 0], [[1, 1 - 1 / edge], [1 - 1 / edge, 1]]).cdf([end, end])
    assert both == pytest.approx(float(expected), rel=0.05)  # sampling: 36 000 pairs, correlated within an array
    assert both > 4 * share**2


def test_stuck_lines_are_whole_and_have_their_probability() -> None:
    got = drawn(StuckLines(word_lines=0.1, bit_lines=0.2, at="on"), G_OFF, (300, 20, 30)) == G_ON
    words, bits = got.all(-1), got.all(-2)
    assert torch.equal(got, words[:, :, None] | bits[:, None, :])
    assert stats.binomtest(int(words.sum()), words.numel(), 0.1).pvalue > P
    assert stats.binomtest(int(bits.sum()), bits.numel(), 0.2).pvalue > P
    assert torch.all(drawn(StuckLines(word_lines=1.0), G_ON) == 0)
    assert torch.all(drawn(StuckLines(bit_lines=1.0, at="off"), G_ON) == G_OFF)


def test_drift_is_its_closed_form() -> None:
    got = drawn(Drift(2e4, nu=0.05, t0=20.0), 0.5 * G_ON, (4, 4))
    assert torch.allclose(got, torch.full_like(got, 0.5 * G_ON * 1000**-0.05), rtol=1e-13, atol=0)


def test_drift_exponents_spread() -> None:
    exponents = -(drawn(Drift(2e4, nu=0.05, spread=0.01), G_ON) / G_ON).log() / math.log(1000)
    assert follows(exponents, stats.norm(0.05, 0.01))
    folded = -(drawn(Drift(2e4, nu=0.01, spread=0.01), G_ON) / G_ON).log() / math.log(1000)
    assert follows(folded, stats.foldnorm(1.0, scale=0.01))


def test_pcm_is_aihwkits_formulas() -> None:
    """Written down again from IBM's documentation, at a share x of G_on."""
    programming, drift = pcm(86400.0).steps
    for share in (0.001, 0.05, 0.4, 1.0):
        g = torch.tensor([[share * G_ON]], dtype=torch.float64)
        sigma = max(-1.1731 * share**2 + 1.9650 * share + 0.26348, 0) / 25 * G_ON
        assert isinstance(programming, ProgrammingError)
        assert programming.deviation(g, WINDOW).item() == pytest.approx(sigma, rel=1e-12)
        nu = min(max(-0.0155 * math.log(share) + 0.0244, 0.049), 0.1)
        spread = min(max(-0.0125 * math.log(share) - 0.0059, 0.008), 0.045)
        exponents = -(drawn(drift, share * G_ON) / (share * G_ON)).log() / math.log(86400 / 20)
        assert follows(exponents, stats.foldnorm(nu / spread, scale=spread))
    noise = pcm(20.0).read_noise
    assert noise is not None
    assert noise.relative == pytest.approx(0.0088 * math.sqrt(math.log(20 / 500e-9)), rel=1e-6)


def test_retention_is_its_closed_form() -> None:
    level = G_OFF + 0.3 * (G_ON - G_OFF)
    for g in (G_OFF, 0.8 * G_ON):
        got = drawn(Retention(1e3, tau=5e3, level=0.3, stretch=0.6), g, (2, 2))[0, 0].item()
        assert got == pytest.approx(level + (g - level) * math.exp(-((1e3 / 5e3) ** 0.6)), rel=1e-12)
    taus = -1e3 / (drawn(Retention(1e3, tau=5e3, spread=0.5), G_ON) / G_OFF - 1).div(G_ON / G_OFF - 1).log()
    assert follows(taus, stats.lognorm(0.5, scale=5e3))


OFF = [
    ConductanceSpread(0.0),
    ConductanceSpread(0.0, "lognormal", "array"),
    RangeSpread(0.0, 0.0),
    LevelSpread((0.0, 0.0)),
    ProgrammingError((0.0,)),
    StuckCells(0.0, 0.0),
    StuckLines(),
    Drift(20.0, nu=0.1, spread=0.1),
    Retention(0.0, tau=1.0),
    Variations(),
]
STRONG = [
    ConductanceSpread(3.0),
    ConductanceSpread(1.0, "lognormal"),
    RangeSpread(0.5, 2.0, "normal"),
    LevelSpread((1.0, 1.0)),
    ProgrammingError((1.0,)),
    StuckCells(0.5, 0.5),
    StuckLines(0.5, 0.5, "on"),
    Drift(1e9, nu=0.1, spread=0.3),
    Drift(1e9, nu=LogLine(0.0, -0.1, 0.0, 0.2)),
    Retention(1.0, tau=1.0, level=1.0),
    FiniteStates(2),
    Variations((ProgrammingError((1.0,)), StuckCells(0.1, 0.4), Drift(1e6, nu=0.1))),
]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("variation", OFF, ids=lambda v: type(v).__name__)
def test_off_is_exactly_off(variation: Variation, dtype: torch.dtype, generator: torch.Generator) -> None:
    g = G_ON * torch.rand(5, 7, generator=generator).to(dtype)
    assert torch.equal(variation.apply(g, WINDOW, generator), g)


@pytest.mark.parametrize("variation", STRONG, ids=lambda v: type(v).__name__)
def test_laws(variation: Variation, generator: torch.Generator) -> None:
    """Never below 0 S, open cells stay open, the original is untouched, dictionaries round-trip, seeds repeat."""
    g = G_ON * torch.rand(2, 20, 20, generator=generator)
    g[:, 3:6, 2:9] = 0
    before = g.clone()
    got = variation.apply(g, WINDOW, torch.Generator().manual_seed(1))
    assert torch.equal(g, before)
    assert got.dtype == g.dtype
    assert got.shape == g.shape
    assert not torch.equal(got, g)
    assert torch.isfinite(got).all()
    assert got.min() >= 0
    assert torch.all(got[:, 3:6, 2:9] == 0)
    again = Variation.from_dict(variation.to_dict())
    assert again == variation
    assert torch.equal(again.apply(g, WINDOW, torch.Generator().manual_seed(1)), got)


@pytest.mark.parametrize("variation", STRONG[:-1], ids=lambda v: type(v).__name__)
def test_steps_look_at_no_value(variation: Variation) -> None:
    """Anything that waits for a number fails on tensors that have none."""
    with FakeTensorMode():
        got = variation.apply(torch.full((2, 5, 6), G_ON), WINDOW, torch.Generator())
    assert got.shape == (2, 5, 6)


def test_bad_values_are_named() -> None:
    for make, name in (
        (lambda: ConductanceSpread(-0.1), "sigma"),
        (lambda: ConductanceSpread(0.1, "uniform"), "distribution"),  # type: ignore[arg-type]
        (lambda: RangeSpread(0.1, 0.1, per="row"), "per"),  # type: ignore[arg-type]
        (lambda: LevelSpread((0.1,)), "sigmas"),
        (lambda: LevelSpread((0.1, 0.1), (0.1,)), "shifts"),
        (lambda: ProgrammingError((0.1,), attempts=3), "attempts"),
        (lambda: ProgrammingError(()), "sigma"),
        (lambda: FiniteStates(1), "states"),
        (lambda: StuckCells(0.6, 0.6), "on"),
        (lambda: StuckCells(1.1, 0.0), "off"),
        (lambda: StuckLines(at="shut"), "at"),  # type: ignore[arg-type]
        (lambda: Drift(1.0, nu=0.1), "seconds"),
        (lambda: Retention(1.0, tau=0.0), "tau"),
        (lambda: Variations((3,)), "steps"),  # type: ignore[arg-type]
    ):
        with pytest.raises(InputError) as caught:
            make()
        assert caught.value.name == name
