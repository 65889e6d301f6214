"""Running mean and variance, for observations and for the scale of rewards."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from edp_lightning.collect.physics.batched import Array


class RunningStatistics:
    """Mean and variance of all rows seen so far (parallel update of Chan et al., 1979).

    Args:
        shape: Shape of a row.
    """

    def __init__(self, shape: tuple[int, ...]) -> None:
        self.mean: Array = np.zeros(shape)
        self.variance: Array = np.ones(shape)
        self.count = 1e-4

    def update(self, rows: Array) -> None:
        """Add rows, ``(B, *shape)``."""
        mean, variance, count = rows.mean(0), rows.var(0), len(rows)
        total = self.count + count
        delta = mean - self.mean
        second = self.variance * self.count + variance * count + delta**2 * self.count * count / total
        self.mean = self.mean + delta * count / total
        self.variance, self.count = second / total, total

    def state_dict(self) -> dict[str, Any]:
        """Return all that changes."""
        return {"mean": self.mean.copy(), "variance": self.variance.copy(), "count": self.count}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from there."""
        self.mean, self.variance, self.count = state["mean"].copy(), state["variance"].copy(), state["count"]


class RewardScale:
    """Divides rewards by the running standard deviation of discounted returns (Engstrom et al., arXiv 2005.12729, section 3).

    Args:
        size: Number of robots.
        discount: Discount of the returns, in [0, 1).
    """

    def __init__(self, size: int, discount: float) -> None:
        self._statistics = RunningStatistics(())
        self._returns: Array = np.zeros(size)
        self._discount = discount

    def __call__(self, rewards: Array, ended: NDArray[np.bool_]) -> Array:
        """Return scaled rewards, (N,); ``ended`` (N,) marks robots whose return starts anew."""
        self._returns = self._returns * self._discount + rewards
        self._statistics.update(self._returns)
        self._returns[ended] = 0.0
        scaled: Array = rewards / np.sqrt(self._statistics.variance + 1e-8)
        return np.clip(scaled, -10.0, 10.0)

    def state_dict(self) -> dict[str, Any]:
        """Return all that changes."""
        return {"statistics": self._statistics.state_dict(), "returns": self._returns.copy()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from there."""
        self._statistics.load_state_dict(state["statistics"])
        self._returns = state["returns"].copy()
