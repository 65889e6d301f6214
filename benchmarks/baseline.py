"""The gradient step as a straightforward program: what the released code of arXiv 2402.04080 computes, in the way it does.

Plain eager float32: targets are computed under autograd, inputs are repeated for every critic, the actor's loss fills the
gradients of all critics, Adam loops over parameters, Polyak averaging is a Python loop, five scalars are read every step.
"""

import copy
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edp_lightning.algorithms.noise import StepNoise
from edp_lightning.data.transitions import Batch
from edp_lightning.diffusion import MeanRevertingSDE, reference_entropy
from edp_lightning.policies.diffusion import DiffusionPolicy

TAU, EMA_DECAY, EMA_EVERY, DISCOUNT, CLIP_NORM, ETA, ENTROPY_COEF, LCB_COEF = 0.005, 0.995, 5, 0.99, 4.0, 2.0, 0.01, 4.0


class PlainNoiseNetwork(nn.Module):
    """concat(a^t, time embedding, s) -> 3 x 256 Mish -> action."""

    def __init__(self, observation_dim: int, action_dim: int, hidden: int) -> None:
        super().__init__()
        self.time = nn.Sequential(nn.Linear(16, 32), nn.Mish(), nn.Linear(32, 16))
        self.body = nn.Sequential(
            nn.Linear(action_dim + 16 + observation_dim, hidden),
            nn.Mish(),
            nn.Linear(hidden, hidden),
            nn.Mish(),
            nn.Linear(hidden, hidden),
            nn.Mish(),
            nn.Linear(hidden, action_dim),
        )

    def forward(self, noisy: Tensor, t: Tensor, observation: Tensor) -> Tensor:
        half = torch.exp(-torch.arange(8, device=t.device) * (torch.log(torch.tensor(10000.0)) / 7).to(t.device))
        angles = (t.expand(len(noisy)) - 1)[:, None] * half[None, :]  # row by row, as the released code does
        embedded = self.time(torch.cat([angles.sin(), angles.cos()], dim=-1))
        return self.body(torch.cat([noisy, embedded, observation], dim=1))


class PlainCritics(nn.Module):
    """M critics as stacked matrices; the input is repeated M times."""

    def __init__(self, inputs: int, num_critics: int, hidden: int) -> None:
        super().__init__()
        widths = [inputs, hidden, hidden, hidden, 1]
        self.num_critics = num_critics
        self.weights = nn.ParameterList(torch.randn(num_critics, a, b) / a**0.5 for a, b in pairwise(widths))
        self.biases = nn.ParameterList(torch.full((num_critics, 1, b), 0.1) for b in widths[1:])

    def forward(self, observation: Tensor, action: Tensor) -> Tensor:
        x = torch.cat([observation, action], dim=-1).unsqueeze(0).repeat_interleave(self.num_critics, dim=0)
        for index, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            x = torch.bmm(x, weight) + bias
            if index < len(self.weights) - 1:
                x = F.mish(x)
        return x.squeeze(-1).T  # (batch, num_critics)


class PlainStep:
    """One gradient step after another on given batches and noise."""

    def __init__(
        self, observation_dim: int, action_dim: int, num_critics: int, hidden: int, backup: int, device: torch.device
    ) -> None:
        network = PlainNoiseNetwork(observation_dim, action_dim, hidden)
        self.actor = DiffusionPolicy(network, MeanRevertingSDE(5), clip_start=True).to(device)  # type: ignore[arg-type]
        self.critic = PlainCritics(observation_dim + action_dim, num_critics, hidden).to(device)
        self.ema_actor, self.target_critic = copy.deepcopy(self.actor), copy.deepcopy(self.critic)
        self.actor_optimizer = torch.optim.Adam(self.actor.parameters(), lr=3e-4)
        self.critic_optimizer = torch.optim.Adam(self.critic.parameters(), lr=3e-4)
        self.backup = backup
        self.count = 0

    def step(self, batch: Batch, noise: StepNoise) -> list[float]:
        """Take one step; returns the five scalars that are logged."""
        observation, action = batch.observation, batch.action
        following = batch.next_observation.repeat_interleave(self.backup, dim=0)
        next_action = self.ema_actor.sample(following, noise.next_action)
        next_q = self.target_critic(following, next_action)
        if self.backup > 1:
            next_q = next_q.view(len(observation), self.backup, -1).max(dim=1)[0]
        target = (batch.reward[:, None] + (1 - batch.terminated[:, None]) * DISCOUNT * next_q).detach()
        q = self.critic(observation, action)
        critic_loss = F.mse_loss(q, target)
        self.critic_optimizer.zero_grad()
        critic_loss.backward()
        critic_norm = nn.utils.clip_grad_norm_(self.critic.parameters(), CLIP_NORM)
        self.critic_optimizer.step()

        noisy = self.actor.sde.diffuse(action, noise.time, noise.action)
        predicted = self.actor.network(noisy, noise.time, observation)
        bc_loss = F.mse_loss(predicted, noise.action)
        clean = self.actor.sde.predict_clean(noisy, noise.time, predicted)
        q = self.critic(observation, clean.clamp(-1, 1))
        lcb = q.mean(dim=1) - LCB_COEF * q.std(dim=1)
        q_loss = -lcb.mean() / q.abs().mean().detach()
        entropy = reference_entropy(self.actor.sde, clean, noise.entropy[0])
        entropy_loss = -entropy.mean() / entropy.abs().mean().detach()
        loss = bc_loss + ETA * q_loss + ENTROPY_COEF * entropy_loss
        self.actor_optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self.actor.parameters(), CLIP_NORM)
        self.actor_optimizer.step()

        if self.count % EMA_EVERY == 0:
            for average, source in zip(self.ema_actor.parameters(), self.actor.parameters(), strict=True):
                average.data = average.data * EMA_DECAY + source.data * (1 - EMA_DECAY)
        for moving, source in zip(self.target_critic.parameters(), self.critic.parameters(), strict=True):
            moving.data.copy_(TAU * source.data + (1 - TAU) * moving.data)
        self.count += 1
        return [critic_loss.item(), critic_norm.item(), bc_loss.item(), q_loss.item(), target.mean().item()]
