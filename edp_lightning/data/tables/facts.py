"""What a table holds, as plain numbers."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Range:
    """Smallest, mean and largest of some numbers."""

    low: float
    mean: float
    high: float

    @classmethod
    def of(cls, values: NDArray[np.generic]) -> "Range":
        """Return that of an array of any shape."""
        return cls(float(values.min()), float(values.mean(dtype=np.float64)), float(values.max()))


@dataclass(frozen=True)
class TableFacts:
    """What a table holds, as plain numbers; computed once, kept with it.

    Attributes:
        rows: Transitions.
        parts: Transitions of each source of a mixture, in order; one number without a mixture.
        observation_dim: Width of an observation.
        action_dim: Width of an action, or of a chunk of them.
        episodes: Episodes.
        episode_rows: Transitions of each episode, in the table's order; with chunks of actions there may be none.
        length: Steps per episode.
        longest_recorded: Steps of the longest episode as it was recorded, whatever of it became transitions.
        episode_return: Undiscounted sum of an episode's rewards before the transformation.
        stored_reward: Rewards in the file.
        reward: Rewards in the table.
        reward_map: Shift, scale and offset that took the rewards to the table's units (see ``RewardMap``).
        rewarded_episodes: Share of episodes with a positive reward, before the transformation.
        terminated_steps: Steps after which the task had ended.
        truncated_episodes: Episodes that were cut.
        actions_at_bound: Share of transitions with an action within 0.001 of a bound.
        actions_outside: Share of steps whose action leaves the box by more than a thousandth of it, and is clipped.
        observation_mean: Mean of each dimension of the observations.
        observation_std: Standard deviation (unbiased) of each dimension.
        observation_low: Smallest value of each dimension.
        observation_high: Largest value of each dimension.
        vanished_changes: For each dimension the share of the stored changes from step to step that float32 does not show.
        entry_mean: Mean of all entries of all observations.
        entry_std: Their standard deviation (unbiased).
    """

    rows: int
    parts: tuple[int, ...]
    observation_dim: int
    action_dim: int
    episodes: int
    episode_rows: tuple[int, ...]
    length: Range
    longest_recorded: int
    episode_return: Range
    stored_reward: Range
    reward: Range
    reward_map: tuple[float, ...]
    rewarded_episodes: float
    terminated_steps: int
    truncated_episodes: int
    actions_at_bound: float
    actions_outside: float
    observation_mean: tuple[float, ...]
    observation_std: tuple[float, ...]
    observation_low: tuple[float, ...]
    observation_high: tuple[float, ...]
    vanished_changes: tuple[float, ...]
    entry_mean: float
    entry_std: float

    @classmethod
    def of_plain(cls, stored: Mapping[str, Any]) -> "TableFacts":
        """Return what ``dataclasses.asdict`` and JSON have made plain dictionaries and lists of."""
        ranges = {name: Range(**value) for name, value in stored.items() if isinstance(value, dict)}
        tuples = {name: tuple(value) for name, value in stored.items() if isinstance(value, list)}
        return cls(**{**stored, **ranges, **tuples})
