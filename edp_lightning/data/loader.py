"""An endless stream of uniformly drawn batches, with a position instead of a state."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from edp_lightning.data.tables.table import TransitionTable
from edp_lightning.data.transitions import AnyBatch
from edp_lightning.errors import UserError
from edp_lightning.runs.rng import stream_seed


class TransitionLoader:
    """Draws batch after batch; its length only ends Lightning's epochs.

    All fields of a row lie side by side in one table, so a batch is a single gather. The rows of batch k depend on (seed, k)
    only. Every rank draws the rows of the global batch and keeps its share: N ranks with B rows see what one process with
    N * B rows sees.

    Args:
        table: All rows.
        batch_size: Rows per batch on this rank.
        steps_per_epoch: Batches per epoch.
        seed: Seed of the stream.
        position: Number of batches drawn so far.
        rank: This rank.
        world_size: Number of ranks.
        parts: Rows of each part of the table, one after the other, with the probability of drawing from it; all rows are
            equally likely when not given.
        start: Says at the beginning of every iteration how many batches the run has used; iterations go on where the one
            before stopped when not given. However often a loader is made or asked, a run never sees its stream twice.
        cycle: Number of batches that are served over and over; the stream never repeats when not given.
        device: Where batches are wanted; where the table is when not given.
        gather: Makes a batch of row numbers (batch,) on the table's device, and of ``device``; ``table.gather`` when not given.
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
        parts: Sequence[tuple[int, float]] | None = None,
        start: Callable[[], int] | None = None,
        cycle: int | None = None,
        device: torch.device | None = None,
        gather: Callable[[Tensor, torch.device | None], AnyBatch] | None = None,
    ) -> None:
        self._table = table
        self._device = device
        self.batch_size = batch_size
        self.steps_per_epoch = steps_per_epoch
        self.seed = seed
        self.position = position
        self.rank = rank
        self.world_size = world_size
        self._parts = parts
        self._start = start
        self._cycle = cycle
        self._gather = gather or table.gather

    def __len__(self) -> int:
        """Return the batches per epoch."""
        return self.steps_per_epoch

    def __iter__(self) -> Iterator[AnyBatch]:
        """Yield batches from the current position on, without end."""
        if self._start is not None:
            self.position = self._start()
        while True:
            self.position += 1
            yield self.batch(self.position - 1)

    def batch(self, position: int) -> AnyBatch:
        """Return this rank's rows of the batch at a position of the stream."""
        if self._cycle is not None:
            position %= self._cycle
        generator = torch.Generator().manual_seed(stream_seed(self.seed, "batches", position))
        count = self.batch_size * self.world_size
        if self._parts is None:
            rows = torch.randint(len(self._table), (count,), generator=generator)
        else:
            rows = mixed_rows(count, self._parts, generator)
        mine, table_device = rows[self.rank :: self.world_size], self._table.rows.device
        if table_device.type == "cuda":  # the copy must not wait for the steps that are still running
            mine = mine.pin_memory()
        return self._gather(mine.to(table_device, non_blocking=True), self._device)

    def state_dict(self) -> dict[str, Any]:
        """Return the position; Lightning asks resumable loaders for it."""
        return {"position": self.position}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue at the position."""
        self.position = int(state_dict["position"])


def mixed_rows(count: int, parts: Sequence[tuple[int, float]], generator: torch.Generator) -> Tensor:
    """Return row numbers, shape (count,): first a part is drawn by its probability, then one of its rows.

    Args:
        count: Number of draws.
        parts: Rows and probability of each part.
        generator: Source of randomness; two draws per row.
    """
    sizes = torch.tensor([size for size, _ in parts])
    edges = torch.tensor([probability for _, probability in parts], dtype=torch.float64).cumsum(0)
    draws = torch.rand(2, count, dtype=torch.float64, generator=generator)
    part = torch.bucketize(draws[0], edges[:-1], right=True)
    within = (draws[1] * sizes[part]).long().clamp(max=sizes[part] - 1)
    return (sizes.cumsum(0) - sizes)[part] + within


class OneBatch:
    """A loader of one empty batch."""

    def __len__(self) -> int:
        """Return 1."""
        return 1

    def __iter__(self) -> Iterator[Tensor]:
        """Yield an empty tensor."""
        yield torch.empty(0)


def repeated_batches(overfit_batches: float) -> int | None:
    """Return how many batches ``trainer.overfit_batches`` wants to see over and over; None without it.

    Raises:
        UserError: If it is a share: of an endless stream there is none.
    """
    if not overfit_batches:
        return None
    if isinstance(overfit_batches, float):
        raise UserError(
            f"trainer.overfit_batches {overfit_batches:g} is a share, but batches are drawn from an endless stream: give a "
            "number of batches, such as 1"
        )
    return overfit_batches


def mixture_probabilities(dataset: str, mixture: Mapping[str, float]) -> tuple[float, ...]:
    """Return the sampling probability of the main dataset and of each further one; they add up to 1.

    Args:
        dataset: The main dataset, which gets what is left.
        mixture: Further datasets and their probabilities.

    Raises:
        UserError: If a probability is not positive, nothing is left for the main dataset, or a dataset is named twice.
    """
    for name, probability in mixture.items():
        if not 0 < probability < 1:
            raise UserError(f"data.mixture: the probability of {name} must lie between 0 and 1; got {probability}")
    rest = 1 - sum(mixture.values())
    if rest < 1e-9:  # which sums of decimal fractions may leave
        raise UserError(
            f"data.mixture: the probabilities add up to {sum(mixture.values()):g}, which leaves nothing for {dataset}"
        )
    if dataset in mixture:
        raise UserError(f"data.mixture: {dataset} is data.dataset already; it gets the probability that the others leave")
    return rest, *mixture.values()
