"""How fast training goes."""

import time
from typing import Any

import lightning as L


class SpeedMonitor(L.Callback):
    """Logs ``speed/gradient_steps_per_second`` with the losses; time spent in evaluation is left out."""

    def __init__(self) -> None:
        self._since: float | None = None
        self._steps = 0

    def on_train_batch_start(self, trainer: L.Trainer, pl_module: L.LightningModule, *args: Any) -> None:
        """Start the clock."""
        if self._since is None:
            self._since = time.perf_counter()

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *args: Any) -> None:
        """Log the mean speed since the last time."""
        self._steps += 1
        if trainer.global_step % trainer.log_every_n_steps == 0 and self._since is not None:  # type: ignore[attr-defined]
            now = time.perf_counter()
            speed = self._steps / (now - self._since)
            for logger in trainer.loggers:
                logger.log_metrics({"speed/gradient_steps_per_second": speed}, step=trainer.global_step - 1)
            self._since, self._steps = now, 0

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Stop the clock."""
        self._since, self._steps = None, 0
