"""Whether the critics tell the truth, at every evaluation."""

from collections.abc import Sequence
from typing import Any, ClassVar

import lightning as L
import numpy as np
import torch
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor

from edp_lightning.algorithms.inspection import Critics
from edp_lightning.callbacks.environment_evaluation import EnvironmentEvaluation
from edp_lightning.errors import UserError
from edp_lightning.evaluation.calibration import ReturnsToGo, bias, concatenate, correlation, returns_to_go, spread_evenly
from edp_lightning.evaluation.rollout import EpisodeResult, Trajectory
from edp_lightning.figures.calibration import draw_calibration
from edp_lightning.option_bounds import check_bounds


class QDiagnostics(L.Callback):
    """Compares the target critics with the discounted returns of the evaluation's episodes, in training's reward units.

    Logs under ``q_diagnostics/``: ``bias`` (mean of the critics minus return, above 0 where they overestimate), ``lcb_bias``
    (the same for the pessimistic value the policy is trained on), ``correlation`` of critics and returns, and
    ``spread_data`` and ``spread_policy``: the critics' standard deviation on dataset actions and on the policy's actions in
    the same states. TensorBoard gets a calibration plot too, where matplotlib is installed.

    The critics are trained on single actions of the EMA actor, the episodes play the best of several candidates: a
    policy that improves on the EMA actor pushes the bias down. Episodes that a time limit cut count as far as less than
    half of a return lies beyond the cut. Where the evaluation pays other rewards than the data, only the spreads are logged.

    Args:
        enabled: Off leaves evaluations as they are.
        num_states: Largest number of episode steps, and of dataset rows, that go through the critics.
    """

    at_least: ClassVar[dict[str, float]] = {"num_states": 2}

    def __init__(self, enabled: bool = True, num_states: int = 1024) -> None:
        check_bounds("q_diagnostics", {"num_states": num_states}, self)
        self.enabled = enabled
        self.num_states = num_states
        self._told: set[str] = set()

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Ask the evaluation for its episodes."""
        for callback in trainer.callbacks if self.enabled else []:  # type: ignore[attr-defined]
            if isinstance(callback, EnvironmentEvaluation) and self.after_evaluation not in callback.listeners:
                callback.record = True
                callback.listeners.append(self.after_evaluation)

    @torch.no_grad()
    def after_evaluation(
        self, trainer: L.Trainer, pl_module: L.LightningModule, results: list[EpisodeResult], step: int
    ) -> dict[str, float]:
        """Return everything that is to be logged; rank 0 calculates it with its own episodes.

        Args:
            trainer: The trainer.
            pl_module: The policy that played and its critics.
            results: Episodes.
            step: Gradient steps the policy had taken.
        """
        algorithm: Any = pl_module
        if not trainer.is_global_zero or algorithm.critics is None:
            return {}
        numbers = self._spreads(trainer, pl_module)
        trajectories = [result.trajectory for result in results if result.trajectory is not None]
        mismatch = trainer.datamodule.reward_mismatch  # type: ignore[attr-defined]
        if mismatch:
            self._tell(f"q_diagnostics: no comparison with returns, {mismatch}")
        elif trajectories:
            numbers |= self._calibrate(trainer, pl_module, trajectories, step)
        return {f"q_diagnostics/{name}": value for name, value in numbers.items()}

    def _spreads(self, trainer: L.Trainer, module: Any) -> dict[str, float]:
        """Return the critics' standard deviation on dataset actions and on policy actions, averaged over states."""
        critics: Critics | None = module.critics
        if critics is None:
            return {}
        table = trainer.datamodule.table  # type: ignore[attr-defined]
        rows = table.gather(torch.from_numpy(spread_evenly(len(table), self.num_states)).to(table.rows.device))
        observation, action = module.normalizer(rows.observation.to(module.device)), rows.action.to(module.device)
        on_data = critics.target(observation, action)
        if len(on_data) < 2:
            return {}
        spreads = {"spread_data": on_data}
        drawn = module.draw_actions(observation, torch.Generator().manual_seed(0))
        if drawn is not None:
            spreads["spread_policy"] = critics.target(observation, drawn)
        return {name: float(q.std(dim=0).mean()) for name, q in spreads.items()}

    def _calibrate(self, trainer: L.Trainer, module: Any, trajectories: Sequence[Trajectory], step: int) -> dict[str, float]:
        """Return bias and correlation over steps of the episodes, and draw them."""
        reward_map = trainer.datamodule.reward_map  # type: ignore[attr-defined]
        parts: list[ReturnsToGo] = []
        for trajectory in trajectories:
            reward, last = reward_map(trajectory.reward), None
            if not trajectory.terminated:
                last = float(self._q(module, trajectory.observation[-1:], trajectory.action[-1:]).mean())
                reward = reward[: trajectory.decided_at[-1] + 1]
            parts.append(returns_to_go(reward, module.discount, last, trajectory.decided_at))
        observation, action = (
            np.concatenate([getattr(t, name)[: len(p.value)] for t, p in zip(trajectories, parts, strict=True)])
            for name in ("observation", "action")
        )
        value, unseen = concatenate(parts)
        usable = np.flatnonzero(unseen < 0.5)
        if len(usable) == 0:
            self._tell("q_diagnostics: no comparison with returns, the time limit hides over half of every return")
            return {}
        rows = usable[spread_evenly(len(usable), self.num_states)]
        value, unseen = value[rows], unseen[rows]
        q = self._q(module, observation[rows], action[rows])
        mean = wide(q.mean(dim=0)).numpy()
        pessimistic = wide(module.critics.pessimistic(q)).numpy()
        self._draw(trainer, step, value, mean, pessimistic)
        numbers = {"bias": bias(mean, value, unseen), "lcb_bias": bias(pessimistic, value, unseen)}
        agreement = correlation(mean, value)
        return numbers if agreement is None else numbers | {"correlation": agreement}

    @staticmethod
    def _q(module: Any, observation: np.ndarray[Any, Any], action: np.ndarray[Any, Any]) -> Tensor:
        """Return the target critics' values of actions in the environment's units, shape (num_critics, steps)."""
        state = module.normalizer(torch.from_numpy(observation).to(module.device))
        q: Tensor = module.critics.target(state, module.action_scaler.inverse(torch.from_numpy(action).to(module.device)))
        return q

    def _draw(self, trainer: L.Trainer, step: int, *columns: np.ndarray[Any, Any]) -> None:
        if not isinstance(trainer.logger, TensorBoardLogger):
            return
        try:
            figure = draw_calibration(*columns)
        except UserError as error:
            self._tell(f"q_diagnostics: no calibration plot, {error}")
            return
        trainer.logger.experiment.add_figure("q_diagnostics/calibration", figure, step - 1)

    def _tell(self, message: str) -> None:
        """Say something once per run."""
        if message not in self._told:
            self._told.add(message)
            rank_zero_info(message)


def wide(values: Tensor) -> Tensor:
    """Return values in float64 on the CPU; not every device has float64."""
    return values.cpu().double()
