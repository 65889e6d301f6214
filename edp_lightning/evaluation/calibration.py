"""Are the critics right? Their values against discounted returns that were really collected. Pure numpy."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


class ReturnsToGo(NamedTuple):
    """Discounted returns from steps of an episode on.

    Attributes:
        value: Return of each step, shape (steps,).
        unseen: Weight in it of what lies beyond the recorded steps, in [0, 1], shape (steps,); 0 for episodes that ended.
    """

    value: Floats
    unseen: Floats


def returns_to_go(
    reward: NDArray[np.floating], discount: float, last_q: float | None, decided_at: NDArray[np.int64] | None = None
) -> ReturnsToGo:
    """Return ``G_t = sum_k discount^k r_{t+k}`` of the steps t at which an action, or a chunk of them, was chosen.

    An episode that a time limit cut goes on in the critics' eyes. Its last recorded step is then not scored, it closes the
    sums: ``G_t = r_t + ... + discount^(T-1-t) Q(s_{T-1}, a_{T-1})``.

    Args:
        reward: Rewards of one episode in training's units, shape (T,).
        discount: Discount per step.
        last_q: Critics' value of the last step if the episode was cut; None if it ended.
        decided_at: The steps wanted, ascending; all when not given.

    Returns:
        Shapes (T,) for an episode that ended, (T - 1,) for one that was cut; as many of ``decided_at`` as lie in that.
    """
    steps = len(reward) if last_q is None else len(reward) - 1
    value, unseen = np.empty(steps), np.empty(steps)
    following, weight = (0.0, 0.0) if last_q is None else (last_q, 1.0)
    for t in range(steps - 1, -1, -1):
        following = float(reward[t]) + discount * following
        weight *= discount
        value[t], unseen[t] = following, weight
    if decided_at is not None:
        wanted = decided_at[decided_at < steps]
        value, unseen = value[wanted], unseen[wanted]
    return ReturnsToGo(value, unseen)


def bias(q: Floats, value: Floats, unseen: Floats) -> float:
    """Return how much the critics overestimate on average: ``mean(Q - G) / mean(1 - unseen)``.

    Where a share of G is the critics' own value, their error shows only in the rest; a constant error is returned exactly.

    Args:
        q: Values, shape (steps,).
        value: Returns G, shape (steps,).
        unseen: Weight of the critics' own value in G, shape (steps,), below 1.
    """
    return float(np.mean(q - value) / np.mean(1 - unseen))


def correlation(q: Floats, value: Floats) -> float | None:
    """Return Pearson's correlation of values and returns, both (steps,); None where one of them is constant."""
    if len(q) < 2 or np.ptp(q) == 0 or np.ptp(value) == 0:
        return None
    return float(np.corrcoef(q, value)[0, 1])


def spread_evenly(count: int, wanted: int) -> NDArray[np.int64]:
    """Return at most ``wanted`` indices below ``count``, evenly spaced."""
    return np.unique(np.linspace(0, count - 1, min(count, wanted)).round().astype(np.int64))


def concatenate(parts: Sequence[ReturnsToGo]) -> ReturnsToGo:
    """Return the steps of several episodes one after the other."""
    return ReturnsToGo(*(np.concatenate([part[field] for part in parts]) for field in (0, 1)))
