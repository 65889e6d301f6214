"""Episodes played in this process, or in processes it waits for: nothing that goes wrong or interrupts leaves a trace."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import lightning as L
import torch

from edp_lightning.environments.workers import Environments, LocalEnvironments, WorkerEnvironments
from edp_lightning.evaluation.rollout import Act, EpisodeResult, Player, rollout
from edp_lightning.runs.rng import untouched_streams
from edp_lightning.runs.stop_signals import StopRequested, StopSignals

if TYPE_CHECKING:  # the module is imported for --help, environments are not
    from edp_lightning.environments.recipe import EvaluationEnvironment

WORTH_WORKERS = 20_000
"""Environment steps of all evaluations of a run, at most, from which on processes for environments are worth their start."""


@dataclass
class Outcome:
    """How an evaluation went.

    Attributes:
        results: One per seed; empty if it failed or was stopped.
        failure: What went wrong.
        stopped: The signal that ended it, 0 for none.
    """

    results: list[EpisodeResult] = field(default_factory=list)
    failure: Exception | None = None
    stopped: int = 0


class ForegroundRollout:
    """Keeps environments from one evaluation to the next.

    Args:
        num_envs: Environments that run side by side.
        num_workers: Processes that step them; 0 for this one; when not given: as many as torch has threads, if all
            evaluations may take ``WORTH_WORKERS`` steps.

    Attributes:
        evaluations: How many there will be, about.
    """

    def __init__(self, num_envs: int, num_workers: int | None) -> None:
        self._num_envs = num_envs
        self._num_workers = num_workers
        self._envs: Environments | None = None
        self.evaluations = 1.0

    def play(
        self,
        environment: "EvaluationEnvironment",
        policy: Act | Player,
        seeds: Sequence[int],
        record: bool,
        signals: StopSignals,
        target_returns: Sequence[float | None] | None = None,
    ) -> Outcome:
        """Play one episode per seed, unless a signal comes: it ends them at once. Global random streams are left untouched.

        Args:
            environment: Recipe of the environment.
            policy: The policy.
            seeds: Reset seed of each episode.
            record: Keep every step in ``EpisodeResult.trajectory``.
            signals: Where stop signals arrive.
            target_returns: See ``rollout``.
        """
        outcome = Outcome()
        with untouched_streams():
            try:
                with signals.interrupting():
                    if len(seeds):
                        envs = self._environments(environment, len(seeds))
                        outcome.results = rollout(envs, policy, seeds, None, record, signals.check, target_returns)
            except StopRequested:
                outcome.stopped = signals.received
            except Exception as error:  # an environment may raise anything
                outcome.failure = error
                if signals.received:  # an environment may have taken the interruption for a failure of its own
                    outcome.stopped = signals.received
        return outcome

    def close(self, patience: float = 10.0) -> None:
        """Close the environments; processes have ``patience`` seconds to end."""
        envs, self._envs = self._envs, None
        if envs is not None:
            envs.close(patience)

    def _environments(self, environment: "EvaluationEnvironment", num_episodes: int) -> Environments:
        """Return enough environments; those of an earlier evaluation if there were enough."""
        count = min(self._num_envs, num_episodes)
        if self._envs is None or len(self._envs) < count:
            self.close()
            workers = min(self.workers(environment, num_episodes), count)
            if workers > 0:
                self._envs = WorkerEnvironments(environment.make, count, workers)
            else:
                self._envs = LocalEnvironments([environment.make() for _ in range(count)])
        return self._envs

    def workers(self, environment: "EvaluationEnvironment", num_episodes: int) -> int:
        """Return the number of processes for environments; torch's threads are the share of the machine the run was given."""
        if self._num_workers is not None:
            return self._num_workers
        if environment.lives_in_a_shell:
            return 0
        steps = self.evaluations * num_episodes * (environment.max_episode_steps or WORTH_WORKERS)
        threads = torch.get_num_threads()
        return threads if threads > 1 and steps >= WORTH_WORKERS else 0


def evaluations_of(trainer: L.Trainer, steps_per_epoch: int) -> float:
    """Return how many evaluations a training makes, about; infinitely many if it has no end.

    Args:
        trainer: The trainer, with its periods.
        steps_per_epoch: Gradient steps per epoch.
    """
    if trainer.max_steps < 0:
        return math.inf
    interval = trainer.val_check_interval
    if not isinstance(interval, (int, float)):  # a time
        return 1.0
    steps = interval * steps_per_epoch if isinstance(interval, float) else interval
    return float(1 + trainer.max_steps // (steps * (trainer.check_val_every_n_epoch or 1)))
