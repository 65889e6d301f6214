"""Episodes become the table in one pass, one episode in memory at a time; what people want to know is noted on the way."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from edp_lightning.data.sources.bounds import outside
from edp_lightning.data.tables.rewards import RewardMap, RewardTransform, fit_reward_map
from edp_lightning.data.tables.rows import episode_rows, labelled, reward_column
from edp_lightning.data.tables.table import widths
from edp_lightning.data.transitions import Episode, Terminals
from edp_lightning.errors import UserError

Floats = NDArray[np.float32]
CHUNK_BYTES = 16 << 20
"""Rows are finished in chunks of about this size."""


@dataclass(frozen=True)
class TableRecipe:
    """Everything besides the stored episodes that decides the table.

    Attributes:
        low: Lower bounds of the action box.
        high: Upper bounds of the action box.
        goal: World coordinates that rewards are relabelled to; None keeps the stored rewards. Episodes without positions, from
            plain arrays, keep theirs too: they are taken to be the evaluation's.
        goal_radius: Metres within which that goal counts as reached.
        terminals: Rule for terminations.
        reward_transform: What is done to rewards.
        reward_shift: For ``affine``.
        reward_scale: For ``affine``.
        n_step: Largest number of steps per transition.
        discount: Discount per step, used if ``n_step`` is above 1.
        action_clip_eps: Distance that scaled actions keep from -1 and 1.
        action_chunk: Actions per row; at most ``n_step``.
    """

    low: tuple[float, ...]
    high: tuple[float, ...]
    goal: tuple[float, float] | None = None
    goal_radius: float = 0.0
    terminals: Terminals = "env"
    reward_transform: RewardTransform = "none"
    reward_shift: float = 0.0
    reward_scale: float = 1.0
    n_step: int = 1
    discount: float = 0.99
    action_clip_eps: float = 0.0
    action_chunk: int = 1


@dataclass(frozen=True)
class Range:
    """Smallest, mean and largest of some numbers."""

    low: float
    mean: float
    high: float


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


class RowSink(Protocol):
    """Where rows go: memory or a file."""

    def append(self, rows: Floats) -> None:
        """Add rows, shape (rows, width)."""

    def chunks(self, rows: int) -> Iterator[Floats]:
        """Yield everything appended in order, ``rows`` at a time; changes made to a chunk are kept."""


class MemoryRows:
    """Rows in an array that grows by an eighth: beside the finished table little is ever allocated."""

    def __init__(self) -> None:
        self._rows: Floats = np.empty((0, 0), dtype=np.float32)
        self._used = 0

    def append(self, rows: Floats) -> None:
        """Add rows."""
        end = self._used + len(rows)
        if end > len(self._rows):
            self._rows.resize((max(end, len(self._rows) * 9 // 8), rows.shape[1]), refcheck=False)
        self._rows[self._used : end] = rows
        self._used = end

    def chunks(self, rows: int) -> Iterator[Floats]:
        """Yield views."""
        for start in range(0, self._used, rows):
            yield self._rows[start : min(start + rows, self._used)]

    def finish(self) -> Floats:
        """Return the rows."""
        self._rows.resize((self._used, self._rows.shape[1]), refcheck=False)
        return self._rows


class _Moments:
    """Mean and sum of squared deviations per column, merged chunk by chunk (Chan et al. 1979)."""

    def __init__(self, width: int) -> None:
        self.count = 0
        self.mean = np.zeros(width)
        self.squares = np.zeros(width)
        self.low = np.full(width, np.inf)
        self.high = np.full(width, -np.inf)

    def add(self, values: Floats) -> None:
        self.low = np.minimum(self.low, values.min(axis=0))
        self.high = np.maximum(self.high, values.max(axis=0))
        wide = values.astype(np.float64)
        mean = wide.mean(axis=0)
        wide -= mean
        total = self.count + len(wide)
        shift = mean - self.mean
        self.squares += np.einsum("ij,ij->j", wide, wide) + shift**2 * (self.count * len(wide) / total)
        self.mean += shift * (len(wide) / total)
        self.count = total

    def std(self) -> NDArray[np.float64]:
        return np.sqrt(self.squares / max(self.count - 1, 1))

    def over_entries(self) -> tuple[float, float]:
        """Return mean and standard deviation of all entries together."""
        mean = float(self.mean.mean())
        squares = float(self.squares.sum() + self.count * ((self.mean - mean) ** 2).sum())
        return mean, float(np.sqrt(squares / max(self.count * len(self.mean) - 1, 1)))


def build_table(episodes: Iterable[Episode], recipe: TableRecipe, sink: RowSink) -> TableFacts:
    """Fill a sink with one row per step, episodes one after the other, and return the facts.

    With chunks of actions, the last steps of an episode that was cut have no row: the rest of their chunk is not known.

    Truncated steps are kept: the true next observation is known. Actions are scaled from [low, high] to [-1, 1] and clipped to
    ``1 - action_clip_eps``. Rewards are written last, because transforming them may need those of all episodes.

    Args:
        episodes: Episodes as they are stored; read once.
        recipe: What becomes of them.
        sink: Where the rows go.

    Raises:
        UserError: If the reward transformation divides by a range that is zero, or if no chunk of actions fits into a source.
    """
    low, high = np.asarray(recipe.low, dtype=np.float32), np.asarray(recipe.high, dtype=np.float32)
    rewards: list[Floats] = []
    ends: list[NDArray[np.bool_]] = []
    stored_total, stored_count, stored_low, stored_high = 0.0, 0, np.inf, -np.inf
    terminated_steps = truncated = at_bound = outside_box = 0
    changes: NDArray[np.int64] | int = 0
    observation_dim = action_dim = longest = 0
    parts: list[int] = []
    rows_per_episode: list[int] = []
    for stored in episodes:
        stored_total += float(stored.reward.sum(dtype=np.float64))
        stored_count += len(stored)
        longest = max(longest, len(stored) + stored.left_out)
        stored_low, stored_high = min(stored_low, float(stored.reward.min())), max(stored_high, float(stored.reward.max()))
        episode = labelled(stored, recipe)
        observation_dim = episode.observation.shape[1]
        rewards.append(episode.reward)
        ends.append(episode.terminated)
        if stored.changes is not None:
            changes = changes + stored.changes
        outside_box += int(outside(episode.action, low, high).sum())
        rows, usable = episode_rows(episode, recipe)
        action_dim = episode.action.shape[1] * recipe.action_chunk
        action = rows[:, observation_dim : observation_dim + action_dim]
        if usable.any():
            sink.append(rows if usable.all() else rows[usable])
        parts.extend([0] * (episode.part + 1 - len(parts)))
        rows_per_episode.append(int(usable.sum()))
        parts[episode.part] += rows_per_episode[-1]
        terminated_steps += int(episode.terminated.sum())
        truncated += int(episode.truncated.any())
        at_bound += int((np.abs(action[usable]).max(axis=1) > 0.999).sum())
    if not all(parts):
        where = f"source {parts.index(0) + 1} of {len(parts)}"
        raise UserError(f"every episode of {where} is shorter than data.action_chunk {recipe.action_chunk}")
    reward_map = fit_reward_map(rewards, recipe.reward_transform, recipe.reward_shift, recipe.reward_scale)
    moments, final = _write_rewards(sink, rewards, ends, reward_map, recipe, observation_dim, action_dim)
    returns = np.array([float(r.sum(dtype=np.float64)) for r in rewards])
    entry_mean, entry_std = moments.over_entries()
    return TableFacts(
        rows=moments.count,
        parts=tuple(parts),
        observation_dim=observation_dim,
        action_dim=action_dim,
        episodes=len(rewards),
        episode_rows=tuple(rows_per_episode),
        length=_range(np.array([len(r) for r in rewards])),
        longest_recorded=longest,
        episode_return=_range(returns),
        stored_reward=Range(stored_low, stored_total / stored_count, stored_high),
        reward=final,
        reward_map=tuple(reward_map),
        rewarded_episodes=float(np.mean([bool((r > 0).any()) for r in rewards])),
        terminated_steps=terminated_steps,
        truncated_episodes=truncated,
        actions_at_bound=at_bound / moments.count,
        actions_outside=outside_box / sum(len(r) for r in rewards),
        observation_mean=tuple(moments.mean.tolist()),
        observation_std=tuple(moments.std().tolist()),
        observation_low=tuple(moments.low.tolist()),
        observation_high=tuple(moments.high.tolist()),
        vanished_changes=_shares(changes, observation_dim),
        entry_mean=entry_mean,
        entry_std=entry_std,
    )


def _shares(changes: NDArray[np.int64] | int, width: int) -> tuple[float, ...]:
    if isinstance(changes, int):
        return (0.0,) * width
    shares: list[float] = (changes[1] / np.maximum(changes[0], 1)).tolist()
    return tuple(shares)


def _write_rewards(
    sink: RowSink,
    rewards: list[Floats],
    ends: list[NDArray[np.bool_]],
    reward_map: RewardMap,
    recipe: TableRecipe,
    observation_dim: int,
    action_dim: int,
) -> tuple[_Moments, Range]:
    """Fill in the reward column; return the observations' moments and the range of the rewards written."""
    transformed = [reward_map(reward) for reward in rewards]
    column = np.concatenate([reward_column(r, e, recipe) for r, e in zip(transformed, ends, strict=True)])
    moments = _Moments(observation_dim)
    width = sum(widths(observation_dim, action_dim))
    done = 0
    for chunk in sink.chunks(max(1, CHUNK_BYTES // (4 * width))):
        chunk[:, observation_dim + action_dim] = column[done : done + len(chunk)]
        moments.add(chunk[:, :observation_dim])
        done += len(chunk)
    return moments, _range(column)


def _range(values: NDArray[np.generic]) -> Range:
    return Range(float(values.min()), float(values.mean(dtype=np.float64)), float(values.max()))
