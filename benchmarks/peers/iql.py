"""IQL (ikostrikov/implicit_q_learning)."""

import copy
import math

import torch
from torch import Tensor, nn

TAU = 0.005


def network(inputs: int, outputs: int) -> nn.Sequential:
    layers = [nn.Linear(inputs, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, outputs)]
    for layer in layers:
        if isinstance(layer, nn.Linear):
            nn.init.orthogonal_(layer.weight, math.sqrt(2))
            nn.init.zeros_(layer.bias)
    return nn.Sequential(*layers)


class Actor(nn.Module):
    """A Gaussian with one spread for all states."""

    def __init__(self, observation_dim: int, action_dim: int) -> None:
        super().__init__()
        self.mean = network(observation_dim, action_dim)
        self.log_std = nn.Parameter(torch.zeros(action_dim))

    def log_prob(self, observation: Tensor, action: Tensor) -> Tensor:
        std = self.log_std.clamp(-5, 2).exp()
        return torch.distributions.Normal(torch.tanh(self.mean(observation)), std).log_prob(action).sum(-1)


class Peer:
    """One gradient step after another."""

    def __init__(
        self,
        observation_dim: int,
        action_dim: int,
        max_steps: int = 1_000_000,
        expectile: float = 0.7,
        beta: float = 3.0,
        discount: float = 0.99,
    ) -> None:
        self.expectile, self.beta, self.discount = expectile, beta, discount
        self.value, self.actor = network(observation_dim, 1), Actor(observation_dim, action_dim)
        self.q1, self.q2 = (network(observation_dim + action_dim, 1) for _ in range(2))
        self.target1, self.target2 = copy.deepcopy(self.q1), copy.deepcopy(self.q2)
        self.value_optimizer = torch.optim.Adam(self.value.parameters(), lr=3e-4)
        self.actor_optimizer = torch.optim.Adam(self.actor.parameters(), lr=3e-4)
        self.critic_optimizer = torch.optim.Adam([*self.q1.parameters(), *self.q2.parameters()], lr=3e-4)
        self.schedule = torch.optim.lr_scheduler.CosineAnnealingLR(self.actor_optimizer, max_steps)

    def step(self, batch: dict[str, Tensor]) -> dict[str, float]:
        """Take one step; returns what is logged."""
        observation, action = batch["observation"], batch["action"]
        pair = torch.cat([observation, action], dim=1)
        with torch.no_grad():
            target_q = torch.minimum(self.target1(pair), self.target2(pair)).squeeze(1)
        error = target_q - self.value(observation).squeeze(1)
        value_loss = (torch.abs(self.expectile - (error < 0).float()) * error**2).mean()
        self.value_optimizer.zero_grad()
        value_loss.backward()
        self.value_optimizer.step()

        with torch.no_grad():
            advantage = target_q - self.value(observation).squeeze(1)
            weight = torch.exp(self.beta * advantage).clamp(max=100)
            next_value = self.value(batch["next_observation"]).squeeze(1)
            target = batch["reward"] + self.discount ** batch["steps"] * (1 - batch["terminated"]) * next_value
        actor_loss = -(weight * self.actor.log_prob(observation, action)).mean()
        self.actor_optimizer.zero_grad()
        actor_loss.backward()
        self.actor_optimizer.step()
        self.schedule.step()

        critic_loss = ((self.q1(pair).squeeze(1) - target) ** 2 + (self.q2(pair).squeeze(1) - target) ** 2).mean()
        self.critic_optimizer.zero_grad()
        critic_loss.backward()
        self.critic_optimizer.step()
        for moving, source in ((self.target1, self.q1), (self.target2, self.q2)):
            for a, b in zip(moving.parameters(), source.parameters(), strict=True):
                a.data.copy_((1 - TAU) * a.data + TAU * b.data)
        return {"value_loss": value_loss.item(), "actor_loss": actor_loss.item(), "critic_loss": critic_loss.item()}

    def act(self, observation: Tensor) -> Tensor:
        """Return actions in [-1, 1]."""
        return torch.tanh(self.actor.mean(observation))
