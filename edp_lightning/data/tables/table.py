"""All transitions of a dataset side by side in one float32 array, in memory, on a device, or mapped from a file."""

import mmap
import warnings

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from edp_lightning.data.transitions import Batch, SuccessorBatch

RESIDENT_BYTES = 2 << 30
"""Mapped pages that gathering leaves in a process's resident memory before they are handed back to the system's page cache."""

PAGES_AROUND = 64 << 10
"""Bytes that one access to a mapped file makes resident at most: the system maps the cached neighbours of a page with it."""


def widths(observation_dim: int, action_dim: int) -> tuple[int, ...]:
    """Return the columns that each field of :class:`Batch` takes in a row of the table."""
    return observation_dim, action_dim, 1, observation_dim, 1, 1


class TransitionTable:
    """Rows of observation, action, reward, next observation, terminated and steps: a batch is a single gather.

    Args:
        rows: Shape (rows, sum of ``widths``), float32.
        observation_dim: Width of an observation.
        action_dim: Width of an action.
        mapping: The mapped file ``rows`` lies in, if it does.
    """

    def __init__(self, rows: Tensor, observation_dim: int, action_dim: int, mapping: mmap.mmap | None = None) -> None:
        self.rows = rows
        self.observation_dim = observation_dim
        self.action_dim = action_dim
        self._widths = widths(observation_dim, action_dim)
        self._mapping = mapping
        self._touched = 0

    @classmethod
    def from_batch(cls, batch: Batch) -> "TransitionTable":
        """Return a table of given rows."""
        rows = torch.cat([column if column.dim() == 2 else column.unsqueeze(1) for column in batch], dim=1)
        return cls(rows, batch.observation.shape[1], batch.action.shape[1])

    @classmethod
    def from_file(cls, path: str, rows: int, observation_dim: int, action_dim: int) -> "TransitionTable":
        """Return the table at the beginning of a file, mapped read-only: several runs share its pages."""
        width = sum(widths(observation_dim, action_dim))
        with open(path, "rb") as file:
            mapping = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        if len(mapping) > RESIDENT_BYTES and hasattr(mmap, "MADV_RANDOM"):
            mapping.madvise(mmap.MADV_RANDOM)  # no read-ahead: the next row is drawn from anywhere
        flat = np.frombuffer(mapping, dtype=np.float32, count=rows * width)
        return cls(_read_only(flat).view(rows, width), observation_dim, action_dim, mapping)

    def __len__(self) -> int:
        """Return the number of transitions."""
        return len(self.rows)

    @property
    def columns(self) -> Batch:
        """Views of all rows, field by field; nothing is copied."""
        return self._fields(self.rows)

    def gather(self, index: Tensor, device: torch.device | None = None) -> Batch:
        """Return the rows of an index (batch,) that lies on the table's device.

        Rows for another device travel in one piece, and are split into fields there; on a GPU, beside the step that is running.
        """
        if device is None or device == self.rows.device:
            rows = self.rows.index_select(0, index)
        else:
            # torch hands a pinned buffer out again only when the copy from it is done
            rows = torch.empty(len(index), self.rows.shape[1], pin_memory=device.type == "cuda")
            rows = torch.index_select(self.rows, 0, index, out=rows).to(device, non_blocking=True)
        fields = self._fields(rows)
        if self._mapping is not None:
            self._touched += len(index) * PAGES_AROUND
            if self._touched > RESIDENT_BYTES:
                self._release()
        return fields

    def gather_with_successors(self, index: Tensor, device: torch.device | None = None) -> SuccessorBatch:
        """Return the rows of an index (batch,), on ``device``, with the action of the row that goes on where each of them ends.

        Episodes lie one after the other, so that row is ``steps`` further on, if its observation is this row's next one.
        """
        batch = self.gather(index)
        after = self.gather((index + batch.steps.long()).clamp(max=len(self) - 1))
        known = (after.observation == batch.next_observation).all(dim=1)
        found = SuccessorBatch(*batch, torch.where(known.unsqueeze(1), after.action, 0.0), known.float())
        return found if device is None else SuccessorBatch(*(field.to(device, non_blocking=True) for field in found))

    def to(self, device: torch.device) -> "TransitionTable":
        """Return the table on a device where it fits beside a run; otherwise itself, and batches travel to the device."""
        if device == self.rows.device:
            return self
        if device.type == "cuda":
            free, _ = torch.cuda.mem_get_info(device)
            if self.rows.numel() * self.rows.element_size() > free // 2:
                return self
        return TransitionTable(self.rows.to(device), self.observation_dim, self.action_dim)

    def _fields(self, rows: Tensor) -> Batch:
        observation, action, reward, following, terminated, steps = torch.split(rows, list(self._widths), dim=1)
        return Batch(observation, action, reward.squeeze(1), following, terminated.squeeze(1), steps.squeeze(1))

    def _release(self) -> None:
        """Let go of the mapped pages; they stay in the page cache as long as the system has room for them."""
        assert self._mapping is not None
        if self.rows.numel() * self.rows.element_size() > RESIDENT_BYTES and hasattr(mmap, "MADV_DONTNEED"):
            self._mapping.madvise(mmap.MADV_DONTNEED)
        self._touched = 0


def _read_only(array: NDArray[np.float32]) -> Tensor:
    with warnings.catch_warnings():  # torch has no read-only tensors; nothing writes to a table
        warnings.filterwarnings("ignore", message=".*not writable.*")
        return torch.from_numpy(array)
