"""Policies of one Gaussian per state, and the deterministic one that is left of it without a spread."""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edp_lightning.networks.initialization import TORCH, Initialization
from edp_lightning.networks.perceptron import Perceptron

LOG_SQRT_2PI = 0.5 * math.log(2 * math.pi)


class DeterministicPolicy(nn.Module):
    """a = tanh(network(s)), in [-1, 1].

    Args:
        network: From observations (batch, observation_dim) to (batch, action_dim).
    """

    def __init__(self, network: Perceptron) -> None:
        super().__init__()
        self.network = network

    def forward(self, observation: Tensor, kept: Sequence[Tensor] = ()) -> Tensor:
        """Return actions (batch, action_dim).

        Args:
            observation: Normalised observations, shape (batch, observation_dim).
            kept: See ``Perceptron.forward``.
        """
        result: Tensor = self.network(observation, kept).tanh()
        return result


class GaussianPolicy(nn.Module):
    """N(tanh(network(s)), diag(exp(2 log_std))) with one log_std for all states, not squashed (arXiv 2110.06169, IQL).

    Args:
        network: From observations (batch, observation_dim) to (batch, action_dim).
        action_dim: Width of an action.
        log_std_min: Lower bound of log_std, which starts at 0.
        log_std_max: Upper bound of log_std.
    """

    def __init__(self, network: Perceptron, action_dim: int, log_std_min: float = -5.0, log_std_max: float = 2.0) -> None:
        super().__init__()
        self.network = network
        self.log_std = nn.Parameter(torch.zeros(action_dim))
        self.log_std_min = log_std_min
        self.log_std_max = log_std_max

    def forward(self, observation: Tensor, kept: Sequence[Tensor] = ()) -> Tensor:
        """Return the means (batch, action_dim), which are the most likely actions; arguments as of ``log_prob``."""
        result: Tensor = self.network(observation, kept).tanh()
        return result

    def log_prob(self, observation: Tensor, action: Tensor, kept: Sequence[Tensor] = ()) -> Tensor:
        """Return log densities (batch,).

        Args:
            observation: Normalised observations, shape (batch, observation_dim).
            action: Actions, shape (batch, action_dim).
            kept: See ``Perceptron.forward``.
        """
        log_std = self.bounded_log_std()
        z = (action - self(observation, kept)) * (-log_std).exp()
        result: Tensor = (-0.5 * z.square() - log_std - LOG_SQRT_2PI).sum(-1)
        return result

    def sample(self, observation: Tensor, noise: Tensor) -> Tensor:
        """Return actions from standard normal ``noise`` (batch, action_dim), clipped to [-1, 1]."""
        result: Tensor = (self(observation) + self.bounded_log_std().exp() * noise).clamp(-1.0, 1.0)
        return result

    def bounded_log_std(self) -> Tensor:
        """Return log_std within its bounds, shape (action_dim,)."""
        return self.log_std.clamp(self.log_std_min, self.log_std_max)


class TanhGaussianPolicy(nn.Module):
    """tanh of a Gaussian whose mean and spread depend on the state (arXiv 1801.01290, appendix C).

    log_std = multiplier * network + offset, with two trained numbers, bounded (young-geng/CQL).

    Args:
        observation_dim: Width of an observation.
        action_dim: Width of an action.
        hidden_dims: Widths of the hidden layers (ReLU).
        init: How the network starts.
        log_std_multiplier: Initial factor of the network's log_std.
        log_std_offset: Initial offset of log_std.
        log_std_min: Lower bound of log_std.
        log_std_max: Upper bound of log_std.
        hidden_dtype: Precision of the hidden layers' products.
    """

    def __init__(
        self,
        observation_dim: int,
        action_dim: int,
        hidden_dims: Sequence[int],
        init: Initialization = TORCH,
        log_std_multiplier: float = 1.0,
        log_std_offset: float = -1.0,
        log_std_min: float = -20.0,
        log_std_max: float = 2.0,
        hidden_dtype: torch.dtype = torch.float32,
    ) -> None:
        super().__init__()
        self.network = Perceptron(observation_dim, hidden_dims, 2 * action_dim, init=init, hidden_dtype=hidden_dtype)
        self.log_std_multiplier = nn.Parameter(torch.tensor(float(log_std_multiplier)))
        self.log_std_offset = nn.Parameter(torch.tensor(float(log_std_offset)))
        self.log_std_min = log_std_min
        self.log_std_max = log_std_max

    def forward(self, observation: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and log_std of the Gaussian before tanh, both (batch, action_dim)."""
        mean, log_std = self.network(observation).chunk(2, dim=-1)
        log_std = self.log_std_multiplier * log_std + self.log_std_offset
        return mean, log_std.clamp(self.log_std_min, self.log_std_max)

    def mode(self, observation: Tensor) -> Tensor:
        """Return tanh of the means (batch, action_dim)."""
        result: Tensor = self(observation)[0].tanh()
        return result

    def sample(self, observation: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Return reparameterised actions with the log densities of these very actions.

        Args:
            observation: Normalised observations, shape (batch, observation_dim).
            noise: Standard normal draws, shape (batch, action_dim) or, for several actions per state, (batch, n, action_dim).

        Returns:
            Actions of the shape of ``noise`` and log densities without its last axis.
        """
        mean, log_std = self(observation)
        if noise.dim() == 3:
            mean, log_std = mean.unsqueeze(1), log_std.unsqueeze(1)
        before = mean + log_std.exp() * noise
        # log(1 - tanh(x)^2) = 2 (log 2 - x - softplus(-2 x)): exact where tanh rounds to 1
        squashing = 2 * (math.log(2) - before - F.softplus(-2 * before))
        density = -0.5 * noise.square() - log_std - LOG_SQRT_2PI - squashing
        return before.tanh(), density.sum(-1)
