"""What PPO asks of a task: many robots that are stepped together and reset by themselves."""

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from edp_lightning.collect.physics.batched import Array


@dataclass(frozen=True)
class Step:
    """One step of N robots.

    Attributes:
        final_observations: What was seen after the step, before any reset, (N, observation_dim).
        rewards: (N,).
        terminated: The episode ended by itself, (N,).
        truncated: The episode was cut, (N,).
        events: Counts worth a line of progress, by name.
    """

    final_observations: Array
    rewards: Array
    terminated: NDArray[np.bool_]
    truncated: NDArray[np.bool_]
    events: dict[str, float]


class TrainingTask(Protocol):
    """N robots."""

    size: int
    observation_dim: int
    action_dim: int

    def observations(self) -> Array:
        """Return the present observations, (N, observation_dim)."""

    def step(self, actions: Array) -> Step:
        """Step all robots by ``actions`` (N, action_dim), clipped to [-1, 1]; robots whose episode ended start anew."""

    def state_dict(self) -> dict[str, Any]:
        """Return all that changes, for an exact resume."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from there."""
