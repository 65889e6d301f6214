"""What recorded data say about a policy's return: means over initial states with bootstrap intervals. Pure numpy."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

RESAMPLES = 2000
BLOCK = 100
"""Resamples in memory at a time."""

CONFIDENCE = 0.95

CANNOT_PROMISE = (
    "An estimate from recorded data is not a measurement. The interval covers the choice of initial states alone: neither the "
    "error of the fitted values nor states that the data do not hold, where values are extrapolated, usually upwards. It holds "
    "for the dynamics, rewards and initial states of the data, for observations that show all that matters, and as if no time "
    "limit came. On small tasks where the truth is known it was too high by several times its interval "
    "(docs/offline_evaluation.md), and it can order two policies wrongly. Judge on the robot, carefully, before you rely on it."
)


def bootstrap_mean(values: Floats, seed: int = 0) -> dict[str, Any]:
    """Return the mean of values, shape (states,), with the percentile bootstrap's 95 % interval over them.

    Returns:
        ``mean``, ``low``, ``high`` and ``states``; no interval for a single value.
    """
    found: dict[str, Any] = {"mean": float(values.mean()), "low": None, "high": None, "states": len(values)}
    if len(values) > 1:
        rng = np.random.default_rng(seed)
        shape = (BLOCK, len(values))
        means = np.concatenate([values[rng.integers(len(values), size=shape)].mean(axis=1) for _ in range(RESAMPLES // BLOCK)])
        tail = (1 - CONFIDENCE) / 2
        found["low"], found["high"] = np.quantile(means, [tail, 1 - tail]).tolist()
    return found


def discounted_return(reward: NDArray[np.floating[Any]], terminated: NDArray[np.bool_], discount: float) -> float:
    """Return the discounted sum of an episode's rewards from its first step on, up to the step that ends the task.

    Args:
        reward: Shape (T,).
        terminated: Shape (T,).
        discount: Discount per step.
    """
    steps = int(np.argmax(terminated)) + 1 if terminated.any() else len(reward)
    return float(reward[:steps].astype(np.float64) @ discount ** np.arange(steps))


def has_settled(trace: Sequence[float]) -> bool:
    """Return whether an estimate, noted at even distances over its fit, says in its last quarter what it said before that.

    Means of the two may differ by a twentieth of the farthest it was from 0, where it began.
    """
    quarter = max(1, len(trace) // 4)
    last, before = np.mean(trace[-quarter:]), np.mean(trace[-2 * quarter : -quarter] or trace[:1])
    return bool(abs(last - before) <= 0.05 * np.max(np.abs(trace)))
