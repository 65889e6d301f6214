"""ReBRAC (tinkoff-ai/ReBRAC)."""

import copy

import torch
from torch import Tensor, nn

TAU = 0.005


def network(inputs: int, outputs: int, norm: bool, bound: float) -> nn.Sequential:
    layers: list[nn.Module] = []
    for width in (inputs, 256, 256):
        layer = nn.Linear(width, 256)
        nn.init.uniform_(layer.weight, -(width**-0.5), width**-0.5)
        nn.init.constant_(layer.bias, 0.1)
        layers += [layer, nn.ReLU()] + ([nn.LayerNorm(256, eps=1e-6)] if norm else [])
    last = nn.Linear(256, outputs)
    nn.init.uniform_(last.weight, -bound, bound)
    nn.init.uniform_(last.bias, -bound, bound)
    return nn.Sequential(*layers, last)


class Peer:
    """One gradient step after another."""

    def __init__(
        self,
        observation_dim: int,
        action_dim: int,
        max_steps: int = 1_000_000,
        actor_bc: float = 0.003,
        critic_bc: float = 0.002,
        actor_lr: float = 3e-4,
        critic_lr: float = 3e-4,
        discount: float = 0.99,
    ) -> None:
        self.actor_bc, self.critic_bc, self.discount, self.count = actor_bc, critic_bc, discount, 0
        self.actor = nn.Sequential(network(observation_dim, action_dim, False, 1e-3), nn.Tanh())
        self.q1, self.q2 = (network(observation_dim + action_dim, 1, True, 3e-3) for _ in range(2))
        self.target_actor = copy.deepcopy(self.actor)
        self.target1, self.target2 = copy.deepcopy(self.q1), copy.deepcopy(self.q2)
        self.actor_optimizer = torch.optim.Adam(self.actor.parameters(), lr=actor_lr)
        self.critic_optimizer = torch.optim.Adam([*self.q1.parameters(), *self.q2.parameters()], lr=critic_lr)

    def step(self, batch: dict[str, Tensor]) -> dict[str, float]:
        """Take one step; returns what is logged."""
        observation, action, following = batch["observation"], batch["action"], batch["next_observation"]
        with torch.no_grad():
            next_action = self.target_actor(following)
            noise = (torch.randn_like(next_action) * 0.2).clamp(-0.5, 0.5)
            next_action = (next_action + noise).clamp(-1, 1)
            pair = torch.cat([following, next_action], dim=1)
            next_q = torch.minimum(self.target1(pair), self.target2(pair)).squeeze(1)
            distance = batch["next_action_known"] * ((next_action - batch["next_action"]) ** 2).sum(1)
            next_q = next_q - self.critic_bc * distance
            target = batch["reward"] + self.discount ** batch["steps"] * (1 - batch["terminated"]) * next_q
        pair = torch.cat([observation, action], dim=1)
        critic_loss = sum(((q(pair).squeeze(1) - target) ** 2).mean() for q in (self.q1, self.q2))
        self.critic_optimizer.zero_grad()
        critic_loss.backward()
        self.critic_optimizer.step()
        logged = {"critic_loss": critic_loss.item()}
        if self.count % 2 == 0:
            mine = self.actor(observation)
            pair = torch.cat([observation, mine], dim=1)
            value = torch.minimum(self.q1(pair), self.q2(pair)).squeeze(1)
            scale = 1 / value.abs().mean().detach()
            actor_loss = (self.actor_bc * ((mine - action) ** 2).sum(1) - scale * value).mean()
            self.actor_optimizer.zero_grad()
            actor_loss.backward()
            self.actor_optimizer.step()
            logged["actor_loss"] = actor_loss.item()
            pairs = ((self.target_actor, self.actor), (self.target1, self.q1), (self.target2, self.q2))
            for moving, source in pairs:
                for a, b in zip(moving.parameters(), source.parameters(), strict=True):
                    a.data.copy_((1 - TAU) * a.data + TAU * b.data)
        self.count += 1
        return logged

    def act(self, observation: Tensor) -> Tensor:
        """Return actions in [-1, 1]."""
        return self.actor(observation)
