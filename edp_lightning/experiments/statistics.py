"""Estimates over seeds and tasks with their intervals, as rliable has them (Agarwal et al., arXiv 2108.13264).

A system's scores are one array per task, shape (seeds,). Intervals are percentiles of the stratified bootstrap: seeds are drawn
anew within each task, so that every task keeps its number of seeds.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from edp_lightning.errors import UserError

Scores = NDArray[np.float64]

RESAMPLES = 2000
CONFIDENCE = 0.95


class Estimate(NamedTuple):
    """A number and its 95 % interval.

    Attributes:
        value: The estimate.
        low: Lower end; None where one seed says nothing about the spread.
        high: Upper end.
    """

    value: float
    low: float | None
    high: float | None


def mean(scores: Scores) -> Estimate:
    """Return the mean over seeds.

    Args:
        scores: Shape (seeds,).
    """
    return _estimate([scores], lambda sample, axis=-1: np.mean(sample, axis=axis))


def interquartile_mean(scores: Sequence[Scores]) -> Estimate:
    """Return the mean of the middle half of all runs of all tasks (arXiv 2108.13264, section 4.3).

    Args:
        scores: One array per task, each of the same length: no task weighs more than another.
    """
    from scipy.stats import trim_mean

    def statistic(*samples: Any, axis: int = -1) -> Any:
        return trim_mean(np.concatenate(samples, axis=axis), 0.25, axis=axis)

    return _estimate(scores, statistic)


def probability_of_improvement(ours: Sequence[Scores], theirs: Sequence[Scores]) -> Estimate:
    """Return how probable it is that a run of ours scores higher than one of theirs on a task drawn at random.

    The mean over tasks of the Mann-Whitney statistic over its largest value; a tie counts half (arXiv 2108.13264, section 4.3).

    Args:
        ours: One array per task.
        theirs: One array per task, of the same tasks.
    """
    tasks = len(ours)

    def statistic(*samples: Any, axis: int = -1) -> Any:
        parts = []
        for x, y in zip(samples[:tasks], samples[tasks:], strict=True):
            difference = x[..., :, None] - y[..., None, :]
            parts.append(((difference > 0) + 0.5 * (difference == 0)).mean(axis=(-2, -1)))
        return np.mean(parts, axis=0)

    return _estimate([*ours, *theirs], statistic)


def performance_profile(scores: Sequence[Scores], thresholds: Scores) -> Scores:
    """Return the share of runs above each threshold, averaged over tasks (arXiv 2108.13264, section 4.2).

    Args:
        scores: One array per task.
        thresholds: Shape (thresholds,).

    Returns:
        Shares in [0, 1], shape (thresholds,).
    """
    result: NDArray[np.float64] = np.mean([(task[:, None] > thresholds).mean(axis=0) for task in scores], axis=0)
    return result


def _estimate(samples: Sequence[Scores], statistic: Callable[..., Any]) -> Estimate:
    try:
        from scipy.stats import bootstrap
    except ImportError as error:
        raise UserError(f"report needs scipy: pip install 'edp_lightning[report]' ({error})") from error
    value = float(statistic(*samples))
    if min(map(len, samples)) < 2:
        return Estimate(value, None, None)
    found = bootstrap(
        samples,
        statistic,
        n_resamples=RESAMPLES,
        batch=200,
        vectorized=True,
        axis=-1,
        confidence_level=CONFIDENCE,
        method="percentile",
        rng=np.random.default_rng(0),  # the same files, the same table
    ).confidence_interval
    return Estimate(value, float(found.low), float(found.high))
