"""Reward transforms, named by what they do. Each maps the rewards of all episodes to new ones."""

from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from edp_lightning.errors import UserError

Floats = NDArray[np.float32]
RewardTransform = Literal["none", "affine", "standardize", "min_max", "return_range"]


def transform_rewards(
    rewards: Sequence[Floats], transform: RewardTransform, shift: float = 0.0, scale: float = 1.0
) -> list[Floats]:
    """Return transformed rewards, one array (T,) per episode.

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
        return list(rewards)
    if transform == "affine":
        return [((r + shift) * scale).astype(np.float32) for r in rewards]
    every = np.concatenate(list(rewards)).astype(np.float64)
    if transform == "standardize":
        offset, factor = float(every.mean()), _positive(float(every.std()), transform, "standard deviation")
        return [((r - offset) / factor).astype(np.float32) for r in rewards]
    if transform == "min_max":
        low = float(every.min())
        factor = _positive(float(every.max()) - low, transform, "range")
        return [(2 * (r - low) / factor - 1).astype(np.float32) for r in rewards]
    returns = [float(r.sum(dtype=np.float64)) for r in rewards]
    factor = _positive(max(returns) - min(returns), transform, "range of episode returns")
    return [(r * (1000.0 / factor)).astype(np.float32) for r in rewards]


def _positive(value: float, transform: str, what: str) -> float:
    if value <= 0:
        raise UserError(
            f"reward_transform '{transform}' divides by the {what} of the rewards, which is 0: use 'none' or 'affine'"
        )
    return value
