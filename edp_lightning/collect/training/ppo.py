"""Proximal policy optimisation (Schulman et al., arXiv 1707.06347) of one Gaussian policy on many robots."""

from collections import deque
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from edp_lightning.collect.physics.batched import Array
from edp_lightning.collect.training.advantages import generalized_advantages
from edp_lightning.collect.training.networks import GaussianActor, ValueNetwork, gaussian_log_prob
from edp_lightning.collect.training.statistics import RewardScale, RunningStatistics
from edp_lightning.collect.training.task import TrainingTask


@dataclass(frozen=True)
class PPOSettings:
    """Settings of PPO.

    Attributes:
        rollout_steps: Steps of each robot per iteration.
        epochs: Passes over an iteration's rows.
        batch_size: Rows per gradient step.
        discount: Discount.
        trace: Lambda of the advantages.
        clip: Bound on the ratio's distance from 1.
        entropy_coef: Weight of the policy's entropy.
        actor_lr: First learning rate of the policy; it follows the measured KL divergence.
        actor_lr_range: Its bounds.
        target_kl: The learning rate falls above 2 x and rises below 0.5 x this KL divergence per iteration.
        value_lr: Learning rate of the value.
        value_iterations: Iterations in which the value is trained alone, for a policy that starts good.
        std_range: Bounds on the policy's standard deviation.
        max_grad_norm: Bound on the norm of the policy's gradient; that of the value's is 1.
        normalize_observations: Observations are normalised by their running mean and deviation.
        scale_rewards: Rewards are divided by the running deviation of discounted returns.
    """

    rollout_steps: int = 64
    epochs: int = 10
    batch_size: int = 512
    discount: float = 0.99
    trace: float = 0.95
    clip: float = 0.2
    entropy_coef: float = 0.0
    actor_lr: float = 3e-4
    actor_lr_range: tuple[float, float] = (2e-5, 1e-3)
    target_kl: float = 0.01
    value_lr: float = 1e-3
    value_iterations: int = 0
    std_range: tuple[float, float] = (0.05, 1.0)
    max_grad_norm: float = 0.5
    normalize_observations: bool = True
    scale_rewards: bool = True


class PPO:
    """Trains a policy, iteration by iteration; all randomness comes from its own generators.

    Args:
        task: The robots.
        actor: The policy.
        value: The value.
        settings: Settings.
        seed: Seed of actions and of the order of rows.
    """

    def __init__(self, task: TrainingTask, actor: GaussianActor, value: ValueNetwork, settings: PPOSettings, seed: int) -> None:
        self.task, self.actor, self.value, self.settings = task, actor, value, settings
        self.iterations = 0
        self.steps = 0
        self.observation_statistics = RunningStatistics((task.observation_dim,))
        self._reward_scale = RewardScale(task.size, settings.discount)
        self._generator = torch.Generator().manual_seed(seed)
        self._actor_optimizer = torch.optim.Adam(actor.parameters(), settings.actor_lr, eps=1e-5)
        self._value_optimizer = torch.optim.Adam(value.parameters(), settings.value_lr, eps=1e-5)
        self._returns: Array = np.zeros(task.size)
        self._finished: deque[float] = deque(maxlen=100)

    @property
    def episode_return(self) -> float:
        """Mean return of the last 100 finished episodes, nan before the first."""
        return float(np.mean(self._finished)) if self._finished else float("nan")

    def normalize(self, observations: Array) -> Tensor:
        """Return observations as the networks see them, float32."""
        if self.settings.normalize_observations:
            statistics = self.observation_statistics
            scaled = (observations - statistics.mean) / np.sqrt(statistics.variance + 1e-8)
            observations = np.clip(scaled, -10.0, 10.0)
        return torch.from_numpy(observations.astype(np.float32))

    def iterate(self) -> dict[str, float]:
        """Collect one batch, learn from it, and return what to report."""
        rows, events, raw = self._collect()
        report = self._learn(*rows)
        if self.settings.normalize_observations:
            # After learning: within an iteration the networks see one and the same normalisation.
            self.observation_statistics.update(raw)
        self.iterations += 1
        self.steps += self.task.size * self.settings.rollout_steps
        return {"return": self.episode_return, "std": float(self.actor.log_std.detach().exp().mean()), **report, **events}

    def _collect(self) -> tuple[tuple[Tensor, ...], dict[str, float], Array]:
        s, task = self.settings, self.task
        shape = (s.rollout_steps, task.size)
        observations, actions = torch.empty(*shape, task.observation_dim), torch.empty(*shape, task.action_dim)
        rewards, ended, next_values = torch.empty(shape), torch.empty(shape), torch.empty(shape)
        raw = np.empty((*shape, task.observation_dim))
        events: dict[str, float] = {}
        with torch.no_grad():
            for time in range(s.rollout_steps):
                raw[time] = task.observations()
                observations[time] = self.normalize(raw[time])
                mean = self.actor(observations[time])
                actions[time] = mean + self.actor.log_std.exp() * torch.randn(mean.shape, generator=self._generator)
                step = task.step(actions[time].numpy().astype(np.float64))
                over = step.terminated | step.truncated
                self._count_returns(step.rewards, over)
                scaled = self._reward_scale(step.rewards, over) if s.scale_rewards else step.rewards
                rewards[time] = torch.from_numpy(scaled.astype(np.float32))
                ended[time] = torch.from_numpy(over.astype(np.float32))
                next_values[time] = self.value(self.normalize(step.final_observations)) * torch.from_numpy(~step.terminated)
                for name, count in step.events.items():
                    events[name] = events.get(name, 0.0) + count / (task.size * s.rollout_steps)
            values = self.value(observations)
            advantages = generalized_advantages(rewards, values, next_values, ended, s.discount, s.trace)
            log_probs = gaussian_log_prob(actions, self.actor(observations), self.actor.log_std)
        rows = (observations, actions, log_probs, advantages, advantages + values)
        return tuple(row.flatten(0, 1) for row in rows), events, raw.reshape(-1, task.observation_dim)

    def _count_returns(self, rewards: Array, over: Any) -> None:
        self._returns += rewards
        self._finished.extend(self._returns[over].tolist())
        self._returns[over] = 0.0

    def _learn(
        self, observations: Tensor, actions: Tensor, log_probs: Tensor, advantages: Tensor, targets: Tensor
    ) -> dict[str, float]:
        s = self.settings
        advantages = (advantages - advantages.mean()) / (advantages.std() + 1e-8)
        divergence, value_loss = 0.0, 0.0
        for _ in range(s.epochs):
            order = torch.randperm(len(observations), generator=self._generator)
            for index in torch.split(order, s.batch_size):
                loss = (self.value(observations[index]) - targets[index]).square().mean()
                _descend(self._value_optimizer, loss, 1.0)
                value_loss = float(loss.detach())
                if self.iterations >= s.value_iterations:
                    self._descend_policy(observations[index], actions[index], log_probs[index], advantages[index])
            with torch.no_grad():
                now = gaussian_log_prob(actions, self.actor(observations), self.actor.log_std)
                # Non-negative estimate of the KL divergence of low variance (Schulman, "Approximating KL divergence").
                divergence = float((torch.expm1(now - log_probs) - (now - log_probs)).mean())
            if divergence > 3 * s.target_kl:
                break
        if self.iterations >= s.value_iterations:
            self._adapt_learning_rate(divergence)
        rate = float(self._actor_optimizer.param_groups[0]["lr"])
        return {"kl": divergence, "lr": rate, "value_loss": value_loss}

    def _descend_policy(self, observations: Tensor, actions: Tensor, log_probs: Tensor, advantages: Tensor) -> None:
        s = self.settings
        ratio = (gaussian_log_prob(actions, self.actor(observations), self.actor.log_std) - log_probs).exp()
        gain = torch.min(ratio * advantages, ratio.clamp(1 - s.clip, 1 + s.clip) * advantages).mean()
        _descend(self._actor_optimizer, -gain - s.entropy_coef * self.actor.log_std.sum(), s.max_grad_norm)
        with torch.no_grad():
            low, high = s.std_range
            self.actor.log_std.clamp_(float(np.log(low)), float(np.log(high)))

    def _adapt_learning_rate(self, divergence: float) -> None:
        low, high = self.settings.actor_lr_range
        for group in self._actor_optimizer.param_groups:
            if divergence > 2 * self.settings.target_kl:
                group["lr"] = max(group["lr"] / 1.5, low)
            elif divergence < self.settings.target_kl / 2:
                group["lr"] = min(group["lr"] * 1.2, high)

    def state_dict(self) -> dict[str, Any]:
        """Return all that changes, for an exact resume."""
        return {
            "task": self.task.state_dict(),
            "actor": self.actor.state_dict(),
            "value": self.value.state_dict(),
            "actor_optimizer": self._actor_optimizer.state_dict(),
            "value_optimizer": self._value_optimizer.state_dict(),
            "observation_statistics": self.observation_statistics.state_dict(),
            "reward_scale": self._reward_scale.state_dict(),
            "generator": self._generator.get_state(),
            "returns": self._returns.copy(),
            "finished": list(self._finished),
            "iterations": self.iterations,
            "steps": self.steps,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from there."""
        self.task.load_state_dict(state["task"])
        self.actor.load_state_dict(state["actor"])
        self.value.load_state_dict(state["value"])
        self._actor_optimizer.load_state_dict(state["actor_optimizer"])
        self._value_optimizer.load_state_dict(state["value_optimizer"])
        self.observation_statistics.load_state_dict(state["observation_statistics"])
        self._reward_scale.load_state_dict(state["reward_scale"])
        self._generator.set_state(state["generator"])
        self._returns, self._finished = state["returns"].copy(), deque(state["finished"], maxlen=100)
        self.iterations, self.steps = state["iterations"], state["steps"]


def _descend(optimizer: torch.optim.Optimizer, loss: Tensor, max_norm: float) -> None:
    optimizer.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    nn.utils.clip_grad_norm_([p for group in optimizer.param_groups for p in group["params"]], max_norm)
    optimizer.step()
