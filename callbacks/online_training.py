"""Going on from an offline checkpoint in the environment: collecting between gradient steps."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Literal

import lightning as L
import torch
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn

from edp_lightning.callbacks.checkpoints import checkpoint_of
from edp_lightning.callbacks.environment_evaluation import EnvironmentEvaluation
from edp_lightning.callbacks.online_environment import (
    collected_where,
    online_environment,
    refuse_selective_cloning,
    refuse_unfit,
)
from edp_lightning.data.collected import STATE, unpack
from edp_lightning.data.replay import ReplayBuffer
from edp_lightning.errors import UserError
from edp_lightning.evaluation.collector import Collector
from edp_lightning.evaluation.exploration import Exploration, acting
from edp_lightning.evaluation.metrics import evaluation_scores
from edp_lightning.evaluation.online_curve import Point, collected_since, write_points
from edp_lightning.evaluation.pace import Pace
from edp_lightning.evaluation.rollout import EpisodeResult
from edp_lightning.option_bounds import check_bounds
from edp_lightning.runs.rng import untouched_streams
from edp_lightning.runs.run_folder import lies_in


class OnlineTraining(L.Callback):
    """Lets a policy that was trained offline go on learning in its environment; does nothing without ``env_steps``.

    The run goes on from the checkpoint of ``--ckpt_path``: its gradient steps are followed by those of the online phase, whose
    number follows from ``env_steps``. Between them the policy acts in environments like those of the evaluation. What it
    collects becomes rows as the dataset's episodes did (n-step returns, reward transform, terminations, action bounds) and is
    drawn with a share of every batch (Ball et al., arXiv 2302.02948, section 4.1: one half).

    Everything that was collected is in the checkpoint. A resumed run plays the actions of the episodes under way again from
    their seeds, and goes on bit for bit; an environment that answers otherwise then has its episodes cut, with a warning.

    Writes ``online_curve.csv`` into the run's folder: the evaluations on the axis of environment steps.

    Args:
        env_steps: Environment steps of the online phase, of all environments together; 0 for offline training.
        env_steps_per_gradient_step: Environment steps between gradient steps; 0.05 is an update-to-data ratio of 20.
        first_env_steps: Environment steps before the first gradient step.
        offline_share: Share of a batch's rows that come from the dataset; the number of rows is rounded.
        buffer_size: Collected rows that batches are drawn from, the newest; all when not given.
        clone_collected: Whether the behaviour loss counts collected rows too; false holds the policy to the dataset's actions
            alone, and leaves its own to the critics.
        num_envs: Environments that are stepped together.
        num_workers: Processes that step them; 0 steps them in this one.
        actions: What is played: ``act``, the decision that is also evaluated, or ``draw``, one plain draw of the policy.
        action_noise: Standard deviation of Gaussian noise on actions that fill [-1, 1].
    """

    at_least: ClassVar[dict[str, float]] = {"env_steps": 0, "buffer_size": 1, "num_workers": 0, "action_noise": 0}

    def __init__(
        self,
        env_steps: int = 0,
        env_steps_per_gradient_step: float = 1.0,
        first_env_steps: int = 1000,
        offline_share: float = 0.5,
        buffer_size: int | None = None,
        clone_collected: bool = True,
        num_envs: int = 1,
        num_workers: int = 0,
        actions: Literal["act", "draw"] = "act",
        action_noise: float = 0.0,
    ) -> None:
        if not 0 <= offline_share <= 1:
            raise UserError(f"online.offline_share must lie between 0 and 1; got {offline_share}")
        counts = {"env_steps": env_steps, "buffer_size": buffer_size, "num_workers": num_workers}
        check_bounds("online", counts | {"action_noise": action_noise}, self)
        self._pace = Pace(env_steps, first_env_steps, env_steps_per_gradient_step, num_envs)
        if env_steps:
            self._pace.check()
        self.offline_share = offline_share
        self.buffer_size = buffer_size
        self.clone_collected = clone_collected
        self.num_workers = num_workers
        self.exploration = Exploration(actions, action_noise)
        self._start: int | None = None
        self._saved: dict[str, Any] = {}
        self._points: list[Point] = []
        self._origin: dict[str, Any] = {}
        self._buffer: ReplayBuffer | None = None
        self._collector: Collector | None = None
        self._close: Callable[[float], None] | None = None

    @property
    def state_key(self) -> str:
        """Name this callback's state in a checkpoint independently of its settings."""
        return STATE

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Refuse what cannot learn online; ask the evaluation for its scores."""
        if not self._pace.env_steps or stage != "fit":
            return
        refuse_unfit(trainer, pl_module)
        if not self.clone_collected:
            refuse_selective_cloning(pl_module, self.offline_share)
        for callback in _evaluations(trainer):
            if self.after_evaluation not in callback.listeners:
                callback.listeners.append(self.after_evaluation)

    def on_load_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        """Take over what was collected, or note where the online phase begins.

        Raises:
            UserError: If that would overwrite what is still needed, or the pace is not the one the run began with.
        """
        if trainer.state.fn != TrainerFn.FITTING:
            return
        self._saved = checkpoint["callbacks"].get(STATE, {})
        here = lies_in(str(trainer.ckpt_path), trainer.default_root_dir)
        if not self._pace.env_steps:
            if self._saved and here:
                raise UserError(
                    "this run is online, and what it collected would be lost without online.env_steps: add the online options "
                    "it was started with, or train into another run with --run_name NAME"
                )
            return
        if not self._saved and here:
            raise UserError(
                "the online phase would overwrite the last.ckpt of the offline run it goes on from: give it a name of its own, "
                f"--run_name NAME --ckpt_path {trainer.ckpt_path}"
            )
        self._start = int(self._saved.get("start", checkpoint["global_step"]))
        self._points = list(self._saved.get("points", []))
        self._pace.check_unchanged(self._saved.get("settings", {}))

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Set the number of gradient steps, and put the buffer beside the table.

        Raises:
            UserError: If there is nothing to go on from.
        """
        if not self._pace.env_steps:
            return
        if self._start is None:
            raise UserError(
                "online.env_steps goes on from a checkpoint: train offline first, then give --ckpt_path FILE and a --run_name "
                "of its own"
            )
        trainer.fit_loop.epoch_loop.max_steps = self._start + self._pace.gradient_steps
        trainer.fit_loop.max_epochs = -1
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        module: Any = pl_module
        room = max(self._pace.env_steps, self._saved["collected"]["time"] * self._pace.num_envs if self._saved else 0)
        dims = data.observation_dim, data.action_dim
        successors: bool = module.uses_next_action
        self._buffer = ReplayBuffer(data.recipe, data.reward_map, *dims, room, self.buffer_size, successors)
        batch_size = data.hparams["batch_size"]
        offline_rows = round(self.offline_share * batch_size)
        data.complete_batches(self._buffer, batch_size - offline_rows)
        if not self.clone_collected:
            module.cloned_rows = offline_rows

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Bring the episodes under way back, or begin with an evaluation; collect what is due."""
        if self._buffer is None:
            return
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        with untouched_streams():
            envs = online_environment(data.environment, self._pace.num_envs, self.num_workers)
            self._close = envs.close
            ends_there = _first_success if data.recipe.terminals == "first_success" else None
            self._collector = Collector(envs, data.hparams["seed"], data.recipe.action_chunk, ends_there)
            if self._saved:
                self._resume(self._collector)
            else:
                self._collector.begin()
        self._saved, self._origin = {}, collected_where(data, pl_module)
        if trainer.global_step == self._start and not self._points:
            self._begin(trainer, pl_module)
        self._collect(trainer, pl_module)

    def _resume(self, collector: Collector) -> None:
        cut = collector.resume(self._saved["collected"])
        if cut:
            rank_zero_warn(
                f"{cut} of {self._pace.num_envs} episodes under way were cut: the environment does not answer the same actions "
                "in the same way, so this run differs from one that was not interrupted"
            )
        assert self._buffer is not None
        self._buffer.rebuild(collector.episodes)

    def _begin(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        pace, last = self._pace, trainer.max_steps
        rank_zero_info(
            f"online: {pace.env_steps} environment steps, gradient steps {self._start} to {last}; {self.offline_share:.0%} of "
            f"a batch from {data.dataset}"
        )
        if data.reward_mismatch:
            rank_zero_warn(f"rewards collected online may not be those of the data: {data.reward_mismatch}")
        with acting(pl_module):
            certain = self.exploration.is_certain(pl_module, data.transitions.observation[:8].cpu())
        if certain:
            rank_zero_info(
                "the policy decides without chance, so it tries nothing new: online.actions draw plays draws of it, and "
                "online.action_noise adds noise"
            )
        for callback in _evaluations(trainer):
            callback.evaluate_now(trainer, pl_module)
        if not trainer.fast_dev_run:  # type: ignore[attr-defined]
            # --ckpt_path last goes on from here, whenever the run is cut off
            trainer.save_checkpoint(checkpoint_of(trainer), weights_only=False)

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *args: Any) -> None:
        """Take the environment steps that are due before the next gradient step."""
        if self._collector is not None:
            self._collect(trainer, pl_module)

    def _collect(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        assert self._collector is not None
        assert self._buffer is not None
        assert self._start is not None
        due = self._pace.due(trainer.global_step - self._start)
        if self._collector.env_steps >= due:
            return

        with acting(pl_module):
            while self._collector.env_steps < due:
                for episode in self._collector.step(partial(self.exploration.choose, pl_module)):
                    self._buffer.observe(episode)

    def after_evaluation(
        self, trainer: L.Trainer, pl_module: L.LightningModule, results: list[EpisodeResult], step: int
    ) -> dict[str, float]:
        """Note an evaluation on the axis of environment steps; return what is logged with it."""
        if self._start is None or not (self._collector or self._saved):
            return {}
        environment = trainer.datamodule.environment  # type: ignore[attr-defined]
        env_steps = self._pace.due(step - self._start) if step > self._start else 0
        before = int(self._points[-1]["env_steps"]) if self._points else 0
        times = before // self._pace.num_envs, env_steps // self._pace.num_envs
        # a resumed run may owe an evaluation alone: then nothing is collected, and what was is as it was saved
        episodes = self._collector.episodes if self._collector else unpack(self._saved["collected"]["episodes"])
        collected = collected_since(episodes, *times)
        scores = evaluation_scores(torch.device("cpu"), environment, results, results)
        self._points.append({"env_steps": env_steps, "gradient_steps": step - self._start, **scores, **collected})
        write_points(Path(trainer.default_root_dir), self._points)
        return {"online/env_steps": float(env_steps), **{f"online/{name}": value for name, value in collected.items()}}

    def state_dict(self) -> dict[str, Any]:
        """Return what was collected, where it began, and the curve; nothing for offline training."""
        if self._collector is None:
            return self._saved | {"points": self._points} if self._saved and self._pace.env_steps else {}
        return {
            "start": self._start,
            "settings": self._pace.settings,
            "collected": self._collector.state(),
            "points": self._points,
            "origin": self._origin,
        }

    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Close the environments; give the data module its own batches back."""
        self._release(10.0)
        if self._buffer is not None:
            self._buffer = None
            trainer.datamodule.complete_batches(None)  # type: ignore[attr-defined]
            pl_module.cloned_rows = None  # type: ignore[assignment]

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        """Wait for no environment."""
        self._release(0.1)

    def _release(self, patience: float) -> None:
        close, self._close = self._close, None
        if close is not None:
            close(patience)


def _evaluations(trainer: L.Trainer) -> list[EnvironmentEvaluation]:
    return [callback for callback in trainer.callbacks if isinstance(callback, EnvironmentEvaluation)]  # type: ignore[attr-defined]


def _first_success(episode: Any) -> bool:
    return bool(episode.reward[-1] > 0)
