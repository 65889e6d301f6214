"""Reward transforms, named by what they do. Each maps the rewards of all episodes to new ones."""

from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from edp_lightning.errors import UserError

Floats = NDArray[np.float32]
RewardTransform = Literal["none", "affine", "standardize", "min_max", "return_range"]


class RewardMap(NamedTuple):
    """A transform fitted to a dataset: ``(r + shift) * scale + offset``.

    Attributes:
        shift: Added before scaling.
        scale: Factor.
        offset: Added after scaling.
    """

    shift: float = 0.0
    scale: float = 1.0
    offset: float = 0.0

    def __call__(self, reward: Floats) -> Floats:
        """Return rewards in training's units, float32, same shape."""
        return ((reward + self.shift) * self.scale + self.offset).astype(np.float32)

    def __str__(self) -> str:
        """Return the formula."""
        return f"(r + {self.shift:g}) * {self.scale:g} + {self.offset:g}"


def fit_reward_map(rewards: Sequence[Floats], transform: RewardTransform, shift: float = 0.0, scale: float = 1.0) -> RewardMap:
    """Return what a transform does to the rewards of this dataset, and to any later reward of the same task.

    Args:
        rewards: Rewards of each episode, arrays of shape (T,).
        transform: ``none``; ``affine``: (r + shift) * scale, so CQL's AntMaze (r - 0.5) * 4 is shift -0.5, scale 4, and
            IQL's r - 1 is shift -1; ``standardize``: (r - mean) / std over all steps (Diffusion-QL for Pen);
            ``min_max``: to [-1, 1] (EDP for Kitchen and Adroit); ``return_range``: r * 1000 / (largest - smallest episode
            return) (IQL for locomotion).
        shift: Added before scaling, ``affine`` only.
        scale: Factor, ``affine`` only.

    Raises:
        UserError: If the transform divides by a range that is zero.
    """
    if transform == "none":
        return RewardMap()
    if transform == "affine":
        return RewardMap(shift, scale)
    every = np.concatenate(list(rewards)).astype(np.float64)
    if transform == "standardize":
        return RewardMap(-float(every.mean()), 1 / _positive(float(every.std()), transform, "standard deviation"))
    if transform == "min_max":
        low = float(every.min())
        return RewardMap(-low, 2 / _positive(float(every.max()) - low, transform, "range"), -1.0)
    returns = [float(r.sum(dtype=np.float64)) for r in rewards]
    return RewardMap(scale=1000.0 / _positive(max(returns) - min(returns), transform, "range of episode returns"))


def _positive(value: float, transform: str, what: str) -> float:
    if value <= 0:
        raise UserError(
            f"reward_transform '{transform}' divides by the {what} of the rewards, which is 0: use 'none' or 'affine'"
        )
    return value
