"""Strategies that draw tiles and vectors, and their mixtures."""

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from geniex.circuit import Crossbar
from geniex.errors import InputError
from geniex.mapping import ConductanceWindow
from geniex.networks import find_images, load_images, load_network
from geniex.sweep import CircuitRanges, SampleMix, SweepConfig, draw_tile, load_sweep_config
from geniex.sweep.sampling import draw_strategies, zero_share
from geniex.sweep.solving import solve_tiles

needs_images = pytest.mark.skipif(find_images("fashion-mnist") is None, reason="no Fashion-MNIST")


def _config(tiles_from: str | None = None, vectors_from: str | None = None, **changes) -> SweepConfig:
    fields = {"crossbar": Crossbar(24, 32), "window": ConductanceWindow(100e3, 6.0), "v_max": 0.25}
    mixes = {
        name: SampleMix(**{strategy: 1.0})
        for name, strategy in (("tiles_from", tiles_from), ("vectors_from", vectors_from))
        if strategy
    }
    return SweepConfig(**(fields | {"tiles": 200, "vectors": 4} | mixes | changes))


def _drawn(config: SweepConfig) -> tuple[np.ndarray, np.ndarray]:
    pairs = [draw_tile(config, tile) for tile in range(config.tiles)]
    return np.stack([codes for codes, _ in pairs]), np.stack([levels for _, levels in pairs])


@pytest.mark.parametrize("bits", [1, 4])
def test_uniform_levels_are_equally_likely_and_independent(bits: int) -> None:
    config = _config("uniform", "uniform", slice_bits=bits, stream_bits=bits)
    codes, levels = _drawn(config)
    for values in (codes, levels):
        share = np.bincount(values.ravel(), minlength=2**bits) / values.size
        # Four standard deviations of a share of 19200 vector levels.
        assert np.abs(share - 2**-bits).max() < 4 * np.sqrt(2**-bits / values.size)
    centred = codes - codes.mean()
    assert abs((centred[:, 1:] * centred[:, :-1]).mean()) < 0.02 * codes.var()


def test_sparse_tiles_and_vectors_follow_their_stratified_share_of_zeros() -> None:
    codes, levels = _drawn(_config("sparsity", "sparsity"))
    target = np.array([zero_share(0, "tile", t) for t in range(200)])
    assert np.abs((codes == 0).mean((1, 2)) - target).max() < 4 * 0.5 / np.sqrt(24 * 32)
    target = np.array([zero_share(0, "vector", k) for k in range(800)])
    assert np.abs((levels == 0).mean(2).ravel() - target).mean() < 0.1
    share = np.bincount(codes.ravel(), minlength=16)[1:] / (codes > 0).sum()
    assert np.abs(share - 1 / 15).max() < 0.004


def test_correlated_tiles_are_alike_along_rows_and_columns_in_all_degrees() -> None:
    codes, _ = _drawn(_config("correlated"))
    total = codes.var((1, 2))
    by_row, by_col = codes.mean(2).var(1) / total, codes.mean(1).var(1) / total
    for part in (by_row, by_col):
        # Independent cells would have 1/32 and 1/24.
        assert part.mean() > 0.2
        assert part.min() < 0.1
        assert part.max() > 0.7
    assert codes.mean((1, 2)).min() < 3
    assert codes.mean((1, 2)).max() > 12


def test_correlated_vectors_drift() -> None:
    _, levels = _drawn(_config(vectors_from="correlated"))
    vectors = levels.reshape(-1, 24).astype(float)
    centred = vectors - vectors.mean()
    near, far = (centred[:, :-k] * centred[:, k:] for k in (1, 12))
    assert near.mean() > 1.5 * far.mean()
    assert levels.min() == 0
    assert levels.max() == 15


@needs_images
def test_network_tiles_are_slices_of_its_weights() -> None:
    """Four neighbouring bit lines hold the digits of one 15-bit magnitude of W+ or W-, most significant first."""
    codes, _ = _drawn(_config("network", tiles=60))
    words = (codes.reshape(60, 24, 8, 4) * [4096, 256, 16, 1]).sum(-1)
    allowed = []
    for weight in (p.detach() for name, p in load_network("fashion-cnn").named_parameters() if "weight" in name):
        scale = 2 ** np.floor(np.log2((2**15 - 1) / weight.abs().max().item()))
        allowed.append(set(np.rint(weight.double().abs().numpy().ravel() * scale).astype(int)) | {0})
    for tile in words:
        assert any(set(tile.ravel()) <= layer for layer in allowed)
    assert (words > 0).any((1, 2)).mean() > 0.9


@needs_images
def test_network_vectors_are_streams_of_its_activations() -> None:
    _, levels = _drawn(_config("network", "network", crossbar=Crossbar(25, 16), tiles=40))
    network = load_network("fashion-cnn")
    images, _ = load_images("fashion-mnist", train=True).batch(torch.arange(64))
    with torch.no_grad():
        maps = [images]
        for conv in (network.conv1, network.conv2, network.conv3):
            maps.append(conv(maps[-1]).relu())
    geometry = ((5, 2), (3, 1), (3, 1))
    inputs = [F.unfold(x, k, padding=p, stride=2).mT.flatten(0, 1) for x, (k, p) in zip(maps, geometry, strict=False)]
    allowed = set()
    for layer in (*inputs, maps[3].flatten(1)):
        scale = 2 ** np.floor(np.log2((2**15 - 1) / layer.max().item()))
        words = np.rint(np.pad(layer.double().numpy() * scale, ((0, 0), (0, -layer.shape[1] % 25)))).astype(int)
        for shift in (12, 8, 4, 0):
            digits = (words >> shift & 15).astype(np.uint8).reshape(-1, 25)
            allowed.update(row.tobytes() for row in np.unique(digits, axis=0))
    vectors = levels.reshape(-1, 25).astype(np.uint8)
    # Where a tile's inputs are zero in all images looked at, one level is drawn instead.
    lone = np.count_nonzero(vectors, axis=1) == 1
    assert lone.mean() < 0.2
    assert all(row.tobytes() in allowed for row in vectors[~lone])


@needs_images
def test_vectors_of_a_network_go_with_its_tile() -> None:
    """Word lines beyond a layer's last input, level 0 in all of the tile's cells, are driven by nothing."""
    codes, levels = _drawn(_config("network", "network", crossbar=Crossbar(64, 64), slice_bits=4, tiles=60))
    last_rows = 64 - np.argmax(codes.any(2)[:, ::-1], axis=1)
    partial = (last_rows < 60) & codes.any((1, 2))  # the 25 inputs of the first layer, the rest of 144 and 288
    assert partial.sum() > 10
    beyond = [levels[k, :, last_rows[k] :].any() for k in np.flatnonzero(partial)]
    assert np.mean(beyond) < 0.1  # a lone level drawn for a vector of zeros may lie anywhere
    assert levels[partial, :, :16].any()


@needs_images
@pytest.mark.parametrize("shape", [(8, 8), (64, 64), (1, 1), (70, 3)])
@pytest.mark.parametrize("bits", [1, 6])
def test_network_fits_any_tile(shape: tuple[int, int], bits: int) -> None:
    config = _config("network", "network", crossbar=Crossbar(*shape), slice_bits=bits, stream_bits=bits, tiles=10)
    codes, levels = _drawn(config)
    assert 0 <= codes.min() <= codes.max() < 2**bits
    assert levels.any(-1).all()


def test_mixtures_follow_their_weights_and_every_tile_its_seed_and_index() -> None:
    mix = SampleMix(levels=1.0, uniform=2.0, correlated=1.0)
    config = _config(tiles_from="sparsity", vectors_from=None, tiles=1000).replace(vectors_from=mix)
    drawn = [draw_strategies(config, tile) for tile in range(1000)]
    assert {names[0] for names in drawn} == {"sparsity"}
    of_vectors = [name for names in drawn for name in names[1:]]
    for name, share in (("levels", 0.25), ("uniform", 0.5), ("correlated", 0.25), ("network", 0.0)):
        assert abs(of_vectors.count(name) / 4000 - share) < 0.03
    for a, b in zip(draw_tile(config, 9), draw_tile(config.replace(tiles=10, shard_tiles=1), 9), strict=True):
        np.testing.assert_array_equal(a, b)


def test_without_mixtures_levels_are_drawn_as_before() -> None:
    plain, mixed = _config(), _config("levels", "levels")
    for a, b in zip(draw_tile(plain, 3), draw_tile(mixed, 3), strict=True):
        np.testing.assert_array_equal(a, b)
    assert not {"tiles_from", "vectors_from"} & set(plain.to_dict())


def test_strategies_and_circuits_together() -> None:
    config = _config("correlated", "sparsity", crossbar=Crossbar(6, 5), circuits=CircuitRanges())
    data = solve_tiles(config, 0, 8)
    assert data.codes.shape == (8, 6, 5)
    assert (data.currents >= 0).all()


def test_yaml(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    base = "{preset: geniex-16, tiles: 8, vectors: 2, slice_bits: BITS, tiles_from: {WEIGHTS}}"
    path.write_text(base.replace("BITS", "4").replace("WEIGHTS", "levels: 1, network: 3"))
    assert load_sweep_config(path).tiles_from == SampleMix(levels=1, network=3)
    for bits, weights, message in (
        ("4", "leves: 1", "SampleMix.leves: got an unknown field"),
        ("4", "levels: -1", "levels: got -1"),
        ("4", "levels: 0", "weights of strategies: got all 0"),
        ("13", "network: 1", "slice_bits: got 13; it must be at most 12 where levels come from a network"),
    ):
        path.write_text(base.replace("BITS", bits).replace("WEIGHTS", weights))
        with pytest.raises(InputError) as error:
            load_sweep_config(path)
        assert message in str(error.value)
