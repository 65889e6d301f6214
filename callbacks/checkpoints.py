"""Two kinds of checkpoints, kept apart: where the run is, and what evaluated best."""

import signal
from pathlib import Path
from types import FrameType
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_info
from lightning.pytorch.utilities.exceptions import SIGTERMException


class LastCheckpoint(ModelCheckpoint):
    """Keeps ``last.ckpt``, the newest state of the run; also saved when the run is interrupted.

    Ctrl-C in the middle of a gradient step waits for its end, so that what is saved is a state between two steps; a
    second Ctrl-C stops at once, without saving. After any other error the checkpoint of the last period stays: what the
    error left behind is not worth keeping.

    Args:
        every_n_steps: Gradient steps between saves.
    """

    def __init__(self, every_n_steps: int = 1000) -> None:
        super().__init__(every_n_train_steps=every_n_steps, save_top_k=0, save_last=True, enable_version_counter=False)
        self._in_batch = False
        self._interrupted = False
        self._previous_handler: Any = None

    @property
    def state_key(self) -> str:
        """Name this callback's state in a checkpoint independently of its settings, which may change on resume."""
        return type(self).__name__

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Take over Ctrl-C; impossible outside the main thread, where it stays as it is."""
        super().on_train_start(trainer, pl_module)
        try:
            self._previous_handler = signal.signal(signal.SIGINT, self._on_interrupt)
        except ValueError:
            self._previous_handler = None

    def _on_interrupt(self, number: int, frame: FrameType | None) -> None:
        if self._in_batch and not self._interrupted:
            self._interrupted = True
            return
        raise KeyboardInterrupt

    def on_train_batch_start(self, trainer: L.Trainer, pl_module: L.LightningModule, *args: Any) -> None:
        """Note that a gradient step is under way."""
        self._in_batch = True

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *args: Any) -> None:
        """Save if it is time, and act on a Ctrl-C that waited for this."""
        super().on_train_batch_end(trainer, pl_module, *args)
        self._in_batch = False
        if self._interrupted:
            raise KeyboardInterrupt

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Save the end of the run, whatever the period."""
        super().on_train_end(trainer, pl_module)
        if trainer.global_step % self._every_n_train_steps:
            self._save(trainer)

    def on_save_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        """Write out what was logged so far: a resumed run logs from this state on."""
        for logger in trainer.loggers:
            if isinstance(logger, TensorBoardLogger):
                logger.experiment.flush()

    def _save(self, trainer: L.Trainer) -> Path:
        path = Path(str(self.dirpath)) / "last.ckpt"
        trainer.save_checkpoint(path)
        return path

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        """Save when the run was asked to stop between two gradient steps."""
        if isinstance(exception, (KeyboardInterrupt, SIGTERMException)) and not self._in_batch and trainer.global_step > 0:
            path = self._save(trainer)
            rank_zero_info(f"interrupted after step {trainer.global_step}, saved {path}; continue with --ckpt_path last")

    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Give Ctrl-C back."""
        super().teardown(trainer, pl_module, stage)
        if self._previous_handler is not None:
            signal.signal(signal.SIGINT, self._previous_handler)
            self._previous_handler = None


class BestCheckpoint(ModelCheckpoint):
    """Keeps ``best.ckpt``, the state with the highest ``evaluation/score`` so far.

    It is chosen by the evaluation it is reported with, so its score is biased upwards: report the last one beside it.
    """

    def __init__(self) -> None:
        super().__init__(
            monitor="evaluation/score",
            mode="max",
            save_top_k=1,
            filename="best",
            auto_insert_metric_name=False,
            save_on_train_epoch_end=False,
            enable_version_counter=False,
        )

    @property
    def state_key(self) -> str:
        """Name this callback's state in a checkpoint independently of its settings."""
        return type(self).__name__

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Save if this is the best evaluation; do nothing if none succeeded yet, or the dataset has no environment."""
        if self.monitor in trainer.callback_metrics:
            super().on_validation_end(trainer, pl_module)
