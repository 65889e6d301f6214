"""Behaviour cloning (CORL's any_percent_bc.py): python benchmarks/peers/bc.py table.npz [--steps N] [--seed S] [--to FILE]."""

import argparse

import numpy as np
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("table")
    parser.add_argument("--steps", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--to")
    arguments = parser.parse_args()
    torch.manual_seed(arguments.seed)
    table = {name: torch.from_numpy(column) for name, column in np.load(arguments.table).items()}
    peer = Peer(table["observation"].shape[1], table["action"].shape[1], arguments.steps)
    for step in range(arguments.steps):
        index = torch.randint(len(table["reward"]), (256,))
        logged = peer.step({name: column[index] for name, column in table.items()})
        if step % 1000 == 0 or step == arguments.steps - 1:
            print(step, logged, flush=True)
    if arguments.to:
        torch.save(peer.actor.state_dict(), arguments.to)


if __name__ == "__main__":
    main()
