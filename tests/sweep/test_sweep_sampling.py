import numpy as np
import pytest

from geniex.circuit import Crossbar
from geniex.mapping import ConductanceWindow
from geniex.sweep import SweepConfig, draw_tile
from geniex.sweep.sampling import zero_share


def _config(**changes) -> SweepConfig:
    fields = {"crossbar": Crossbar(32, 32), "window": ConductanceWindow(100e3, 6.0), "v_max": 0.25}
    return SweepConfig(**(fields | {"tiles": 400, "vectors": 4} | changes))


def _drawn(config: SweepConfig) -> tuple[np.ndarray, np.ndarray]:
    pairs = [draw_tile(config, tile) for tile in range(config.tiles)]
    return np.stack([codes for codes, _ in pairs]), np.stack([levels for _, levels in pairs])


@pytest.mark.parametrize(("slice_bits", "stream_bits"), [(1, 1), (2, 1), (4, 4), (3, 5), (8, 8), (16, 16)])
def test_every_draw_is_a_level(slice_bits: int, stream_bits: int) -> None:
    codes, levels = _drawn(_config(slice_bits=slice_bits, stream_bits=stream_bits, tiles=60))
    assert codes.min() == 0
    assert levels.min() == 0
    # Uniform words reach the top level too, except that 16 bits have too many levels to hit the very last.
    assert 0.99 * (2**slice_bits - 1) <= codes.max() <= 2**slice_bits - 1
    assert 0.99 * (2**stream_bits - 1) <= levels.max() <= 2**stream_bits - 1


def test_all_levels_occur() -> None:
    codes, levels = _drawn(_config(tiles=60))
    assert set(np.unique(codes)) == set(np.unique(levels)) == set(range(16))


@pytest.mark.parametrize("kind", ["tile", "vector"])
@pytest.mark.parametrize("start", [0, 1000])
def test_zero_shares_are_stratified_over_any_run(kind: str, start: int) -> None:
    shares = [zero_share(3, kind, k) for k in range(start, start + 200)]
    counts, _ = np.histogram(shares, bins=20, range=(0, 1))
    # Independent draws would scatter by sqrt(10) = 3; a low-discrepancy sequence by about 1.
    assert np.abs(counts - 10).max() <= 2


def test_tile_and_vector_shares_cover_the_square() -> None:
    pairs = [(zero_share(0, "tile", t), zero_share(0, "vector", 4 * t + v)) for t in range(400) for v in range(4)]
    counts, _, _ = np.histogram2d(*np.transpose(pairs), bins=8, range=((0, 1), (0, 1)))
    assert counts.min() >= 12  # of 25 on average


def test_zeros_follow_the_target_where_no_level_is_zero_by_itself() -> None:
    codes, levels = _drawn(_config(dnn_share=0.0))
    target = np.array([zero_share(0, "tile", t) for t in range(400)])
    # Whole rows and columns scatter the share of one tile by up to 0.2; cells alone by 0.016.
    assert np.abs((codes == 0).mean((1, 2)) - target).mean() < 0.05
    target = np.array([zero_share(0, "vector", k) for k in range(1600)]).reshape(400, 4)
    assert np.abs((levels == 0).mean(2) - target).mean() < 0.08


def test_sparsity_of_both_reaches_both_ends() -> None:
    codes, levels = _drawn(_config())
    for zeros in ((codes == 0).mean((1, 2)), (levels == 0).mean(2).ravel()):
        counts, _ = np.histogram(zeros, bins=10, range=(0, 1))
        assert counts.min() >= 0.03 * zeros.size


def test_no_vector_is_all_zero() -> None:
    _, levels = _drawn(_config(crossbar=Crossbar(2, 2)))
    assert levels.any(-1).all()


def test_whole_rows_and_columns_are_zero_in_some_dense_tiles() -> None:
    codes, _ = _drawn(_config(dnn_share=0.0))
    some = (codes == 0).mean((1, 2)) < 0.5
    dead_rows, dead_cols = (~codes[some].any(2)).any(1), (~codes[some].any(1)).any(1)
    assert 0.2 < dead_rows.mean() < 0.6
    assert 0.2 < dead_cols.mean() < 0.6


def test_network_tiles_have_sparse_low_high_slices_and_uniform_low_slices() -> None:
    codes, _ = _drawn(_config(dnn_share=1.0))
    slices = codes.reshape(400, 32, 8, 4)
    filled = (slices > 0).mean((0, 1, 2))
    assert (np.diff(filled) > -0.01).all()  # most significant first, and sparsest
    assert filled[0] < 0.5 * filled[3]
    low = slices[..., 3][slices[..., 3] > 0]
    assert abs(low.mean() - 8) < 0.3  # uniform over 1..15
    high = slices[..., 0][slices[..., 0] > 0]
    assert high.mean() < 6


def test_half_of_the_space_filling_tiles_are_uniform_the_rest_skewed_low() -> None:
    codes, _ = _drawn(_config(dnn_share=0.0))
    many = [tile[tile > 0] for tile in codes if (tile > 0).sum() > 200]
    means = np.array([values.mean() for values in many])
    uniform = np.abs(means - 8) < 1
    assert 0.4 < uniform.mean() < 0.7
    assert means[~uniform].max() < 8


def test_a_tile_depends_on_seed_and_index_alone() -> None:
    few, many = _config(tiles=5), _config(tiles=500, shard_tiles=3)
    for tile in (0, 4):
        for a, b in zip(draw_tile(few, tile), draw_tile(many, tile), strict=True):
            np.testing.assert_array_equal(a, b)


def test_seeds_and_tiles_differ() -> None:
    first = draw_tile(_config(), 0)[0]
    assert (first != draw_tile(_config(seed=1), 0)[0]).any()
    assert (first != draw_tile(_config(), 1)[0]).any()
