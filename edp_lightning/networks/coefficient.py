"""A positive coefficient that depends on the state."""

import math

from torch import Tensor, nn

from edp_lightning.networks.mish import mish


class CoefficientNetwork(nn.Module):
    """A positive coefficient per state: exp of one hidden layer (Mish); alpha(s) of arXiv 2402.04080, appendix.

    Args:
        observation_dim: Width of an observation.
        initial: Coefficient of every state before training.
        hidden_dim: Width of the hidden layer.
    """

    def __init__(self, observation_dim: int, initial: float, hidden_dim: int = 32) -> None:
        super().__init__()
        self.hidden = nn.Linear(observation_dim, hidden_dim)
        self.output = nn.Linear(hidden_dim, 1)
        nn.init.zeros_(self.output.weight)
        nn.init.constant_(self.output.bias, math.log(initial))

    def forward(self, observation: Tensor) -> Tensor:
        """Return the coefficient of each observation (batch, observation_dim): (batch,)."""
        log_coef: Tensor = self.output(mish(self.hidden(observation))).squeeze(-1)
        return log_coef.exp()
