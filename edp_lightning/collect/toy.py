"""The two-step task of arXiv 2402.04080, figure 3, with its parameters read off the figure."""

from typing import Any

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

REWARD_NOISE = 0.03
SECOND_STEP_STD = 0.04
UNIFORM_SHARE = 34 / 500
HORIZON = 2
"""Steps of an episode."""


def reward_mean(state: NDArray[np.float64] | float) -> Any:
    """Return r(s): a peak of 1 at -0.2 and one of 0.8 at 0.2, both of width 0.12. Any shape, elementwise."""
    left = np.exp(-np.square(np.asarray(state) + 0.2) / (2 * 0.12**2))
    right = 0.8 * np.exp(-np.square(np.asarray(state) - 0.2) / (2 * 0.12**2))
    return np.maximum(left, right)


class TwoStepEnv(gym.Env[NDArray[np.float64], NDArray[np.float32]]):
    """Start at s = 0, move twice by a in [-1, 1] within [-1, 1], collect r(s') plus noise of std 0.03. Best return: 2.

    The observation is s alone, shape (1,), as in the paper: only the start lies at exactly 0, so s tells the step.
    """

    metadata = {"render_modes": []}  # noqa: RUF012  (gymnasium's interface)

    def __init__(self) -> None:
        self.observation_space = gym.spaces.Box(-1.0, 1.0, (1,), np.float64)
        self.action_space = gym.spaces.Box(-1.0, 1.0, (1,), np.float32)
        self._state = 0.0
        self._time = 0

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.float64], dict[str, Any]]:
        """Go back to s = 0."""
        super().reset(seed=seed)
        self._state, self._time = 0.0, 0
        return np.array([self._state]), {}

    def step(self, action: NDArray[np.float32]) -> tuple[NDArray[np.float64], float, bool, bool, dict[str, Any]]:
        """Move by ``action`` (1,); terminated after the second step."""
        self._state = float(np.clip(self._state + float(action[0]), -1.0, 1.0))
        self._time += 1
        reward = float(reward_mean(self._state)) + REWARD_NOISE * float(self.np_random.normal())
        return np.array([self._state]), reward, self._time >= HORIZON, False, {}


def behavior_action(state: float, time: int, index: int, rng: np.random.Generator) -> float:
    """Return the data's action: far from 0 first (its magnitude is U^(1/2.3), 34 of 500 uniform), then almost nowhere.

    Args:
        state: Current s.
        time: 0 or 1.
        index: Number of the episode; 34 of each 500 draw the first state uniformly.
        rng: Source of randomness.
    """
    if time == 0:
        if index % 500 < round(UNIFORM_SHARE * 500):
            return float(rng.uniform(-1, 1))
        return float(rng.choice([-1.0, 1.0]) * rng.uniform() ** (1 / 2.3))
    return float(np.clip(state + SECOND_STEP_STD * rng.normal(), -1.0, 1.0) - state)
