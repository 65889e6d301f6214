"""A policy as the flow of a velocity field from noise to actions."""

import torch
from torch import Tensor, nn

from edp_lightning.networks.perceptron import Perceptron


class FlowPolicy(nn.Module):
    """Actions by integrating a learned velocity over time 0 to 1, from normal noise (arXiv 2210.02747; 2502.02538, FQL).

    Args:
        network: Velocity of (observation, point, time), rows of observation_dim + action_dim + 1, as (batch, action_dim).
        num_steps: Euler steps.
    """

    def __init__(self, network: Perceptron, num_steps: int = 10) -> None:
        super().__init__()
        self.network = network
        self.num_steps = num_steps

    def forward(self, observation: Tensor, point: Tensor, time: Tensor) -> Tensor:
        """Return velocities (batch, action_dim).

        Args:
            observation: Normalised observations, shape (batch, observation_dim).
            point: Points on the way from noise to action, shape (batch, action_dim).
            time: Times in [0, 1], shape (batch, 1).
        """
        velocity: Tensor = self.network(torch.cat([observation, point, time], dim=-1))
        return velocity

    def matching_loss(self, observation: Tensor, action: Tensor, noise: Tensor, time: Tensor) -> Tensor:
        """Return the mean squared error of the velocity on straight lines from noise to the data's actions, a scalar.

        Args:
            observation: Normalised observations, shape (batch, observation_dim).
            action: The data's actions, shape (batch, action_dim).
            noise: Standard normal draws, shape (batch, action_dim).
            time: Draws from U(0, 1), shape (batch, 1).
        """
        velocity = self(observation, (1 - time) * noise + time * action, time)
        result: Tensor = (velocity - (action - noise)).square().mean()
        return result

    def sample(self, observation: Tensor, noise: Tensor) -> Tensor:
        """Return where the flow takes ``noise`` (batch, action_dim), clipped to [-1, 1]."""
        point = noise
        for step in range(self.num_steps):
            time = torch.full_like(point[:, :1], step / self.num_steps)
            point = point + self(observation, point, time) / self.num_steps
        return point.clamp(-1.0, 1.0)


class OneStepPolicy(nn.Module):
    """Actions from noise in one pass of a network.

    Args:
        network: From (observation, noise), rows of observation_dim + action_dim, to (batch, action_dim).
    """

    def __init__(self, network: Perceptron) -> None:
        super().__init__()
        self.network = network

    def forward(self, observation: Tensor, noise: Tensor) -> Tensor:
        """Return actions (batch, action_dim) of observations and noise (batch, action_dim), not clipped yet."""
        action: Tensor = self.network(torch.cat([observation, noise], dim=-1))
        return action
