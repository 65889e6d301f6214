"""An algorithm as a user would write one, for tests."""

from typing import Any

from torch import nn

from edp_lightning.algorithms.offline_algorithm import OfflineAlgorithm
from edp_lightning.algorithms.optimization import Learner


class LinearCloning(OfflineAlgorithm):
    """Predicts the action by a linear map; its noise makes resuming worth a test.

    Args:
        lr: Learning rate.
        kwargs: Passed on.
    """

    def __init__(self, lr: float = 1e-2, **kwargs: Any) -> None:
        super().__init__(**kwargs)

    def build(self, observation_dim, action_dim):
        self.actor = nn.Linear(observation_dim, action_dim)

    def learners(self):
        return {"actor": Learner(self.hparams["lr"])}

    def gradient_step(self, batch, step):
        noise = self.row_noise(step).normal(*batch.action.shape)
        self.update("actor", (self.actor(self.normalizer(batch.observation)) - batch.action + 0.1 * noise).square().mean())

    def choose(self, observation, generators):
        return self.actor(observation)
