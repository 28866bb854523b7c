"""The optimisation of a small network by Lightning: AdamW with a one-cycle learning rate, under a constraint.

This module alone imports Lightning, which takes seconds, so that all other uses of networks start without it.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import lightning
import torch
from lightning.pytorch.callbacks import RichProgressBar
from torch import Tensor, nn
from torch.nn import functional

from geniex.networks.constraint import Constraint
from geniex.quiet import quiet_lightning


def optimise(
    network: nn.Module,
    batches: Iterable[tuple[Tensor, Tensor]],
    constraint: Constraint,
    *,
    epochs: int,
    learning_rate: float,
    weight_decay: float,
    progress: bool = False,
    device: torch.device | str | None = None,
) -> None:
    """Train ``network`` in place on ``batches`` of images and labels; it ends in eval mode on the CPU.

    Args:
        network: the network, whose logits are compared with the labels by cross entropy.
        batches: the batches of one epoch, which every epoch iterates anew; their number must be known by ``len``.
        constraint: masks and limits that hold from the beginning and after every step.
        epochs: passes over ``batches``.
        learning_rate: peak learning rate of the one-cycle schedule.
        weight_decay: decoupled weight decay of AdamW.
        progress: show a progress bar.
        device: the device to train on; None takes the fastest one on this machine.
    """
    with quiet_lightning():
        trainer = lightning.Trainer(
            **trainer_hardware(device),
            max_epochs=epochs,
            logger=False,
            enable_checkpointing=False,
            enable_model_summary=False,
            enable_progress_bar=progress,
            callbacks=[RichProgressBar()] if progress else None,
        )
        network.train()  # a network that was trained before is in eval mode, and Lightning would keep it there
        trainer.fit(_Classification(network, constraint, learning_rate, weight_decay), batches)
    network.cpu().eval()


def trainer_hardware(device: torch.device | str | None) -> dict[str, Any]:
    """Lightning's arguments for ``device``; it is a single one, because the batches cannot be split over several."""
    if device is None:
        return {"accelerator": "auto", "devices": 1}
    where = torch.device(device)
    if where.type == "cpu":
        return {"accelerator": "cpu", "devices": 1}
    return {"accelerator": where.type, "devices": 1 if where.index is None else [where.index]}


class _Classification(lightning.LightningModule):
    def __init__(self, network: nn.Module, constraint: Constraint, learning_rate: float, weight_decay: float) -> None:
        super().__init__()
        self.network, self.constraint = network, constraint
        self.learning_rate, self.weight_decay = learning_rate, weight_decay

    def on_train_start(self) -> None:
        self.constraint = self.constraint.to(self.device)
        self.constraint.enforce(self.network)

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        # Every batch is one optimiser step.
        self.constraint.enforce(self.network)

    def training_step(self, batch: tuple[Tensor, Tensor], index: int) -> Tensor:
        images, labels = batch
        loss = functional.cross_entropy(self.network(images), labels)
        self.log("loss", loss, prog_bar=True, batch_size=len(labels))
        return loss

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.AdamW(self.network.parameters(), lr=self.learning_rate, weight_decay=self.weight_decay)
        steps = int(self.trainer.estimated_stepping_batches)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, self.learning_rate, total_steps=steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}
