"""Training on a real small sweep: the split, the loaders, determinism, and what it gains over the ideal product."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from geniex.errors import InputError
from geniex.surrogate import (
    SweepDataModule,
    TrainConfig,
    load_surrogate,
    save_surrogate,
    split_tiles,
    train_surrogate,
)
from geniex.surrogate.mlp.tiles import read_batch
from geniex.surrogate.mlp.train import one_cycle
from geniex.sweep import SweepFile

CONFIG = TrainConfig(hidden=64, epochs=60, batch_tiles=32, lr=3e-3)


@pytest.mark.parametrize("tiles", [3, 10, 97, 4000])
def test_split_puts_every_tile_in_exactly_one_part(tiles):
    split = split_tiles(tiles, seed=1)
    parts = torch.cat([split.train, split.val, split.test])
    assert torch.equal(parts.sort().values, torch.arange(tiles))
    assert len(split.val) == len(split.test) == max(1, round(0.1 * tiles))


def test_split_follows_the_seed_alone():
    first, again, other = split_tiles(100, 5), split_tiles(100, 5), split_tiles(100, 6)
    assert torch.equal(first.test, again.test)
    assert not torch.equal(first.test, other.test)


def test_too_few_tiles_to_split():
    with pytest.raises(InputError, match="tiles: got 2"):
        split_tiles(2, 0)


def test_samples_are_those_of_the_file_whatever_the_block(small_sweep):
    module = SweepDataModule(small_sweep)
    sweep, tiles = module.sweep, module.split.train
    whole = read_batch(sweep, tiles, module.scalers)
    for ours, theirs in zip(whole, read_batch(sweep, tiles, module.scalers, at_once=7), strict=True):
        assert torch.equal(ours, theirs)
    g, v, currents = sweep.read(int(tiles[4]), int(tiles[4]) + 1)
    f_r = torch.einsum("tvi,tij->tvj", v, g) / currents
    scaled = (f_r - module.scalers.r_min) / (module.scalers.r_max - module.scalers.r_min)
    torch.testing.assert_close(whole.ratios[4:5], scaled.float(), rtol=1e-6, atol=1e-6)


def test_ratio_range_is_the_training_tiles_own(small_sweep):
    batch = (module := SweepDataModule(small_sweep)).scalers
    known = read_batch(module.sweep, module.split.train, batch)
    assert known.ratios[known.known].min() == 0
    assert known.ratios[known.known].max() == 1


@pytest.mark.parametrize(("workers", "start"), [(0, None), (1, "spawn"), (1, "fork")])
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded, use of fork:DeprecationWarning")
def test_loader_gives_every_training_tile_once_an_epoch(small_sweep, workers, start):
    module = SweepDataModule(small_sweep, batch_tiles=48, num_workers=workers, start_method=start)
    expected = read_batch(module.sweep, module.split.train, module.scalers)  # opens the file here first
    loader = module.train_dataloader()
    batches = list(loader)
    assert [len(b.conductances) for b in batches] == [48] * 6 + [32]
    seen = torch.cat([b.conductances for b in batches])
    assert not torch.equal(seen, expected.conductances)

    def tile_sums(tiles: torch.Tensor) -> torch.Tensor:
        return tiles.double().flatten(1).sum(1).sort().values

    assert torch.equal(tile_sums(seen), tile_sums(expected.conductances))


@pytest.mark.slow
def test_training_beats_the_ideal_product_and_is_deterministic(small_sweep, tmp_path):
    figures: list[float] = []
    first = train_surrogate(small_sweep, CONFIG, on_epoch=lambda epoch, figure: figures.append(figure))
    held_out = first.info["held_out"]
    assert held_out["nf_rmse_pp"] < 0.5 * held_out["ideal_nf_rmse_pp"]
    assert len(figures) == CONFIG.epochs
    assert first.info["validation_nf_rmse_pp"] == min(figures)
    torch.manual_seed(99)  # a caller's random state has no say
    second = train_surrogate(small_sweep, CONFIG)
    for name, tensor in first.state_dict().items():
        assert torch.equal(tensor, second.state_dict()[name])
    other = train_surrogate(small_sweep, CONFIG.replace(seed=1, epochs=1))
    assert not torch.equal(first.output.weight, other.output.weight)
    loaded = load_surrogate(save_surrogate(first, tmp_path / "mlp"))
    assert loaded.info == first.info
    sweep = SweepFile(small_sweep)
    assert loaded.info["data"]["digest"] == sweep.digest
    loaded.check(sweep.crossbar, sweep.window, sweep.v_max)


def test_columns_without_ideal_current_count_for_nothing(small_sweep, monkeypatch):
    """Half of the vectors turned off: their columns have I = I_ideal = 0 and no ratio."""
    read = SweepFile.read

    def dark(self: SweepFile, start: int, stop: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        g, v, currents = read(self, start, stop)
        v[:, 0], currents[:, 0] = 0.0, 0.0
        return g, v, currents

    monkeypatch.setattr(SweepFile, "read", dark)
    surrogate = train_surrogate(small_sweep, CONFIG.replace(epochs=2))
    assert all(torch.isfinite(t).all() for t in surrogate.state_dict().values())
    assert surrogate.info["held_out"]["nf_rmse_pp"] < 100
    g, v, _ = SweepFile(small_sweep).read(0, 2)
    assert torch.equal(surrogate(v, g[:, None])[:, 0], torch.zeros(2, 8, dtype=torch.float64))


def test_training_leaves_the_callers_random_state_alone(small_sweep):
    before = torch.get_rng_state()
    train_surrogate(small_sweep, CONFIG, fast_dev_run=True)
    assert torch.equal(torch.get_rng_state(), before)


def test_csv_of_every_epoch(small_sweep, tmp_path: Path):
    figures: list[float] = []
    log = tmp_path / "log.csv"
    train_surrogate(
        small_sweep, CONFIG.replace(epochs=2), csv=log, on_epoch=lambda epoch, figure: figures.append(figure)
    )
    header, *rows = (line.split(",") for line in log.read_text().splitlines())
    assert header == ["epoch", "train_loss", "val_nf_rmse_pp", "lr"]
    assert [row[0] for row in rows] == ["1", "2"]
    assert [float(row[2]) for row in rows] == figures
    assert float(rows[-1][3]) == 0
    assert float(rows[1][1]) < float(rows[0][1])


def test_learning_rate_rises_then_falls_to_zero():
    factors = [one_cycle(step, 100) for step in range(101)]
    assert factors[0] == pytest.approx(0.1)
    assert max(factors) == pytest.approx(factors[9], abs=0.05)
    assert factors[100] == 0
    assert one_cycle(0, 1) == 1


@pytest.mark.parametrize(
    "changes", [{"hidden": 0}, {"epochs": 0}, {"lr": 0.0}, {"weight_decay": -1.0}, {"patience": 0}]
)
def test_bad_settings(changes):
    with pytest.raises(InputError, match=next(iter(changes))):
        CONFIG.replace(**changes)
