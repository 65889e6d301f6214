"""Controllers that go to a way-point: they make the data, nothing in training or evaluation uses them."""

from importlib.resources import files
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Vector = NDArray[np.float64]


class Controller(Protocol):
    """Maps an observation and a way-point to an action in [-1, 1]."""

    def __call__(self, observation: Vector, position: Vector, waypoint: Vector) -> Vector:
        """Return the action, shape (action_dim,)."""


class AntController:
    """Walks the ant towards a point; weights and origin in ``ant_goal_policy.md``."""

    def __init__(self) -> None:
        with files(__package__).joinpath("ant_goal_policy.npz").open("rb") as file:
            weights = np.load(file)
            names = ("w0", "b0", "w1", "b1", "w_mean", "b_mean")
            self._w0, self._b0, self._w1, self._b1, self._w2, self._b2 = (weights[name] for name in names)

    def __call__(self, observation: Vector, position: Vector, waypoint: Vector) -> Vector:
        """Return the mean action of the controller for the 27 ant observations and a world-frame direction."""
        offset = waypoint - position
        distance = float(np.hypot(offset[0], offset[1]))
        goal = [*(offset / max(distance, 1e-6)), min(distance, 4.0) / 4.0]
        x = np.concatenate([observation, goal])
        x = np.maximum(self._w0 @ x + self._b0, 0.0)
        x = np.maximum(self._w1 @ x + self._b1, 0.0)
        action: Vector = np.tanh(self._w2 @ x + self._b2)
        return action


class PointController:
    """Proportional-derivative control of the point mass (gains of D4RL's maze2d way-point controller, arXiv 2004.07219)."""

    def __call__(self, observation: Vector, position: Vector, waypoint: Vector) -> Vector:
        """Return the clipped force for observations (x, y, velocity x, velocity y)."""
        return np.clip(10.0 * (waypoint - position) - observation[2:4], -1.0, 1.0)
