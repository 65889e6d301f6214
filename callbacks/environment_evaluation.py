"""Periodic and final evaluation of the policy in its environment."""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar, NoReturn

import lightning as L
import torch
from lightning.pytorch.trainer.states import TrainerFn

from edp_lightning.callbacks.background_evaluation import BackgroundEvaluation, pending_file, pending_step
from edp_lightning.callbacks.checkpoints import (
    BestCheckpoint,
    LastCheckpoint,
    branches_off,
    checkpoint_of,
    judged_checkpoint,
)
from edp_lightning.callbacks.evaluation_checks import check_background, check_data, check_processes
from edp_lightning.callbacks.evaluation_ends import after_failure, agree, end_with, stop, stop_exception, stop_signals
from edp_lightning.errors import UserError
from edp_lightning.evaluation.background import restore_policy
from edp_lightning.evaluation.foreground import ForegroundRollout, evaluations_of
from edp_lightning.evaluation.history import EvaluationHistory
from edp_lightning.evaluation.results import checkpoint_facts, result_record
from edp_lightning.evaluation.rollout import EpisodeResult
from edp_lightning.evaluation.targets import Game, Judgement, games, judge
from edp_lightning.option_bounds import check_bounds
from edp_lightning.runs.ranks import gather_objects

Listener = Callable[[L.Trainer, L.LightningModule, list[EpisodeResult], int], dict[str, float]]
"""Called on every rank, after each evaluation that succeeded, with the policy that played, the episodes of this rank and the
gradient steps the policy had taken; returns numbers that are logged with the evaluation's."""


class EnvironmentEvaluation(L.Callback):
    """Plays episodes with the current policy at every validation, and at ``test`` more of them with a result file.

    Episodes are shared out over the ranks. Their seeds are fixed, so scores differ by the policy only; training's random
    streams are left untouched. Logs ``evaluation/return``, ``success_rate``, ``normalized_score``, ``episode_length`` and
    ``evaluation/score``, the one of them by which the task is judged and the best checkpoint is chosen. A policy that can be
    asked for a return plays as many episodes for each of its ``target_returns``; it says which of them counts.

    An evaluation in the background plays from a checkpoint file while training goes on; its scores are logged at the step of
    that file when they are known, and it becomes ``best.ckpt`` if they are the best. There is one at a time: if the next is due
    earlier, training waits. One that is interrupted is started again by the resumed run. The last step of a run is evaluated
    in the foreground.

    Ctrl-C and SIGTERM end an evaluation at once; the run that goes on repeats it. An evaluation that fails costs its scores,
    the third in a row ends the run.

    Other callbacks that want the episodes themselves append to ``listeners``, and set ``record`` if they need the steps.

    Args:
        num_episodes: Episodes per evaluation during training and of ``validate``; for each target return where there are any.
        num_test_episodes: Episodes of ``test``, likewise.
        num_envs: Environments that run side by side; their candidate actions go through the networks together.
        num_workers: Processes that step the environments; 0 steps them in this one. When not given: as many as torch has
            threads, if all evaluations of a run may take 20,000 environment steps or more. They live as long as the run.
        seed: Seed of the first episode; episode i uses seed + i.
        background: Evaluate in a process of its own during ``fit``, with one thread; for runs on one device.
    """

    at_least: ClassVar[dict[str, float]] = {"num_episodes": 1, "num_test_episodes": 1, "num_envs": 1, "num_workers": 0}

    def __init__(
        self,
        num_episodes: int = 20,
        num_test_episodes: int = 100,
        num_envs: int = 50,
        num_workers: int | None = None,
        seed: int = 10_000,
        background: bool = False,
    ) -> None:
        counts = {"num_episodes": num_episodes, "num_test_episodes": num_test_episodes, "num_envs": num_envs}
        check_bounds("evaluation", counts | {"num_workers": num_workers}, self)
        self.num_episodes = num_episodes
        self.num_test_episodes = num_test_episodes
        self.num_envs = num_envs
        self.seed = seed
        self.background = background
        self.record = False
        self.listeners: list[Listener] = []
        self._foreground = ForegroundRollout(num_envs, num_workers)
        self._beside = BackgroundEvaluation(num_envs)
        self._postponed = False
        self._history = EvaluationHistory()
        self._failures = 0  # in a row
        self._owed = False  # one was given up because of a signal
        self._branches_off = False

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Refuse a background evaluation where its scores are needed at once, and scripts that its processes would run."""
        if self.background and stage == "fit":
            check_background(trainer)
        data: Any = getattr(trainer, "datamodule", None)
        check_data(data)
        environment = data.environment
        if stage == "fit" and environment is not None:
            self._foreground.evaluations = evaluations_of(trainer, data.hparams["steps_per_epoch"])
        if environment is not None and (self.background or self._foreground.workers(environment, self.num_episodes)):
            check_processes(environment)

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Start the background evaluation again that an interrupted run left, or drop what this run does not know of."""
        step = pending_step(trainer) if trainer.is_global_zero else None
        if step is None:
            return
        if self.background and 0 < step <= trainer.global_step:
            self._start(trainer, step)
        else:
            pending_file(trainer).unlink()

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *args: Any) -> None:
        """Log the scores of a background evaluation that is done."""
        if self._beside.ready():
            self._finish(trainer, pl_module)

    def on_validation_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Evaluate and log; skipped in Lightning's sanity check."""
        if trainer.sanity_checking or trainer.datamodule.environment is None:  # type: ignore[attr-defined]
            return
        self._owed = False
        if self._beside.under_way:
            stopped = self._beside.wait(trainer)
            if stopped:
                self._stop(trainer, stopped)
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
            trainer.save_checkpoint(pending_file(trainer), weights_only=False)
            self._start(trainer, trainer.global_step)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Wait for the background evaluation of a run whose last step has none."""
        if not self._beside.under_way:
            return
        stopped = self._beside.wait(trainer)
        if stopped:
            self._beside.stop()
            end_with(trainer, stop_exception(stopped))
        else:
            self._finish(trainer, None)

    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Make up for evaluations that were given up when no step was left to train."""
        left = pending_step(trainer) if trainer.world_size == 1 else None
        if trainer.datamodule.environment is None or (left is None and not self._owed):  # type: ignore[attr-defined]
            return
        if left is not None:
            self._start(trainer, left)
            self._finish(trainer, None)
        if self._owed:
            pl_module.to(trainer.strategy.root_device).eval()
            judgement = self._evaluate(trainer, pl_module, self.num_episodes, lightning_logs=False)
            if judgement is not None:
                for callback in _best_checkpoints(trainer):
                    callback.judge(trainer, judgement.scores["score"])
        trainer.save_checkpoint(checkpoint_of(trainer), weights_only=False)

    def evaluate_now(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Play between Lightning's own evaluations; the scores go to loggers, listeners and the history."""
        self._evaluate(trainer, pl_module, self.num_episodes, lightning_logs=False)

    def on_load_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        """Notice a training that branches off another run: what that was judged by is not its own."""
        self._branches_off = branches_off(trainer)

    def state_dict(self) -> dict[str, Any]:
        """Return the scores so far, and whether an evaluation of this state was given up."""
        return {"owed": self._owed, "history": self._history.state()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Know of the scores so far, and of an evaluation that was given up."""
        if self._branches_off:
            return
        self._owed = bool(state_dict["owed"])
        self._history.load(state_dict.get("history", []))  # runs of before there was one have none

    def on_test_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Evaluate, log, and write ``test_<checkpoint>.json`` with every episode into the run's folder."""
        if trainer.datamodule.environment is None:  # type: ignore[attr-defined]
            raise UserError(f"nothing to test in: {trainer.datamodule.no_environment}")  # type: ignore[attr-defined]
        judgement = self._evaluate(trainer, pl_module, self.num_test_episodes)
        if not trainer.is_global_zero or judgement is None:
            return
        path = Path(trainer.default_root_dir) / f"test_{judged_checkpoint(trainer)}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        data, results = trainer.datamodule, judgement.results  # type: ignore[attr-defined]
        record = result_record(data.dataset_info, data.environment, results, judgement.scores) | judgement.record()
        record["checkpoint"] = checkpoint_facts(trainer.ckpt_path)
        record["evaluations_in_training"] = self._history.facts()
        record["algorithm"] = type(pl_module).__name__
        record |= pl_module.decision_facts()  # type: ignore[operator]
        path.write_text(json.dumps(record, indent=2))
        print(f"results of {len(results)} episodes: {path}")

    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Close the environments."""
        self._foreground.close()
        self._beside.stop()

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        """Leave a background evaluation to the resumed run, and wait for no environment."""
        self._foreground.close(patience=0.1)
        self._beside.stop()

    def _evaluate(
        self, trainer: L.Trainer, pl_module: L.LightningModule, num_episodes: int, lightning_logs: bool = True
    ) -> Judgement | None:
        """Play, log and return episodes and scores; nothing if that failed during ``fit``.

        Args:
            trainer: The trainer.
            pl_module: The policy.
            num_episodes: Episodes.
            lightning_logs: Whether this is a place where Lightning takes numbers.
        """
        environment = trainer.datamodule.environment  # type: ignore[attr-defined]
        policy: Any = pl_module
        rank, world_size = trainer.global_rank, trainer.world_size
        mine = self._games(policy, num_episodes)[rank::world_size]
        seeds, targets = [seed for seed, _ in mine], [target for _, target in mine]
        start = time.perf_counter()
        with stop_signals(trainer) as signals:
            outcome = self._foreground.play(environment, policy, seeds, self.record, signals, targets)
        seconds = time.perf_counter() - start
        agree(trainer, outcome, pl_module.device)
        if outcome.stopped:
            self._stop(trainer, outcome.stopped)
        module = pl_module if lightning_logs else None
        if outcome.failure is not None:
            self._foreground.close(patience=0.1)
            if trainer.state.fn != TrainerFn.FITTING:
                raise outcome.failure
            self._report_failure(trainer, module, trainer.global_step, outcome.failure)
            return None
        self._failures, self._owed = 0, False
        found = self._ask_listeners(trainer, pl_module, outcome.results, trainer.global_step)
        results = _gather(outcome.results)
        judgement = judge(
            pl_module.device, environment, results, policy.target_returns, policy.counting_target, rank, world_size
        )
        if trainer.state.fn == TrainerFn.FITTING:
            self._history.add(trainer.global_step, judgement.scores["score"])
        named = {f"evaluation/{name}": value for name, value in judgement.scores.items()}
        self._report(trainer, module, named | {"speed/evaluation_seconds": seconds} | found, trainer.global_step)
        return judgement

    def _stop(self, trainer: L.Trainer, number: int) -> NoReturn:
        """Stop because of a signal; the run that goes on from what is saved begins with this evaluation."""
        self._foreground.close(patience=0.1)
        self._owed = True
        stop(trainer, number)

    def _games(self, policy: Any, num_episodes: int) -> list[Game]:
        return games(range(self.seed, self.seed + num_episodes), policy.target_returns)

    def _start(self, trainer: L.Trainer, step: int) -> None:
        self._beside.start(trainer, step, self._games(trainer.lightning_module, self.num_episodes), self.record)

    def _finish(self, trainer: L.Trainer, pl_module: L.LightningModule | None) -> None:
        """Wait for the background evaluation, log its scores, keep or drop its file."""
        path, step = pending_file(trainer), self._beside.step
        try:
            results, seconds = self._beside.results()
        except RuntimeError as error:
            path.unlink(missing_ok=True)
            self._report_failure(trainer, pl_module, step, error)
            return
        self._failures = 0
        found = {}
        if self.listeners:
            policy = restore_policy(type(trainer.lightning_module), path, trainer.strategy.root_device)  # type: ignore[arg-type]
            found = self._ask_listeners(trainer, policy, results, step)
        module: Any = trainer.lightning_module
        environment = trainer.datamodule.environment  # type: ignore[attr-defined]
        scores = judge(torch.device("cpu"), environment, results, module.target_returns, module.counting_target).scores
        self._history.add(step, scores["score"])
        named = {f"evaluation/{name}": value for name, value in scores.items()}
        self._report(trainer, pl_module, named | {"speed/evaluation_seconds": seconds} | found, step)
        for callback in _best_checkpoints(trainer):
            callback.offer(path, scores["score"], {self.state_key: self.state_dict()})
        path.unlink(missing_ok=True)
        for callback in trainer.callbacks:  # type: ignore[attr-defined]
            if isinstance(callback, LastCheckpoint):
                callback.save_soon()

    def _ask_listeners(
        self, trainer: L.Trainer, policy: L.LightningModule, results: list[EpisodeResult], step: int
    ) -> dict[str, float]:
        found = {name: value for ask in self.listeners for name, value in ask(trainer, policy, results, step).items()}
        return dict(gather_objects(found)[0])  # all ranks know what callbacks may watch

    def _report_failure(self, trainer: L.Trainer, module: L.LightningModule | None, step: int, failure: Exception) -> None:
        self._failures += 1
        self._report(trainer, module, {"evaluation/failed": 1.0}, step)
        after_failure(trainer, step, failure, self._failures)

    def _report(self, trainer: L.Trainer, module: L.LightningModule | None, values: dict[str, float], step: int) -> None:
        """Make values known to other callbacks, where Lightning allows it, and log them at the gradient step they belong to."""
        training = trainer.state.fn == TrainerFn.FITTING
        if module is not None:
            module.log_dict(values, logger=False if training else None, rank_zero_only=True)
        for logger in trainer.loggers if training else []:
            # Lightning's own count of steps is one off after a resume at some points of an epoch
            logger.log_metrics(values, step=step - 1)


def _best_checkpoints(trainer: L.Trainer) -> list[BestCheckpoint]:
    return [callback for callback in trainer.callbacks if isinstance(callback, BestCheckpoint)]  # type: ignore[attr-defined]


def _gather(results: list[EpisodeResult]) -> list[EpisodeResult]:
    """Return the episodes of all ranks in the order of their seeds."""
    return sorted((result for part in gather_objects(results) for result in part), key=lambda result: result.seed)
