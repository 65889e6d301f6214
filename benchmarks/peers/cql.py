"""CQL (CORL's cql.py, without Lagrange)."""

import copy
import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributions import Normal, TanhTransform, TransformedDistribution

DISCOUNT, TAU, SAMPLES = 0.99, 0.005, 10


def network(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(inputs, 256),
        nn.ReLU(),
        nn.Linear(256, 256),
        nn.ReLU(),
        nn.Linear(256, 256),
        nn.ReLU(),
        nn.Linear(256, outputs),
    )


def critic(inputs: int) -> nn.Sequential:
    layers = network(inputs, 1)
    for layer in layers[:-1]:
        if isinstance(layer, nn.Linear):
            nn.init.orthogonal_(layer.weight, math.sqrt(2))
            nn.init.zeros_(layer.bias)
    nn.init.orthogonal_(layers[-1].weight, 1e-2)
    nn.init.zeros_(layers[-1].bias)
    return layers


class Actor(nn.Module):
    """tanh of a Gaussian."""

    def __init__(self, observation_dim: int, action_dim: int) -> None:
        super().__init__()
        self.body = network(observation_dim, 2 * action_dim)
        nn.init.xavier_uniform_(self.body[-1].weight, 1e-2)
        nn.init.zeros_(self.body[-1].bias)
        self.multiplier, self.offset = nn.Parameter(torch.tensor(1.0)), nn.Parameter(torch.tensor(-1.0))

    def forward(self, observation: Tensor, repeat: int | None = None) -> tuple[Tensor, Tensor]:
        if repeat is not None:
            observation = observation.unsqueeze(1).repeat_interleave(repeat, dim=1)
        mean, log_std = self.body(observation).chunk(2, dim=-1)
        std = (self.multiplier * log_std + self.offset).clamp(-20, 2).exp()
        law = TransformedDistribution(Normal(mean, std, validate_args=False), TanhTransform(cache_size=1), validate_args=False)
        action = law.rsample()
        return action, law.log_prob(action).sum(-1)


def judge(q: nn.Module, observation: Tensor, action: Tensor) -> Tensor:
    if action.ndim == 3:
        observation = observation.unsqueeze(1).repeat_interleave(action.shape[1], dim=1)
    return q(torch.cat([observation, action], dim=-1)).squeeze(-1)


class Peer:
    """One gradient step after another."""

    def __init__(self, observation_dim: int, action_dim: int, max_steps: int = 1_000_000, weight: float = 10.0) -> None:
        self.weight, self.action_dim = weight, action_dim
        self.actor = Actor(observation_dim, action_dim)
        self.q1, self.q2 = (critic(observation_dim + action_dim) for _ in range(2))
        self.target1, self.target2 = copy.deepcopy(self.q1), copy.deepcopy(self.q2)
        self.log_alpha = nn.Parameter(torch.zeros(()))
        self.actor_optimizer = torch.optim.Adam(self.actor.parameters(), lr=3e-5)
        self.alpha_optimizer = torch.optim.Adam([self.log_alpha], lr=3e-5)
        self.critic_optimizer = torch.optim.Adam([*self.q1.parameters(), *self.q2.parameters()], lr=3e-4)

    def step(self, batch: dict[str, Tensor]) -> dict[str, float]:
        """Take one step; returns what is logged."""
        observation, action, following = batch["observation"], batch["action"], batch["next_observation"]
        new, log_prob = self.actor(observation)
        alpha_loss = -(self.log_alpha * (log_prob - self.action_dim).detach()).mean()
        value = torch.minimum(judge(self.q1, observation, new), judge(self.q2, observation, new))
        actor_loss = (self.log_alpha.exp().detach() * log_prob - value).mean()

        with torch.no_grad():
            next_action, _ = self.actor(following)
            next_q = torch.minimum(judge(self.target1, following, next_action), judge(self.target2, following, next_action))
            target = batch["reward"] + DISCOUNT ** batch["steps"] * (1 - batch["terminated"]) * next_q
            uniform = torch.rand(len(action), SAMPLES, self.action_dim) * 2 - 1
            current, current_density = self.actor(observation, SAMPLES)
            after, after_density = self.actor(following, SAMPLES)
        critic_loss = 0.0
        for q in (self.q1, self.q2):
            predicted = judge(q, observation, action)
            sampled = torch.cat(
                [
                    judge(q, observation, uniform) - math.log(0.5**self.action_dim),
                    judge(q, observation, after) - after_density,
                    judge(q, observation, current) - current_density,
                ],
                dim=1,
            )
            gap = (torch.logsumexp(sampled, dim=1) - predicted).mean()
            critic_loss = critic_loss + F.mse_loss(predicted, target) + self.weight * gap

        self.alpha_optimizer.zero_grad()
        alpha_loss.backward()
        self.alpha_optimizer.step()
        self.actor_optimizer.zero_grad()
        actor_loss.backward()
        self.actor_optimizer.step()
        self.critic_optimizer.zero_grad()
        critic_loss.backward()
        self.critic_optimizer.step()
        for moving, source in ((self.target1, self.q1), (self.target2, self.q2)):
            for a, b in zip(moving.parameters(), source.parameters(), strict=True):
                a.data.copy_((1 - TAU) * a.data + TAU * b.data)
        return {"actor_loss": actor_loss.item(), "critic_loss": critic_loss.item(), "alpha": self.log_alpha.exp().item()}

    def act(self, observation: Tensor) -> Tensor:
        """Return actions in [-1, 1]."""
        return torch.tanh(self.actor.body(observation).chunk(2, dim=-1)[0])
