"""The squashed Gaussian of Acme's agents, whose density is bounded at the edge of the action box."""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edp_lightning.networks.initialization import Initialization
from edp_lightning.networks.perceptron import Perceptron

LOG_SQRT_2PI = 0.5 * math.log(2 * math.pi)


class TanhNormalPolicy(nn.Module):
    """tanh of a Gaussian with mean and standard deviation softplus(.) + 0.01 from a network of the state (ReLU).

    Beyond ``edge`` the density is the mean one over the rest of the box, as in Acme's ``TanhTransformedDistribution``: that of
    a plain tanh Gaussian has no bound there, and actions of datasets often lie on the edge.

    Args:
        observation_dim: Width of an observation.
        action_dim: Width of an action.
        hidden_dims: Widths of the hidden layers.
        init: How the layers start, those of mean and spread each by itself.
        min_std: Smallest standard deviation.
        edge: Magnitude of actions from which on the density is constant, below 1.
        hidden_dtype: Precision of the hidden layers' products.
    """

    def __init__(
        self,
        observation_dim: int,
        action_dim: int,
        hidden_dims: Sequence[int],
        init: Initialization,
        min_std: float = 0.01,
        edge: float = 0.999,
        hidden_dtype: torch.dtype = torch.float32,
    ) -> None:
        super().__init__()
        self.network = Perceptron(observation_dim, hidden_dims, 2 * action_dim, init=init, hidden_dtype=hidden_dtype)
        output = self.network.output
        assert isinstance(output, nn.Linear)
        for weight, bias in zip(output.weight.detach().chunk(2), output.bias.detach().chunk(2), strict=True):
            init.output(weight, bias)
        self.min_std = min_std
        self.edge = edge

    def forward(self, observation: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and standard deviation before tanh, both (batch, action_dim)."""
        mean, spread = self.network(observation).chunk(2, dim=-1)
        return mean, F.softplus(spread) + self.min_std

    def mode(self, observation: Tensor) -> Tensor:
        """Return tanh of the means (batch, action_dim)."""
        result: Tensor = self(observation)[0].tanh()
        return result

    def sample(self, observation: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Return reparameterised actions with the log densities of these very actions.

        Args:
            observation: Normalised observations, shape (batch, observation_dim).
            noise: Standard normal draws, shape (..., batch, action_dim).

        Returns:
            Actions of the shape of ``noise`` and log densities without its last axis.
        """
        mean, std = self(observation)
        before = mean + std * noise
        return before.tanh(), self._log_density(mean, std, before)

    def log_prob(self, observation: Tensor, action: Tensor) -> Tensor:
        """Return log densities (batch,) of actions (batch, action_dim)."""
        mean, std = self(observation)
        return self._log_density(mean, std, action.clamp(-self.edge, self.edge).atanh())

    def _log_density(self, mean: Tensor, std: Tensor, before: Tensor) -> Tensor:
        """Return log densities of tanh(before), summed over the action."""
        bound = math.atanh(self.edge)
        rest = math.log(1 - self.edge)
        low, high = torch.special.log_ndtr((-bound - mean) / std) - rest, torch.special.log_ndtr((mean - bound) / std) - rest
        inner = before.clamp(-bound, bound)
        # log(1 - tanh(x)^2) = 2 (log 2 - x - softplus(-2 x)): exact where tanh rounds to 1
        squashing = 2 * (math.log(2) - inner - F.softplus(-2 * inner))
        inside = -0.5 * ((inner - mean) / std).square() - std.log() - LOG_SQRT_2PI - squashing
        # the smallest number below the bound may be what a clipped action comes back as
        near = bound * (1 - 1e-6)
        return torch.where(before <= -near, low, torch.where(before >= near, high, inside)).sum(-1)
