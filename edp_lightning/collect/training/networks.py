"""The two networks of PPO: a Gaussian policy and a value."""

import math
from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn


class GaussianActor(nn.Module):
    """Gaussian policy with a state-independent standard deviation.

    Args:
        observation_dim: Size of an observation.
        action_dim: Size of an action.
        hidden_dims: Widths of the hidden layers.
        activation: Activation of the hidden layers.
        squash: The mean goes through tanh.
        std: Initial standard deviation, > 0.
    """

    def __init__(
        self,
        observation_dim: int,
        action_dim: int,
        hidden_dims: Sequence[int],
        activation: Callable[[Tensor], Tensor],
        squash: bool,
        std: float,
    ) -> None:
        super().__init__()
        dims = [observation_dim, *hidden_dims]
        self.hidden = nn.ModuleList(_linear(n, m, math.sqrt(2)) for n, m in pairwise(dims))
        # A small last layer: the first policy is nearly the same everywhere (arXiv 2006.05990, section 3.2).
        self.mean = _linear(dims[-1], action_dim, 0.01)
        self.log_std = nn.Parameter(torch.full((action_dim,), math.log(std)))
        self._activation, self._squash = activation, squash

    def forward(self, observation: Tensor) -> Tensor:
        """Return the mean action, (..., action_dim), for observations (..., observation_dim)."""
        x = observation
        for layer in self.hidden:
            x = self._activation(layer(x))
        mean: Tensor = self.mean(x)
        return torch.tanh(mean) if self._squash else mean


def gaussian_log_prob(action: Tensor, mean: Tensor, log_std: Tensor) -> Tensor:
    """Return log N(action; mean, exp(log_std)^2), without the constant, summed over actions' dimensions: (..., A) -> (...)."""
    return (-0.5 * ((action - mean) / log_std.exp()).square() - log_std).sum(-1)


class ValueNetwork(nn.Module):
    """State value.

    Args:
        observation_dim: Size of an observation.
        hidden_dims: Widths of the hidden layers.
        normalize: LayerNorm after the first layer, and ELU in place of tanh.
        scale: Factors of the observation's numbers, (observation_dim,); what comes out is clipped to [-10, 10].
    """

    def __init__(
        self, observation_dim: int, hidden_dims: Sequence[int], normalize: bool = False, scale: Tensor | None = None
    ) -> None:
        super().__init__()
        self._scale = torch.ones(observation_dim) if scale is None else scale
        dims = [observation_dim, *hidden_dims]
        layers: list[nn.Module] = []
        for number, (n, m) in enumerate(pairwise(dims)):
            layers.append(nn.Linear(n, m) if normalize else _linear(n, m, math.sqrt(2)))
            if normalize and number == 0:
                layers.append(nn.LayerNorm(m))
            layers.append(nn.ELU() if normalize else nn.Tanh())
        layers.append(nn.Linear(dims[-1], 1) if normalize else _linear(dims[-1], 1, 1.0))
        self.layers = nn.Sequential(*layers)

    def forward(self, observation: Tensor) -> Tensor:
        """Return values, (...,), for observations (..., observation_dim)."""
        value: Tensor = self.layers((observation * self._scale).clamp(-10.0, 10.0))
        return value.squeeze(-1)


def _linear(n: int, m: int, gain: float) -> nn.Linear:
    layer = nn.Linear(n, m)
    nn.init.orthogonal_(layer.weight, gain)
    nn.init.zeros_(layer.bias)
    return layer
