"""Behaviour cloning: a deterministic policy by regression onto the data's actions."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from edp_lightning.acceleration.compilation import preparation
from edp_lightning.algorithms.inspection import StepReport
from edp_lightning.algorithms.offline_algorithm import OfflineAlgorithm
from edp_lightning.algorithms.optimization import Learner
from edp_lightning.data.transitions import Batch
from edp_lightning.networks.perceptron import Perceptron
from edp_lightning.policies.gaussian import DeterministicPolicy


class BehaviorCloning(OfflineAlgorithm):
    """Deterministic behaviour cloning as in CORL's ``any_percent_bc.py``; 10 % BC is ``data.best_share`` 0.1.

    Args:
        hidden_dims: Widths of the hidden layers (ReLU).
        actor_lr: Adam learning rate.
        kwargs: Options of every algorithm.
    """

    fixed_options = (*OfflineAlgorithm.fixed_options, "hidden_dims")

    def __init__(self, hidden_dims: Sequence[int] = (256, 256), actor_lr: float = 3.0e-4, **kwargs: Any) -> None:
        hidden_dims = list(hidden_dims)
        super().__init__(**kwargs)

    def build(self, observation_dim: int, action_dim: int) -> None:
        """Create the actor."""
        hidden_dims = self.hparams["hidden_dims"]
        self.actor = DeterministicPolicy(Perceptron(observation_dim, hidden_dims, action_dim, hidden_dtype=self.hidden_dtype))

    def learners(self) -> dict[str, Learner]:
        """Return the actor."""
        return {"actor": Learner(self.hparams["actor_lr"])}

    def prepare_step(self, compiled: bool) -> None:
        """Choose whether the loss is compiled for this module's device."""
        self._loss = preparation(compiled)(_loss)

    def draw_noise(self, step: int, rows: int) -> tuple[Tensor, ...]:
        """Return no random numbers: there are none."""
        return ()

    def step_on(self, batch: Batch, noise: tuple[Tensor, ...]) -> StepReport | None:
        """Take one gradient step of the actor."""
        self.update("actor", self._loss(self.actor, self.normalizer(batch.observation), batch.action))
        return None

    def choose(self, observation: Tensor, generators: Sequence[torch.Generator]) -> Tensor:
        """Return the actor's actions."""
        action: Tensor = self.actor(observation)
        return action

    def draw_actions(self, observation: Tensor, generator: torch.Generator) -> Tensor:
        """Return the actor's actions: it has no spread."""
        action: Tensor = self.actor(observation)
        return action


def _loss(actor: DeterministicPolicy, observation: Tensor, action: Tensor) -> Tensor:
    """Return the mean squared error over rows and dimensions of the action."""
    result: Tensor = (actor(observation) - action).square().mean()
    return result
