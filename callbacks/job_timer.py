"""The time that one job has."""

from typing import Any

from lightning.pytorch.callbacks import Timer


class JobTimer(Timer):
    """Stops a run, with a checkpoint, when this job has trained for so long: ``trainer.max_time`` of the command line.

    Lightning's timer adds up the times of all jobs of a run, so that one that was queued again would stop at once.

    Args:
        duration: As Lightning's: ``DD:HH:MM:SS``, a timedelta or its arguments.
    """

    @property
    def state_key(self) -> str:
        """Take the name of Lightning's timer, whose state older checkpoints hold."""
        return Timer.__name__

    def state_dict(self) -> dict[str, Any]:
        """Return nothing: the next job has its own time."""
        return {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Leave the time of earlier jobs alone."""
