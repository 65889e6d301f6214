"""Rows of what a policy collects, beside the table of a dataset: made as the table's are, drawn with a share of each batch."""

from array import array
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from edp_lightning.data.collected import CollectedEpisode
from edp_lightning.data.loader import TransitionLoader
from edp_lightning.data.tables.recipe import TableRecipe
from edp_lightning.data.tables.rewards import RewardMap
from edp_lightning.data.tables.rows import episode_rows, labelled, reward_column
from edp_lightning.data.tables.table import TransitionTable, widths
from edp_lightning.data.transitions import AnyBatch, Batch, SuccessorBatch
from edp_lightning.runs.rng import stream_seed

Floats = NDArray[np.float32]


class ReplayBuffer:
    """Transitions of collected episodes, in the order in which they became known; the newest are drawn from.

    A step's row is made by the recipe of the dataset's table, with the reward map that was fitted to the dataset. It is known
    when ``n_step + action_chunk`` steps from its own on have been played, or when its episode is over.

    Args:
        recipe: What becomes of episodes: bounds, terminations, n-step windows, chunks.
        reward_map: What becomes of rewards.
        observation_dim: Width of an observation.
        action_dim: Width of an action, or of a chunk of them.
        room: Most rows that are ever added.
        capacity: Rows that are drawn from, the newest; all when not given.
        successors: Whether the action that was taken in s' is kept too.
    """

    def __init__(
        self,
        recipe: TableRecipe,
        reward_map: RewardMap,
        observation_dim: int,
        action_dim: int,
        room: int,
        capacity: int | None = None,
        successors: bool = False,
    ) -> None:
        self._recipe = recipe
        self._reward_map = reward_map
        self._dims = observation_dim, action_dim
        self._delay = recipe.n_step + recipe.action_chunk
        self._rows = torch.empty(room, sum(widths(observation_dim, action_dim)))
        self._following = torch.empty(room, action_dim + 1) if successors else None  # next action, and whether it is known
        self.capacity = room if capacity is None else capacity
        self.added = 0

    def __len__(self) -> int:
        """Return the rows that are drawn from."""
        return min(self.added, self.capacity)

    def observe(self, episode: CollectedEpisode) -> None:
        """Add what has become known with the last step of an episode; to be called after every step of it."""
        last = len(episode) - self._delay
        first = max(0, last) if episode.over else last
        if first >= 0 and len(episode):
            rows, following, _ = self._known(episode, first, len(episode) if episode.over else first + 1)
            self._append(rows, following)

    def rebuild(self, episodes: Sequence[CollectedEpisode]) -> None:
        """Fill the empty buffer as if all steps of these episodes had just been played, in the order of time."""
        parts, order = [], []
        for episode in episodes:
            stop = len(episode) if episode.over else len(episode) - self._delay + 1
            if stop <= 0:
                continue
            rows, following, steps = self._known(episode, 0, stop)
            at = episode.begin + np.minimum(steps + self._delay, len(episode))
            parts.append((rows, following))
            order.append(np.stack([steps, np.full(len(steps), episode.slot), at]))
        if parts:
            by_time = np.lexsort(np.concatenate(order, axis=1))
            self._append(*(np.concatenate(columns)[by_time] for columns in zip(*parts, strict=True)))

    def _known(self, collected: CollectedEpisode, first: int, stop: int) -> tuple[Floats, Floats, NDArray[np.int64]]:
        """Return rows, next actions and steps for the usable ones of steps ``first`` to ``stop`` of an episode."""
        episode = labelled(collected.episode(first), self._recipe)
        rows, usable = episode_rows(episode, self._recipe)
        observation_dim, action_dim = self._dims
        rows[usable, observation_dim + action_dim] = reward_column(
            self._reward_map(episode.reward), episode.terminated, self._recipe
        )
        steps = np.flatnonzero(usable[: stop - first])
        after = steps + rows[steps, -1].astype(np.int64)
        known = (after < len(rows)) & usable[np.minimum(after, len(rows) - 1)]
        action = rows[np.minimum(after, len(rows) - 1), observation_dim : observation_dim + action_dim]
        following = np.concatenate([np.where(known[:, None], action, 0), known[:, None]], axis=1, dtype=np.float32)
        return rows[steps], following, first + steps

    def _append(self, rows: Floats, following: Floats) -> None:
        end = self.added + len(rows)
        self._rows[self.added : end] = torch.from_numpy(rows)
        if self._following is not None:
            self._following[self.added : end] = torch.from_numpy(following)
        self.added = end

    def draw(
        self, count: int, generator: torch.Generator, device: torch.device | None, added: int | None = None
    ) -> Batch | SuccessorBatch:
        """Return rows drawn uniformly, with repetition.

        Args:
            count: How many.
            generator: Source of randomness.
            device: Where they are wanted.
            added: How many rows had been added at the moment that is meant; now when not given.
        """
        added = self.added if added is None else added
        oldest = max(0, added - self.capacity)
        index = torch.randint(oldest, added, (count,), generator=generator)
        batch = TransitionTable(self._rows, *self._dims).gather(index, device)
        if self._following is None:
            return batch
        following = self._following[index].to(batch.action.device)
        return SuccessorBatch(*batch, following[:, :-1], following[:, -1])


class ReplayLoader(TransitionLoader):
    """A loader whose batches are completed from a buffer.

    The dataset's rows of batch k are the first ones of the batch k that training without a buffer would see; the others are
    drawn from the buffer as it is at that moment, by (seed, k). While it is empty, batches are the dataset's.

    Args:
        table: Rows of the dataset.
        batch_size: Rows per batch.
        steps_per_epoch: Batches per epoch.
        seed: Seed of both streams.
        position: Number of batches drawn so far.
        buffer: What was collected.
        buffer_rows: Rows of a batch that come from the buffer.
        options: Further arguments of ``TransitionLoader``, for one rank.
    """

    def __init__(
        self,
        table: TransitionTable,
        batch_size: int,
        steps_per_epoch: int,
        seed: int,
        position: int = 0,
        *,
        buffer: ReplayBuffer,
        buffer_rows: int,
        **options: Any,
    ) -> None:
        super().__init__(table, batch_size, steps_per_epoch, seed, position, **options)
        self._buffer = buffer
        self._buffer_rows = buffer_rows
        self._first: int | None = None
        self._added = array("q")  # what the buffer held at each batch: one that turns out to be bad is looked at later

    def batch(self, position: int) -> AnyBatch:
        """Return the batch at a position of the stream; a second time it is the same."""
        whole = super().batch(position)
        self._first = position if self._first is None else self._first
        at = position - self._first
        if at == len(self._added):
            self._added.append(self._buffer.added)
        added = self._added[at]
        if not added or not self._buffer_rows:
            return whole
        generator = torch.Generator().manual_seed(stream_seed(self.seed, "replay", position))
        drawn = self._buffer.draw(self._buffer_rows, generator, whole.action.device, added)
        kept = len(whole.action) - self._buffer_rows
        joined: list[Tensor] = [torch.cat([ours[:kept], new]) for ours, new in zip(whole, drawn, strict=True)]
        return type(whole)(*joined)
