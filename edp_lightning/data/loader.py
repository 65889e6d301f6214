"""An endless stream of uniformly drawn batches, with a position instead of a state."""

from collections.abc import Iterator
from typing import Any

import torch

from edp_lightning.data.table import TransitionTable
from edp_lightning.data.transitions import Batch
from edp_lightning.rng import stream_seed


class TransitionLoader:
    """Draws batch after batch; its length only ends Lightning's epochs.

    All fields of a row lie side by side in one table, so a batch is a single gather. The rows of batch k depend on (seed, k)
    only. Every rank draws the rows of the global batch and keeps its share: N ranks with B rows see what one process with
    N * B rows sees.

    Args:
        table: All rows; batches come from the device it is on.
        batch_size: Rows per batch on this rank.
        steps_per_epoch: Batches per epoch.
        seed: Seed of the stream.
        position: Number of batches drawn so far.
        rank: This rank.
        world_size: Number of ranks.
    """

    def __init__(
        self,
        table: TransitionTable,
        batch_size: int,
        steps_per_epoch: int,
        seed: int,
        position: int = 0,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        self._table = table
        self.batch_size = batch_size
        self.steps_per_epoch = steps_per_epoch
        self.seed = seed
        self.position = position
        self.rank = rank
        self.world_size = world_size

    def __len__(self) -> int:
        """Return the batches per epoch."""
        return self.steps_per_epoch

    def __iter__(self) -> Iterator[Batch]:
        """Yield batches from the current position on, without end."""
        while True:
            self.position += 1
            yield self.batch(self.position - 1)

    def batch(self, position: int) -> Batch:
        """Return this rank's rows of the batch at a position of the stream."""
        generator = torch.Generator().manual_seed(stream_seed(self.seed, "batches", position))
        rows = torch.randint(len(self._table), (self.batch_size * self.world_size,), generator=generator)
        mine, device = rows[self.rank :: self.world_size], self._table.rows.device
        if device.type == "cuda":  # the copy must not wait for the steps that are still running
            mine = mine.pin_memory()
        return self._table.gather(mine.to(device, non_blocking=True))

    def state_dict(self) -> dict[str, Any]:
        """Return the position; Lightning asks resumable loaders for it."""
        return {"position": self.position}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue at the position."""
        self.position = int(state_dict["position"])
