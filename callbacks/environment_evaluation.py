"""Periodic and final evaluation of the policy in its environment."""

import json
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import lightning as L
import torch
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities.seed import isolate_rng

from edp_lightning.callbacks.checkpoints import BestCheckpoint, LastCheckpoint, checkpoint_folder
from edp_lightning.environments.workers import Environments, LocalEnvironments, WorkerEnvironments
from edp_lightning.errors import UserError
from edp_lightning.evaluation.background import BackgroundRollout
from edp_lightning.evaluation.metrics import evaluation_scores
from edp_lightning.evaluation.results import checkpoint_facts, result_record
from edp_lightning.evaluation.rollout import EpisodeResult, rollout
from edp_lightning.runs.checkpoint_io import read_checkpoint
from edp_lightning.runs.processes import check_script_is_guarded
from edp_lightning.runs.ranks import gather_objects, largest_over_ranks

WORTH_WORKERS = 20_000
"""Environment steps of an evaluation, at most, from which on processes for environments are worth their start."""

Listener = Callable[[L.Trainer, L.LightningModule, list[EpisodeResult], int], dict[str, float]]
"""Called on every rank, after each evaluation that succeeded, with the policy that played, the episodes of this rank and the
gradient steps the policy had taken; returns numbers that are logged with the evaluation's."""

PENDING = "evaluating.ckpt"
"""Name of the file from which a background evaluation plays; there until its result is known, also across a resume."""


class EnvironmentEvaluation(L.Callback):
    """Plays episodes with the current policy at every validation, and at ``test`` more of them with a result file.

    Episodes are shared out over the ranks. Their seeds are fixed, so scores differ by the policy only; training's random
    streams are left untouched. Logs ``evaluation/return``, ``success_rate``, ``normalized_score``, ``episode_length`` and
    ``evaluation/score``, the one of them by which the task is judged and the best checkpoint is chosen.

    An evaluation in the background plays from a checkpoint file while training goes on; its scores are logged at the step of
    that file when they are known, and it becomes ``best.ckpt`` if they are the best. There is one at a time: if the next is due
    earlier, training waits. One that is interrupted is started again by the resumed run. The last step of a run is evaluated
    in the foreground.

    Other callbacks that want the episodes themselves append to ``listeners``, and set ``record`` if they need the steps.

    Args:
        num_episodes: Episodes per evaluation during training and of ``validate``.
        num_test_episodes: Episodes of ``test``.
        num_envs: Environments that run side by side; their candidate actions go through the networks together.
        num_workers: Processes that step the environments; 0 steps them in this one. When not given: as many as torch has
            threads, if an evaluation may take 20,000 environment steps or more. They live as long as the run.
        seed: Seed of the first episode; episode i uses seed + i.
        background: Evaluate in a process of its own during ``fit``, with one thread; for runs on one device.
    """

    def __init__(
        self,
        num_episodes: int = 20,
        num_test_episodes: int = 100,
        num_envs: int = 50,
        num_workers: int | None = None,
        seed: int = 10_000,
        background: bool = False,
    ) -> None:
        for name, value in (
            ("num_episodes", num_episodes),
            ("num_test_episodes", num_test_episodes),
            ("num_envs", num_envs),
        ):
            if value < 1:
                raise UserError(f"evaluation.{name} must be at least 1; got {value}")
        self.num_episodes = num_episodes
        self.num_test_episodes = num_test_episodes
        if num_workers is not None and num_workers < 0:
            raise UserError(f"evaluation.num_workers must be at least 0; got {num_workers}")
        self.num_envs = num_envs
        self.num_workers = num_workers
        self.seed = seed
        self.background = background
        self.record = False
        self.listeners: list[Listener] = []
        self._envs: Environments | None = None
        self._playing: _Playing | None = None
        self._postponed = False

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Refuse a background evaluation beside several ranks, and processes that would train as well."""
        if self.background and trainer.world_size > 1:
            raise UserError(
                "evaluation.background is for one device: with several, ranks share out the episodes; set it to false"
            )
        environment = getattr(getattr(trainer, "datamodule", None), "environment", None)
        if environment is not None and (self.background or self._workers(environment, self.num_episodes)):
            check_script_is_guarded()

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Start the background evaluation again that an interrupted run left, or drop what this run does not know of."""
        path = _pending(trainer)
        if not trainer.is_global_zero or not path.exists():
            return
        step = int(read_checkpoint(path)["global_step"])
        if self.background and 0 < step <= trainer.global_step:
            self._start(trainer, step)
        else:
            path.unlink()

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *args: Any) -> None:
        """Log the scores of a background evaluation that is done."""
        if self._playing is not None and self._playing.rollout.ready():
            self._finish(trainer, pl_module)

    def on_validation_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Evaluate and log; skipped in Lightning's sanity check."""
        if trainer.sanity_checking or trainer.datamodule.environment is None:  # type: ignore[attr-defined]
            return
        if self._playing is not None:
            self._finish(trainer, pl_module)
        fitting = trainer.state.fn == TrainerFn.FITTING and not trainer.fast_dev_run  # type: ignore[attr-defined]
        self._postponed = self.background and fitting and trainer.global_step != trainer.max_steps
        if not self._postponed:
            self._evaluate(trainer, pl_module, self.num_episodes)
        for callback in _best_checkpoints(trainer):
            callback.postponed = self._postponed

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Start a background evaluation, if that is wanted: only now is the state one that a run can go on from."""
        if self._postponed:
            self._postponed = False
            trainer.save_checkpoint(_pending(trainer), weights_only=False)
            self._start(trainer, trainer.global_step)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Wait for the background evaluation of a run whose last step has none."""
        if self._playing is not None:
            self._finish(trainer, None)

    def on_test_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Evaluate, log, and write ``test_<checkpoint>.json`` with every episode into the run's folder."""
        if trainer.datamodule.environment is None:  # type: ignore[attr-defined]
            raise UserError(f"nothing to test in: {trainer.datamodule.no_environment}")  # type: ignore[attr-defined]
        results, scores = self._evaluate(trainer, pl_module, self.num_test_episodes)
        if not trainer.is_global_zero:
            return
        stem = Path(trainer.ckpt_path).stem if trainer.ckpt_path else "untrained"
        path = Path(trainer.default_root_dir) / f"test_{stem}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        record = result_record(trainer.datamodule.dataset_info, trainer.datamodule.environment, results, scores)  # type: ignore[attr-defined]
        record["checkpoint"] = checkpoint_facts(trainer.ckpt_path)
        record["algorithm"] = type(pl_module).__name__
        record |= pl_module.decision_facts()  # type: ignore[operator]
        path.write_text(json.dumps(record, indent=2))
        print(f"results of {len(results)} episodes: {path}")

    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Close the environments."""
        self._close()
        self._abandon()

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        """Leave a background evaluation to the resumed run."""
        self._abandon()

    def _evaluate(
        self, trainer: L.Trainer, pl_module: L.LightningModule, num_episodes: int
    ) -> tuple[list[EpisodeResult], dict[str, float]]:
        environment = trainer.datamodule.environment  # type: ignore[attr-defined]
        seeds = list(range(self.seed, self.seed + num_episodes))
        mine = seeds[trainer.global_rank :: trainer.world_size]
        start = time.perf_counter()
        failure: Exception | None = None
        results: list[EpisodeResult] = []
        try:
            with isolate_rng():
                if mine:
                    envs = self._environments(environment, len(mine))
                    results = rollout(envs, pl_module.act, mine, record=self.record)  # type: ignore[arg-type]
        except Exception as error:  # an environment may raise anything
            failure, results = error, []
        seconds = time.perf_counter() - start
        if largest_over_ranks(failure is not None, pl_module.device):
            self._close()
            if trainer.state.fn != TrainerFn.FITTING:
                raise failure or RuntimeError("the evaluation failed on another rank")
            self._report_failure(trainer, pl_module, trainer.global_step, failure)
            return [], {}
        found = self._ask_listeners(trainer, pl_module, results, trainer.global_step)
        results = _gather(results)
        scores = evaluation_scores(pl_module.device, environment, results, results[trainer.global_rank :: trainer.world_size])
        named = {f"evaluation/{name}": value for name, value in scores.items()}
        self._report(trainer, pl_module, named | {"speed/evaluation_seconds": seconds} | found, trainer.global_step)
        return results, scores

    def _start(self, trainer: L.Trainer, step: int) -> None:
        """Start playing from the pending file, of a policy of ``step`` gradient steps."""
        environment = trainer.datamodule.environment  # type: ignore[attr-defined]
        seeds = range(self.seed, self.seed + self.num_episodes)
        policy: Any = type(trainer.lightning_module)
        rollout_process = BackgroundRollout(policy, _pending(trainer), environment, seeds, self.num_envs, self.record)
        self._playing = _Playing(rollout_process, step, time.perf_counter())

    def _finish(self, trainer: L.Trainer, pl_module: L.LightningModule | None) -> None:
        """Wait for the background evaluation, log its scores, keep or drop its file."""
        assert self._playing is not None
        playing, self._playing = self._playing, None
        path = _pending(trainer)
        try:
            results = playing.rollout.results()
        except RuntimeError as error:
            self._report_failure(trainer, pl_module, playing.step, error)
            path.unlink(missing_ok=True)
            return
        seconds = time.perf_counter() - playing.started
        found = {}
        if self.listeners:
            policy = type(trainer.lightning_module).load_from_checkpoint(path, map_location="cpu", weights_only=True)
            found = self._ask_listeners(trainer, policy, results, playing.step)
        scores = evaluation_scores(torch.device("cpu"), trainer.datamodule.environment, results, results)  # type: ignore[attr-defined]
        named = {f"evaluation/{name}": value for name, value in scores.items()}
        self._report(trainer, pl_module, named | {"speed/evaluation_seconds": seconds} | found, playing.step)
        for callback in _best_checkpoints(trainer):
            callback.offer(path, scores["score"])
        path.unlink(missing_ok=True)
        for callback in trainer.callbacks:  # type: ignore[attr-defined]
            if isinstance(callback, LastCheckpoint):
                callback.save_soon()

    def _abandon(self) -> None:
        if self._playing is not None:
            self._playing.rollout.stop()
            self._playing = None

    def _ask_listeners(
        self, trainer: L.Trainer, policy: L.LightningModule, results: list[EpisodeResult], step: int
    ) -> dict[str, float]:
        return {name: value for ask in self.listeners for name, value in ask(trainer, policy, results, step).items()}

    def _report_failure(
        self, trainer: L.Trainer, module: L.LightningModule | None, step: int, failure: Exception | None
    ) -> None:
        self._report(trainer, module, {"evaluation/failed": 1.0}, step)
        warnings.warn(f"evaluation at step {step} failed, training goes on: {failure!r}", stacklevel=2)

    def _environments(self, environment: Any, num_episodes: int) -> Environments:
        """Return enough environments; those of an earlier evaluation if there were enough."""
        count = min(self.num_envs, num_episodes)
        if self._envs is None or len(self._envs) < count:
            self._close()
            workers = min(self._workers(environment, num_episodes), count)
            if workers > 0:
                self._envs = WorkerEnvironments(environment.make, count, workers)
            else:
                self._envs = LocalEnvironments([environment.make() for _ in range(count)])
        return self._envs

    def _workers(self, environment: Any, num_episodes: int) -> int:
        """Return the number of processes for environments; torch's threads are the share of the machine the run was given."""
        if self.num_workers is not None:
            return self.num_workers
        steps = num_episodes * (environment.max_episode_steps or WORTH_WORKERS)
        threads = torch.get_num_threads()
        return threads if threads > 1 and steps >= WORTH_WORKERS else 0

    def _close(self) -> None:
        if self._envs is not None:
            self._envs.close()
        self._envs = None

    def _report(self, trainer: L.Trainer, module: L.LightningModule | None, values: dict[str, float], step: int) -> None:
        """Make values known to other callbacks, where Lightning allows it, and log them at the gradient step they belong to."""
        training = trainer.state.fn == TrainerFn.FITTING
        if module is not None:
            module.log_dict(values, logger=False if training else None, rank_zero_only=True)
        for logger in trainer.loggers if training else []:
            # Lightning's own count of steps is one off after a resume at some points of an epoch
            logger.log_metrics(values, step=step - 1)


class _Playing(NamedTuple):
    """A background evaluation under way: the process, the gradient steps of its policy, when it was started."""

    rollout: BackgroundRollout
    step: int
    started: float


def _pending(trainer: L.Trainer) -> Path:
    return checkpoint_folder(trainer) / PENDING


def _best_checkpoints(trainer: L.Trainer) -> list[BestCheckpoint]:
    return [callback for callback in trainer.callbacks if isinstance(callback, BestCheckpoint)]  # type: ignore[attr-defined]


def _gather(results: list[EpisodeResult]) -> list[EpisodeResult]:
    """Return the episodes of all ranks in the order of their seeds."""
    return sorted((result for part in gather_objects(results) for result in part), key=lambda result: result.seed)
