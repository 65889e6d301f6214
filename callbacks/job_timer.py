"""The time that one job has."""

from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Timer
from lightning.pytorch.utilities import rank_zero_info

from edp_lightning.callbacks.checkpoints import LastCheckpoint


class JobTimer(Timer):
    """Stops a run, with a checkpoint, when this job has trained for so long: ``trainer.max_time`` of the command line.

    Lightning's timer adds up the times of all jobs of a run, so that one that was queued again would stop at once. It also
    closes the epoch that it stops in and evaluates out of turn: a run that went on would evaluate, and end, at other steps than
    one that was never stopped. Here the state after a gradient step is saved as it is, and the run ends before the next one.

    Args:
        duration: As Lightning's: ``DD:HH:MM:SS``, a timedelta or its arguments.
    """

    def __init__(self, duration: Any = None) -> None:
        super().__init__(duration)
        self._over = False

    @property
    def state_key(self) -> str:
        """Take the name of Lightning's timer, whose state older checkpoints hold."""
        return Timer.__name__

    def on_train_batch_start(self, trainer: L.Trainer, *args: Any, **kwargs: Any) -> None:
        """End the run before a gradient step, once the one before and its evaluation are saved.

        Raises:
            StopIteration: By which Lightning's loop leaves an epoch.
        """
        if self._over:
            trainer.should_stop = True
            rank_zero_info(f"trainer.max_time is up after step {trainer.global_step}: go on with --ckpt_path last")
            raise StopIteration

    def _check_time_remaining(self, trainer: L.Trainer) -> None:
        """Have this step's state saved if the time is up on rank 0."""
        assert self._duration is not None
        if (
            self._over
            or not trainer.fit_loop._can_stop_early
            or not trainer.strategy.broadcast(self.time_elapsed() >= self._duration)
        ):
            return
        self._over = True
        for callback in trainer.callbacks:  # type: ignore[attr-defined]
            if isinstance(callback, LastCheckpoint):
                callback.save_soon()

    def state_dict(self) -> dict[str, Any]:
        """Return nothing: the next job has its own time."""
        return {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Leave the time of earlier jobs alone."""
