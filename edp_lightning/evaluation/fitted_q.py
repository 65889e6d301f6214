"""Fitted Q evaluation: the value of a fixed policy, learned from recorded transitions alone."""

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from edp_lightning.algorithms.losses import td_target
from edp_lightning.networks.perceptron import StackedCritics
from edp_lightning.runs.rng import stream_seed


class PolicyTransitions(NamedTuple):
    """Transitions of the data, with what the policy would do after each.

    Attributes:
        observation: Normalised s, shape (rows, observation_dim).
        action: The data's a in [-1, 1], shape (rows, action_dim).
        reward: Discounted reward of the ``steps`` steps, shape (rows,).
        next_observation: Normalised s', shape (rows, observation_dim).
        next_action: A draw of the policy in s', in [-1, 1], shape (rows, action_dim); anything where the task has ended.
        terminated: 1.0 where the task ended on the way, shape (rows,).
        steps: Environment steps k from s to s', shape (rows,).
    """

    observation: Tensor
    action: Tensor
    reward: Tensor
    next_observation: Tensor
    next_action: Tensor
    terminated: Tensor
    steps: Tensor


@dataclass(frozen=True)
class FitOptions:
    """How values are fitted.

    Attributes:
        steps: Gradient steps.
        batch_size: Rows per step.
        members: Networks that are fitted independently of each other; how far they are apart is one part of the error.
        hidden_dims: Widths of their hidden layers.
        lr: Adam learning rate.
        tau: Weight of the online networks in the targets' running average. From nothing, values need about
            ``1 / (tau (1 - discount))`` steps for two thirds of their way.
        seed: Seed of initial weights and batches.
    """

    steps: int = 30_000
    batch_size: int = 256
    members: int = 3
    hidden_dims: Sequence[int] = (256, 256)
    lr: float = 3.0e-4
    tau: float = 0.05
    seed: int = 0


def value_bounds(transitions: PolicyTransitions, discount: float) -> tuple[float, float]:
    """Return bounds that no value can leave: the smallest and the largest reward for ever, or nothing at all.

    Args:
        transitions: Where the rewards are.
        discount: Discount per environment step, below 1.
    """
    shortest = 1 - discount ** float(transitions.steps.min())
    return min(0.0, float(transitions.reward.min()) / shortest), max(0.0, float(transitions.reward.max()) / shortest)


def fit_q(
    transitions: PolicyTransitions,
    discount: float,
    options: FitOptions,
    after_step: Callable[[int, StackedCritics], None] | None = None,
) -> StackedCritics:
    """Return Q of the policy: the fixed point of ``Q(s, a) = r + discount^k (1 - terminated) Q(s', pi(s'))`` on the data.

    Fitted Q evaluation (Le et al. 2019, arXiv 1903.08738, algorithm 3) by gradient steps: each regresses on targets of a
    running average of the networks instead of solving every iteration to its end, as most implementations do. Targets are
    kept within ``value_bounds``, without which extrapolated values can grow without end. Layers are normalised.

    Args:
        transitions: All transitions, on the device that is to calculate.
        discount: Discount per environment step, below 1.
        options: How it is fitted.
        after_step: Called after every gradient step with the steps taken and the averaged networks.
    """
    device = transitions.observation.device
    rows, low_high = len(transitions.reward), value_bounds(transitions, discount)
    with torch.random.fork_rng(devices=[]):  # the layers draw their weights from the global stream
        torch.manual_seed(stream_seed(options.seed, "fitted_q", 0))
        widths = transitions.observation.shape[1], transitions.action.shape[1]
        online = StackedCritics(*widths, options.hidden_dims, options.members, layer_norm=True).to(device)
    target = copy.deepcopy(online).requires_grad_(False)
    optimizer = torch.optim.Adam(online.parameters(), options.lr)
    generator = torch.Generator().manual_seed(stream_seed(options.seed, "fitted_q", 1))
    for step in range(1, options.steps + 1):
        index = torch.randint(rows, (options.batch_size,), generator=generator).to(device)
        batch = PolicyTransitions(*(column[index] for column in transitions))
        with torch.no_grad():
            following = target(batch.next_observation, batch.next_action)
            goal = td_target(batch.reward, batch.terminated, batch.steps, following, discount).clamp(*low_high)
        loss = (online(batch.observation, batch.action) - goal).square().mean(dim=1).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        with torch.no_grad():
            torch._foreach_lerp_(list(target.parameters()), list(online.parameters()), options.tau)
        if after_step is not None:
            after_step(step, target)
    return target


def travelled(options: FitOptions, discount: float) -> float:
    """Return the share of their way from 0 that values can have gone after a fit, in [0, 1); see ``FitOptions.tau``."""
    return 1 - math.exp(-options.steps * options.tau * (1 - discount))
