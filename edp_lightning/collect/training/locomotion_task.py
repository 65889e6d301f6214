"""The locomotion robots as a task of PPO."""

from typing import Any

import numpy as np

from edp_lightning.collect.physics.batched import Array
from edp_lightning.collect.physics.locomotion import Locomotion, Robot
from edp_lightning.collect.training.task import Step


class LocomotionTask:
    """``size`` robots that run as far as they can.

    Args:
        robot: The robot.
        size: How many.
        seed: Seed of the initial states.
        exact_after: Steps, of all robots together, after which physics are the environment's; before they are Euler's, which
            are three times as fast. A policy that was never in the exact ones falls there more often.
    """

    def __init__(self, robot: Robot, size: int, seed: int, exact_after: int = 0) -> None:
        self._locomotion = Locomotion(robot)
        self._exact_after, self._steps = exact_after, 0
        self._rng = np.random.default_rng([seed, 0])
        self.size = size
        self.observation_dim, self.action_dim = self._locomotion.observation_dim, self._locomotion.action_dim
        self._states = self._locomotion.initial_states([self._rng] * size)
        # Spread over the horizon: else all time limits come in the same iteration.
        self._ages = self._rng.integers(robot.horizon, size=size)

    def observations(self) -> Array:
        """Return the present observations, (N, observation_dim)."""
        return self._locomotion.observations(self._states)

    def step(self, actions: Array) -> Step:
        """Step all robots; those that fell or reached the time limit start anew."""
        self._locomotion.integrate(exactly=self._steps >= self._exact_after)
        self._steps += self.size
        self._states, rewards, terminated = self._locomotion.step(self._states, np.clip(actions, -1.0, 1.0))
        final = self._locomotion.observations(self._states)
        self._ages += 1
        truncated = (self._ages >= self._locomotion.robot.horizon) & ~terminated
        ended = np.flatnonzero(terminated | truncated)
        if len(ended):
            self._states[ended] = self._locomotion.initial_states([self._rng] * len(ended))
            self._ages[ended] = 0
        return Step(final, rewards, terminated, truncated, {})

    def state_dict(self) -> dict[str, Any]:
        """Return all that changes, for an exact resume."""
        rng = self._rng.bit_generator.state
        return {"states": self._states.copy(), "ages": self._ages.copy(), "rng": rng, "steps": self._steps}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from there."""
        self._states, self._ages = state["states"].copy(), state["ages"].copy()
        self._rng.bit_generator.state, self._steps = state["rng"], state["steps"]
