"""Generalised advantage estimation (Schulman et al., arXiv 1506.02438)."""

import torch
from torch import Tensor


def generalized_advantages(
    rewards: Tensor, values: Tensor, next_values: Tensor, ended: Tensor, discount: float, trace: float
) -> Tensor:
    """Return A_t = delta_t + discount trace (1 - ended_t) A_(t+1), delta_t = r_t + discount V'_t - V_t, all (T, N).

    Args:
        rewards: r_t.
        values: V(s_t).
        next_values: V of what was seen after the step, before any reset; 0 where the episode terminated.
        ended: 1 where the episode ended, by itself or by the time limit.
        discount: In [0, 1].
        trace: Lambda, in [0, 1].
    """
    deltas = rewards + discount * next_values - values
    advantages = torch.empty_like(rewards)
    last = torch.zeros_like(rewards[0])
    for time in reversed(range(len(rewards))):
        last = deltas[time] + discount * trace * (1 - ended[time]) * last
        advantages[time] = last
    return advantages
