"""Constant affine maps between what the environment speaks and what the networks see; saved with the checkpoint."""

import torch
from torch import Tensor, nn


class ObservationNormalizer(nn.Module):
    """Maps observations to (observation - mean) / std; the identity until :meth:`set` is called.

    Args:
        observation_dim: Width of an observation.
        limit: Bound on the magnitude of normalised values, which keeps a state far off the data from saturating the networks.
    """

    mean: Tensor
    std: Tensor
    active: Tensor

    def __init__(self, observation_dim: int, limit: float = 10.0) -> None:
        super().__init__()
        self.limit = limit
        self.register_buffer("mean", torch.zeros(observation_dim))
        self.register_buffer("std", torch.ones(observation_dim))
        self.register_buffer("active", torch.zeros((), dtype=torch.bool))

    def set(self, mean: Tensor, std: Tensor) -> None:
        """Store the statistics, both (observation_dim,); zeros and ones switch the normaliser off."""
        self.mean.copy_(mean)
        self.std.copy_(std)
        self.active.fill_(not (bool((mean == 0).all()) and bool((std == 1).all())))

    def forward(self, observation: Tensor) -> Tensor:
        """Normalise observations, shape (..., observation_dim)."""
        normalised = (observation - self.mean) / self.std
        return torch.where(self.active, normalised.clamp(-self.limit, self.limit), observation)


class ActionScaler(nn.Module):
    """Maps actions from [-1, 1] to the environment's box and back.

    Args:
        action_dim: Width of an action.
    """

    low: Tensor
    high: Tensor

    def __init__(self, action_dim: int) -> None:
        super().__init__()
        self.register_buffer("low", -torch.ones(action_dim))
        self.register_buffer("high", torch.ones(action_dim))

    def set(self, low: Tensor, high: Tensor) -> None:
        """Store the bounds of the box, both (action_dim,)."""
        self.low.copy_(low)
        self.high.copy_(high)

    def forward(self, action: Tensor) -> Tensor:
        """Return actions (..., action_dim) in the environment's units; values outside [-1, 1] are clipped first."""
        unit = (action.clamp(-1.0, 1.0) + 1) / 2
        scaled = self.low + unit * (self.high - self.low)
        return torch.minimum(torch.maximum(scaled, self.low), self.high)  # rounding may lead one unit beyond a bound

    def inverse(self, action: Tensor) -> Tensor:
        """Return actions (..., action_dim) of the environment's box in [-1, 1]."""
        return 2 * (action - self.low) / (self.high - self.low) - 1
