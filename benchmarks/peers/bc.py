"""Behaviour cloning (CORL's any_percent_bc.py)."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Peer:
    """One gradient step after another."""

    def __init__(self, observation_dim: int, action_dim: int, max_steps: int = 1_000_000) -> None:
        self.actor = nn.Sequential(
            nn.Linear(observation_dim, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, action_dim), nn.Tanh()
        )
        self.optimizer = torch.optim.Adam(self.actor.parameters(), lr=3e-4)

    def step(self, batch: dict[str, Tensor]) -> dict[str, float]:
        """Take one step; returns what is logged."""
        loss = F.mse_loss(self.actor(batch["observation"]), batch["action"])
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        return {"actor_loss": loss.item()}

    def act(self, observation: Tensor) -> Tensor:
        """Return actions in [-1, 1]."""
        return self.actor(observation)
