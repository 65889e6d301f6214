"""The evaluation that plays in a process of its own while training goes on, and the file that it plays from."""

import time
from pathlib import Path
from typing import Any, NamedTuple

import lightning as L

from edp_lightning.callbacks.checkpoints import checkpoint_of
from edp_lightning.callbacks.evaluation_ends import stop_signals
from edp_lightning.evaluation.background import BackgroundRollout
from edp_lightning.evaluation.rollout import EpisodeResult
from edp_lightning.evaluation.targets import Game
from edp_lightning.runs.checkpoint_io import read_checkpoint
from edp_lightning.runs.run_folder import PENDING
from edp_lightning.runs.stop_signals import StopRequested


def pending_file(trainer: L.Trainer) -> Path:
    """Return the file of a run from which a background evaluation plays."""
    return checkpoint_of(trainer, PENDING)


def pending_step(trainer: L.Trainer) -> int | None:
    """Return the gradient steps of the policy in the pending file; None where no evaluation is pending."""
    path = pending_file(trainer)
    return int(read_checkpoint(path)["global_step"]) if path.exists() else None


class _Playing(NamedTuple):
    rollout: BackgroundRollout
    step: int
    started: float


class BackgroundEvaluation:
    """At most one evaluation under way.

    Args:
        num_envs: Environments that run side by side.
    """

    def __init__(self, num_envs: int) -> None:
        self._num_envs = num_envs
        self._playing: _Playing | None = None

    @property
    def under_way(self) -> bool:
        """Whether one was started whose results were not asked for yet."""
        return self._playing is not None

    @property
    def step(self) -> int:
        """Gradient steps of the policy that plays."""
        assert self._playing is not None
        return self._playing.step

    def start(self, trainer: L.Trainer, step: int, wanted: list[Game], record: bool) -> None:
        """Start playing from the pending file.

        Args:
            trainer: The trainer.
            step: Gradient steps of the policy in the file.
            wanted: The episodes.
            record: Whether they keep their steps.
        """
        environment = trainer.datamodule.environment  # type: ignore[attr-defined]
        kind: Any = type(trainer.lightning_module)
        seeds, targets = [seed for seed, _ in wanted], [target for _, target in wanted]
        device = trainer.strategy.root_device
        rollout = BackgroundRollout(kind, pending_file(trainer), environment, seeds, self._num_envs, record, device, targets)
        self._playing = _Playing(rollout, step, time.perf_counter())

    def ready(self) -> bool:
        """Return whether there is one and it has ended."""
        return self._playing is not None and self._playing.rollout.ready()

    def wait(self, trainer: L.Trainer) -> int:
        """Wait for its end, or for a signal: return that, or 0."""
        assert self._playing is not None
        with stop_signals(trainer) as signals:
            try:
                with signals.interrupting():
                    self._playing.rollout.wait()
            except StopRequested:
                return signals.received
        return 0

    def results(self) -> tuple[list[EpisodeResult], float]:
        """Wait for its end and return the episodes and the seconds it took; from then on none is under way.

        Raises:
            RuntimeError: If it failed.
        """
        assert self._playing is not None
        playing, self._playing = self._playing, None
        return playing.rollout.results(), time.perf_counter() - playing.started

    def stop(self) -> None:
        """End it without a result, if there is one; the file stays."""
        if self._playing is not None:
            self._playing.rollout.stop()
            self._playing = None
