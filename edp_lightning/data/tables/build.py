"""Episodes become the table in one pass, one episode in memory at a time; what people want to know is noted on the way."""

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from edp_lightning.data.sources.bounds import outside
from edp_lightning.data.tables.facts import Range, TableFacts
from edp_lightning.data.tables.recipe import TableRecipe
from edp_lightning.data.tables.rewards import RewardMap, fit_reward_map
from edp_lightning.data.tables.row_sinks import CHUNK_BYTES, RowSink
from edp_lightning.data.tables.rows import episode_rows, labelled, reward_column
from edp_lightning.data.tables.table import widths
from edp_lightning.data.transitions import Episode
from edp_lightning.errors import UserError

Floats = NDArray[np.float32]


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
        length=Range.of(np.array([len(r) for r in rewards])),
        longest_recorded=longest,
        episode_return=Range.of(returns),
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
    return moments, Range.of(column)
