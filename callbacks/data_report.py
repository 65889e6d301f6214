"""What the dataset looks like, and what the critics make of it, on TensorBoard."""

from typing import Any, ClassVar

import lightning as L
import torch
from lightning.pytorch.loggers import TensorBoardLogger

from edp_lightning.data.transitions import Batch
from edp_lightning.option_bounds import check_bounds

ROWS = 4096
"""Dataset rows in a histogram: enough for its shape, cheap with 64 critics."""


class DataReport(L.Callback):
    """Logs the data card as text, and histograms of dataset actions, of Q on the data and of the policy's actions.

    Args:
        every_n_steps: Gradient steps between the histograms of Q and of the policy's actions.
    """

    at_least: ClassVar[dict[str, float]] = {"every_n_steps": 1}

    def __init__(self, every_n_steps: int = 10_000) -> None:
        check_bounds("data_report", {"every_n_steps": every_n_steps}, self)
        self.every_n_steps = every_n_steps

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Log the data card and the dataset's actions once, at the beginning of a run."""
        writer = self._writer(trainer)
        if writer is None or trainer.global_step > 0:
            return
        data = trainer.datamodule  # type: ignore[attr-defined]
        writer.add_text("data/card", data.card.markdown(), 0)
        writer.add_scalar("data/global_batch_size", data.hparams["batch_size"] * trainer.world_size, 0)
        action = data.transitions.action
        for index, column in enumerate(action[:: max(1, len(action) // 100_000)].T.cpu()):
            writer.add_histogram(f"data/action_{index}", column, 0)

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *args: object) -> None:
        """Log the histograms when they are due."""
        writer = self._writer(trainer) if trainer.global_step % self.every_n_steps == 0 else None
        if writer is None:
            return
        table = trainer.datamodule.table  # type: ignore[attr-defined]
        rows = torch.linspace(0, len(table) - 1, min(ROWS, len(table)), dtype=torch.float64).long().to(table.rows.device)
        module: Any = pl_module
        data = Batch(*(column.to(module.device) for column in table.gather(rows)))
        with torch.no_grad():
            observation = module.normalizer(data.observation)
            q = None if module.critics is None else module.critics.online(observation, data.action)
            action = module.draw_actions(observation, torch.Generator().manual_seed(0))
        if q is not None:
            writer.add_histogram("critic/q_on_data", q.mean(dim=0).float().cpu(), trainer.global_step - 1)
        if q is not None and len(q) > 1:
            writer.add_histogram("critic/q_spread_on_data", q.std(dim=0).float().cpu(), trainer.global_step - 1)
        for index, column in enumerate([] if action is None else action.T):
            writer.add_histogram(f"actor/action_{index}", column.float().cpu(), trainer.global_step - 1)

    def _writer(self, trainer: L.Trainer):  # type: ignore[no-untyped-def]
        data = getattr(trainer, "datamodule", None)  # a loader of somebody else's has no card
        if not hasattr(data, "card") or not trainer.is_global_zero or not isinstance(trainer.logger, TensorBoardLogger):
            return None
        return trainer.logger.experiment
