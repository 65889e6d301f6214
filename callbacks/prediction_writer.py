"""Keeps what ``predict`` computes."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch
from lightning.pytorch.callbacks import BasePredictionWriter

from edp_lightning.callbacks.checkpoints import judged_checkpoint


class PredictionWriter(BasePredictionWriter):
    """Writes ``predictions_<checkpoint>.npy``: one action per observation of the dataset, in order and in environment units."""

    def __init__(self) -> None:
        super().__init__(write_interval="epoch")

    def write_on_epoch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, predictions: Sequence[Any], batch_indices: Sequence[Any]
    ) -> None:
        """Write the file into the run's folder."""
        path = Path(trainer.default_root_dir) / f"predictions_{judged_checkpoint(trainer)}.npy"
        path.parent.mkdir(parents=True, exist_ok=True)
        actions = torch.cat(list(predictions)).float().cpu().numpy()
        np.save(path, actions)
        print(f"actions for {len(actions)} observations: {path}")
