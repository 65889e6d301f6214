"""Two kinds of checkpoints, kept apart: where the run is, and what evaluated best."""

import atexit
import copy
import os
import signal
import time
from pathlib import Path
from typing import Any, ClassVar, NoReturn

import lightning as L
import torch
from lightning.pytorch.callbacks import Checkpoint, ModelCheckpoint
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_info
from lightning.pytorch.utilities.exceptions import SIGTERMException

from edp_lightning.callbacks.resumed_loops import evaluation_follows, stand_at_epochs_start
from edp_lightning.option_bounds import check_bounds
from edp_lightning.runs.checkpoint_io import IN_BACKGROUND, AtomicCheckpointIO, read_checkpoint
from edp_lightning.runs.ranks import check_agreement, largest_over_ranks
from edp_lightning.runs.run_folder import checkpoint_file, lies_in
from edp_lightning.runs.stop_signals import StopSignals

STEPS_BETWEEN_AGREEMENTS = 10
"""With several ranks, gradient steps between the looks at whether any of them was asked to stop: all stop at the same step."""


class LastCheckpoint(Checkpoint):
    """Keeps ``last.ckpt``, the newest state of the run; also saved when the run ends or is asked to stop.

    A state is saved after its evaluation, if one is due at that step: a run that goes on from the file neither misses nor
    repeats one. Ctrl-C and SIGTERM wait for the end of the gradient step, save and stop; an evaluation under way is given up,
    and the run that goes on begins with it. A second Ctrl-C stops at once, without saving. After any error the checkpoint of
    the last period stays: what the error left behind is not worth keeping.

    Args:
        every_n_steps: Gradient steps between saves.
        min_seconds: Least time between them, for a GPU that takes those steps in a second: a save that comes earlier is left
            out.
        background: Write the file in a thread while training goes on, from a copy of the state. When not given: where
            training is on a GPU.
    """

    at_least: ClassVar[dict[str, float]] = {"every_n_steps": 1, "min_seconds": 0}

    def __init__(self, every_n_steps: int = 1000, min_seconds: float = 0.0, background: bool | None = None) -> None:
        check_bounds("last_checkpoint", {"every_n_steps": every_n_steps, "min_seconds": min_seconds}, self)
        self.every_n_steps = every_n_steps
        self.min_seconds = min_seconds
        self.background = background
        self._saved_at = 0.0
        self.signals = StopSignals()
        self._saved_step = -1
        self._soon = False
        self._error: BaseException | None = None
        self._loops: tuple[int, Any] = (-1, None)  # of the newest checkpoint: its gradient steps, Lightning's counts in it
        self._over = False

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Go on at the right place of an epoch; take over Ctrl-C and SIGTERM, of which one that came earlier counts."""
        stand_at_epochs_start(trainer)
        self._loops, self._over = (-1, None), False
        self._saved_step = trainer.global_step
        self._saved_at = time.monotonic()
        self.signals.install()
        if trainer.received_sigterm:
            self.signals.received = signal.SIGTERM

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *args: Any) -> None:
        """Save and stop if it is time, unless this step's evaluation comes first."""
        if not evaluation_follows(trainer):
            self._after_step(trainer)

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Close the evaluation that an earlier run gave up, in Lightning's count: it is repeated from its start."""
        if trainer.state.fn == "fit":
            trainer.fit_loop.epoch_loop.val_loop.batch_progress.total.reset_on_restart()

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Save and stop if it is time."""
        if trainer.state.fn == "fit" and not trainer.sanity_checking:
            self._after_step(trainer)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Save the end of a run that ended by something else than its number of steps."""
        self._over = True
        if self._soon or self._saved_step != trainer.global_step:
            self._save(trainer, checkpoint_of(trainer))
        if self._error is not None:
            raise self._error

    def on_save_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        """Compare the ranks, and bring what was logged so far to the disk: a resumed run logs from this state on."""
        check_agreement({name: checkpoint[name] for name in ("state_dict", "optimizer_states", "callbacks")})
        if not self._over:
            self._loops = trainer.global_step, copy.deepcopy(checkpoint["loops"])
        elif self._loops[0] == trainer.global_step:  # by now the loop has closed its epoch, wherever in it the run ended
            checkpoint["loops"] = self._loops[1]
        for logger in trainer.loggers:
            if not isinstance(logger, TensorBoardLogger):
                logger.save()
            elif trainer.is_global_zero:
                _sync_events(logger)

    def save_soon(self) -> None:
        """Save at the end of the next gradient step: something happened that a resumed run should know."""
        self._soon = True

    def end_with(self, error: BaseException) -> None:
        """Save at the end of this gradient step, or of its evaluation, and end the run with an exception."""
        self._soon, self._error = True, error

    def stop_in_evaluation(self, trainer: L.Trainer, number: int) -> None:
        """Save and stop inside an evaluation that was given up because of a signal; all ranks call this together.

        Lightning goes on from such a file with the evaluation, because its count of validation batches says that one is open.

        Raises:
            KeyboardInterrupt: After SIGINT.
            SIGTERMException: After SIGTERM.
        """
        self.signals.shield()
        progress: Any = trainer.fit_loop.epoch_loop.val_loop.batch_progress
        for count in (progress.total, progress.current):
            count.processed, count.completed = count.processed - 1, count.completed - 1
        self._save_and_stop(trainer, number)

    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Give the signals back."""
        self.signals.restore()

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        """See to it that the ranks rank 0 started end with it: one that waits in a collective would wait for ever.

        Not at once: Lightning kills a process whose ranks died, before it can say why.
        """
        self.signals.forget()  # Lightning gives them back after an exception, and calls no teardown
        if trainer.is_global_zero and trainer.strategy.launcher is not None:
            atexit.register(trainer.strategy.launcher.kill, getattr(signal, "SIGKILL", signal.SIGTERM))

    def _after_step(self, trainer: L.Trainer) -> None:
        step = trainer.global_step
        stop = self._agreed_signal(trainer)
        if stop:
            self.signals.shield()
            self._save_and_stop(trainer, stop)
        if self._soon or step == trainer.max_steps or self._is_due(trainer):
            over = step == trainer.max_steps or self._error is not None
            self._save(trainer, checkpoint_of(trainer), wait=over)
        if self._error is not None:
            raise self._error

    def _save_and_stop(self, trainer: L.Trainer, stop: int) -> NoReturn:
        path = checkpoint_of(trainer)
        self._save(trainer, path)
        rank_zero_info(f"stopped after step {trainer.global_step}, saved {path}; continue with --ckpt_path last")
        if stop == signal.SIGINT:
            raise KeyboardInterrupt
        # Lightning would end the whole run at once if it saw another rank's status.
        raise SIGTERMException(128 + stop if trainer.is_global_zero else 0)

    def _is_due(self, trainer: L.Trainer) -> bool:
        """Return whether a save is due by steps and by time; all ranks agree on the time."""
        if trainer.global_step % self.every_n_steps:
            return False
        if self.min_seconds == 0:
            return True
        waited = largest_over_ranks(time.monotonic() - self._saved_at, trainer.strategy.root_device)
        return waited >= self.min_seconds

    def _agreed_signal(self, trainer: L.Trainer) -> int:
        """Return the signal on which all ranks stop after this step, 0 to go on."""
        if trainer.world_size == 1:
            return self.signals.received
        if trainer.global_step % STEPS_BETWEEN_AGREEMENTS:
            return 0
        return int(largest_over_ranks(self.signals.received, trainer.strategy.root_device))

    def _save(self, trainer: L.Trainer, path: Path, wait: bool = True) -> None:
        if trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        on_gpu = trainer.strategy.root_device.type == "cuda"
        background = not wait and (on_gpu if self.background is None else self.background)
        can = isinstance(trainer.strategy.checkpoint_io, AtomicCheckpointIO)
        trainer.save_checkpoint(path, weights_only=False, storage_options=IN_BACKGROUND if background and can else None)
        self._saved_step = trainer.global_step
        self._saved_at = time.monotonic()
        self._soon = False


def checkpoint_of(trainer: L.Trainer, name: str = "last") -> Path:
    """Return where a run keeps a checkpoint, or will."""
    return checkpoint_file(Path(trainer.default_root_dir).absolute(), name)


def judged_checkpoint(trainer: L.Trainer) -> str:
    """Return by which name files of results call the checkpoint that a policy was loaded from."""
    return Path(trainer.ckpt_path).stem if trainer.ckpt_path else "untrained"


def branches_off(trainer: L.Trainer) -> bool:
    """Return whether a training goes on from another run's checkpoint."""
    return trainer.state.fn == "fit" and not lies_in(str(trainer.ckpt_path), trainer.default_root_dir)


def _sync_events(logger: TensorBoardLogger) -> None:
    """Write out the newest event file, through to the disk."""
    logger.experiment.flush()
    files = sorted(Path(logger.log_dir).glob("events.out.tfevents.*"), key=lambda path: path.stat().st_mtime)
    if files:
        with files[-1].open("rb") as file:
            os.fsync(file.fileno())


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
        self.postponed = False
        self._branches_off = False

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Put the file beside ``last.ckpt``, whatever the logger."""
        self.dirpath = self.dirpath or str(checkpoint_of(trainer).parent)
        super().setup(trainer, pl_module, stage)

    @property
    def state_key(self) -> str:
        """Name this callback's state in a checkpoint independently of its settings."""
        return type(self).__name__

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Save if this is the best evaluation; do nothing if there is no score of this step, yet or at all."""
        if self.monitor in trainer.callback_metrics and not self.postponed:
            super().on_validation_end(trainer, pl_module)

    def offer(self, path: Path, score: float, states: dict[str, Any]) -> None:
        """Take a checkpoint file over as the best one, if its score is.

        Args:
            path: The file.
            score: Its score.
            states: States of callbacks in which this score is known, by their keys: the file was written before.
        """
        best = self._take(score)
        if best is not None:
            checkpoint = read_checkpoint(path)
            checkpoint["callbacks"] |= states | {self.state_key: self.state_dict()}
            AtomicCheckpointIO().save_checkpoint(checkpoint, path)
            path.replace(best)

    def judge(self, trainer: L.Trainer, score: float) -> None:
        """Save the present state as the best one, if its score is; all ranks call this together."""
        best = self._take(score)
        self.current_score = torch.tensor(score)
        if best is not None:
            trainer.save_checkpoint(best, weights_only=False)

    def _take(self, score: float) -> Path | None:
        """Note a score and return where its state belongs, if it is the best so far."""
        if self.best_model_score is not None and score <= float(self.best_model_score):
            return None
        best = Path(str(self.dirpath)) / "best.ckpt"
        self.best_model_path = self.kth_best_model_path = str(best)
        self.best_model_score = self.current_score = self.kth_value = torch.tensor(score)
        self.best_k_models = {str(best): self.best_model_score}
        return best

    def on_load_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        """Notice a training that branches off another run, also one that is started again."""
        self._branches_off = branches_off(trainer)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take the best score over, also into a folder that was moved; a run that branches off another begins without one."""
        path = Path(str(self.dirpath)) / "best.ckpt"
        if self._branches_off:
            return
        if state_dict["dirpath"] != str(self.dirpath):
            if not path.exists():
                return
            scores = {str(path): score for score in state_dict["best_k_models"].values()}
            paths = {"best_model_path": str(path), "kth_best_model_path": str(path)} if scores else {}
            state_dict = state_dict | paths | {"dirpath": str(self.dirpath), "best_k_models": scores}
        super().load_state_dict(state_dict)
        self.current_score = state_dict["current_score"]  # which Lightning forgets
