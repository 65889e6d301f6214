"""Where finished rows go: memory, or a file."""

import os
from collections.abc import Iterator
from typing import BinaryIO, Protocol

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]

CHUNK_BYTES = 16 << 20
"""Rows are finished in chunks of about this size."""


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


class FileRows:
    """Rows at the beginning of a file.

    Args:
        file: An empty file, open for reading and writing.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._width = 0

    def append(self, rows: Floats) -> None:
        """Add rows."""
        self._width = rows.shape[1]
        self._file.write(np.ascontiguousarray(rows).data)

    def chunks(self, rows: int) -> Iterator[Floats]:
        """Yield copies and write them back."""
        end = self._file.seek(0, os.SEEK_END)
        chunk = np.empty((rows, self._width), dtype=np.float32)
        for start in range(0, end, chunk.nbytes):
            part = chunk[: min(chunk.nbytes, end - start) // (4 * self._width)]
            self._file.seek(start)
            self._file.readinto(part.data)  # type: ignore[attr-defined]
            yield part
            self._file.seek(start)
            self._file.write(part.data)
        self._file.seek(end)
