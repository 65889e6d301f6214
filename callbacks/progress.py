"""The progress bar: losses and the latest score, without a device synchronisation per batch."""

from typing import Any, ClassVar

import lightning as L
from lightning.pytorch.callbacks import TQDMProgressBar

from edp_lightning.option_bounds import check_bounds

SHOWN = {
    "critic": "critic/loss",
    "bc": "actor/bc_loss",
    "q": "critic/q_mean",
    "return": "evaluation/return",
    "success": "evaluation/success_rate",
    "score": "evaluation/normalized_score",
    "left": "evaluation/distance_left",
}
"""Label on the bar -> logged metric, shown once it has been logged."""


class TrainingProgressBar(TQDMProgressBar):
    """Shows the newest logged losses and evaluation scores.

    Args:
        refresh_rate: Batches between redraws.
    """

    at_least: ClassVar[dict[str, float]] = {"refresh_rate": 0}

    def __init__(self, refresh_rate: int = 50) -> None:
        check_bounds("progress_bar", {"refresh_rate": refresh_rate}, self)
        super().__init__(refresh_rate=refresh_rate)

    def get_metrics(self, trainer: L.Trainer, pl_module: L.LightningModule) -> dict[str, Any]:
        """Return what the bar shows; reads scalars only when it is redrawn."""
        logged = trainer.callback_metrics
        return {label: f"{float(logged[name]):.3g}" for label, name in SHOWN.items() if name in logged}
