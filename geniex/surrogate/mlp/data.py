"""A sweep file as Lightning data, split by tile; each process that needs the file opens and reads it itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from geniex.config import check_positive_int
from geniex.errors import InputError
from geniex.surrogate.mlp.scalers import Scalers
from geniex.surrogate.mlp.tiles import TileBatch, read_batch, read_ratios, split_tiles
from geniex.sweep import SweepFile


class TileDataset(Dataset[TileBatch]):
    """Samples of some tiles; the loader asks for a whole batch of tiles at once and gets one ``TileBatch``.

    The file is read at the first batch, by the process that asks for it, so that a loader's worker opens it itself.
    """

    def __init__(self, sweep: SweepFile, tiles: Tensor, scalers: Scalers) -> None:
        self.sweep, self.tiles, self.scalers = sweep, tiles, scalers
        self._samples: TileBatch | None = None

    def __len__(self) -> int:
        return self.tiles.numel()

    def __getitem__(self, index: int) -> TileBatch:
        return self.__getitems__([index])

    def __getitems__(self, indices: list[int]) -> TileBatch:
        """The samples of a batch of tiles (torch's loader protocol for batched datasets)."""
        if self._samples is None:
            self._samples = read_batch(self.sweep, self.tiles, self.scalers)
        return self._samples.select(torch.tensor(indices))

    def __getstate__(self) -> dict[str, object]:
        return self.__dict__ | {"_samples": None}


class SweepDataModule(lightning.LightningDataModule):
    """Training, validation and test tiles of a sweep file, and the scalers fitted to its training tiles.

    Args:
        path: the sweep's HDF5 file.
        batch_tiles: tiles in a training batch, each with all its vectors.
        seed: seed of the split and of the shuffling.
        num_workers: loader processes, each of which holds its tiles in memory as float32; 0 reads in this process.
        start_method: how workers start, "spawn" or "fork"; None is the platform's default.
    """

    def __init__(
        self,
        path: str | Path,
        batch_tiles: int = 64,
        seed: int = 0,
        num_workers: int = 0,
        start_method: str | None = None,
    ) -> None:
        super().__init__()
        check_positive_int("batch_tiles", batch_tiles)
        if num_workers < 0:
            raise InputError("num_workers", num_workers, "it must be at least 0")
        self.batch_tiles, self.num_workers, self.start_method = batch_tiles, num_workers, start_method
        self.path, self.sweep = Path(path), SweepFile(path)
        if self.sweep.config.circuits is not None:
            raise InputError(
                "data", path, "its circuits differ, but a GENIEx network stands for one circuit: sweep that circuit"
            )
        self.split = split_tiles(self.sweep.tiles, seed)
        ratios = read_ratios(self.sweep, self.split.train)
        self.scalers = Scalers.fit(self.sweep.window, self.sweep.v_max, ratios)
        self._shuffling = torch.Generator().manual_seed(seed)

    def train_dataloader(self) -> DataLoader[TileBatch]:
        """Shuffled batches of training tiles."""
        return self._loader(self.split.train, shuffle=True)

    def val_dataloader(self) -> DataLoader[TileBatch]:
        """Batches of validation tiles, in order."""
        return self._loader(self.split.val)

    def test_dataloader(self) -> DataLoader[TileBatch]:
        """Batches of held-out tiles, in order."""
        return self._loader(self.split.test)

    def state_dict(self) -> dict[str, Any]:
        """The state of the shuffling, for a checkpoint."""
        return {"shuffling": self._shuffling.get_state()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue the shuffling from a checkpoint."""
        self._shuffling.set_state(state_dict["shuffling"])

    def _loader(self, tiles: Tensor, shuffle: bool = False) -> DataLoader[TileBatch]:
        return DataLoader(
            TileDataset(self.sweep, tiles, self.scalers),
            batch_size=self.batch_tiles,
            shuffle=shuffle,
            generator=self._shuffling if shuffle else None,
            collate_fn=_as_is,
            num_workers=self.num_workers,
            multiprocessing_context=self.start_method if self.num_workers else None,
            persistent_workers=self.num_workers > 0,
        )


def _as_is(batch: Any) -> Any:
    return batch
