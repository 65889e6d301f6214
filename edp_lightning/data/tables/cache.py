"""Finished tables on disk, so that the next run maps a file instead of reading and slicing a dataset again.

A cache file is the table's rows, the facts about them as JSON, and a fixed-size tail. It is named by a digest of the dataset's
files and of every option that decides the table; it is written under another name, flushed and renamed, so it is either whole
or absent, and its checksums are compared before it is used. Deleting the folder is always safe.
"""

import contextlib
import hashlib
import json
import os
import struct
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from numpy.typing import NDArray

from edp_lightning.data.tables.facts import TableFacts
from edp_lightning.data.tables.recipe import TableRecipe
from edp_lightning.data.tables.row_sinks import CHUNK_BYTES, FileRows, MemoryRows, RowSink
from edp_lightning.data.tables.table import TransitionTable, widths
from edp_lightning.runs.cache_folder import ENVIRONMENT_VARIABLE
from edp_lightning.runs.file_lock import one_at_a_time

Floats = NDArray[np.float32]

FORMAT = 6
"""Meaning of a cache file's content; raised with every change of its layout or of how rows are computed."""

LIMIT_BYTES = 20 << 30
"""Total size above which the files unused for longest are deleted."""

BLOCK = 1 << 20
"""Bytes under one checksum."""

CHECKED_BYTES = 1 << 30
"""A table up to this size is compared with all its checksums, a larger one with evenly spread blocks of this total."""

SETTLED_SECONDS = 2.0
"""A file changed more recently may change again without a new time stamp: its digest is not remembered."""

_TAIL = struct.Struct("<8sQ")  # magic, length of the JSON before it
_MAGIC = b"EDPTABLE"


def table_key(files: Sequence[Path], view: Any, recipe: TableRecipe, folder: Path) -> str:
    """Return the name of a table: a digest of the files' contents, the view, the recipe and the format.

    Contents, not time stamps: a set that was copied, moved or fetched again is recognised, one that was rewritten is not.

    Args:
        files: Files that decide the episodes.
        view: How the files are read: kind of source, observation view, options; its ``repr`` names all of it.
        recipe: What becomes of the episodes.
        folder: Where digests of files are remembered.
    """
    options = json.dumps(asdict(recipe), sort_keys=True)
    parts = [str(FORMAT), sys.byteorder, repr(view), options]
    parts += [f"{path.name} {file_digest(path, folder)}" for path in files]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:32]


def file_digest(path: Path, folder: Path) -> str:
    """Return the SHA-256 of a file's content, remembered in ``folder`` as long as the file is untouched.

    Untouched means: same path, inode, size, time of modification and time of change, of which no program can choose the
    last. The idea is that of git's index, with its precaution: very recent changes are not trusted.
    """
    before = path.stat()
    identity = f"{path.resolve()} {before.st_dev} {before.st_ino} {before.st_size} {before.st_mtime_ns} {before.st_ctime_ns}"
    memory = folder / "digests" / hashlib.sha256(identity.encode()).hexdigest()[:32]
    with contextlib.suppress(OSError):
        remembered = memory.read_text()
        if len(remembered) == 64:
            return remembered
    digest = hashlib.sha256()
    buffer = memoryview(bytearray(BLOCK))
    with path.open("rb", buffering=0) as file:
        while count := file.readinto(buffer):
            digest.update(buffer[:count])
    settled = time.time() - max(before.st_mtime, before.st_ctime) > SETTLED_SECONDS
    if settled and path.stat().st_ctime_ns == before.st_ctime_ns:
        with contextlib.suppress(OSError):
            _write_atomically(memory, lambda file: _write_text(file, digest.hexdigest()))
    return digest.hexdigest()


def cached_table(key: str, build: Callable[[RowSink], TableFacts], folder: Path) -> tuple[TransitionTable, TableFacts]:
    """Return a table from the cache, built and stored if it is not there or damaged.

    Of several processes that want the same table one builds it and the others wait. A cache that cannot be written costs a
    warning, not the run.

    Args:
        key: The table's name.
        build: Fills a sink and returns the facts; may be called again if the cache cannot be written.
        folder: Folder of the cache.
    """
    path = folder / "tables" / f"{key}.table"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with one_at_a_time(path.with_suffix(".lock")):
            facts = read_facts(path)
            if facts is None:
                facts = _build_file(path, build)
                _evict(path.parent, keep=path)
            else:
                with contextlib.suppress(PermissionError):  # another user's
                    os.utime(path)
                rank_zero_info(f"table of transitions from the cache: {path}")
            table = TransitionTable.from_file(str(path), facts.rows, facts.observation_dim, facts.action_dim)
            return table, facts
    except OSError as error:
        rank_zero_warn(f"the table cannot be cached in {folder} ({error}); set {ENVIRONMENT_VARIABLE}, or data.cache false")
    return table_in_memory(build)


def table_in_memory(build: Callable[[RowSink], TableFacts]) -> tuple[TransitionTable, TableFacts]:
    """Return a table that is not kept for another run."""
    rows = MemoryRows()
    facts = build(rows)
    return TransitionTable(torch.from_numpy(rows.finish()), facts.observation_dim, facts.action_dim), facts


def _build_file(path: Path, build: Callable[[RowSink], TableFacts]) -> TableFacts:
    found: list[TableFacts] = []

    def write(file: BinaryIO) -> None:
        facts = build(FileRows(file))
        size = file.seek(0, os.SEEK_END)
        footer = {"facts": asdict(facts), "size": size, "checksums": _checksums(file, size, range(0, size, BLOCK))}
        file.seek(size)
        text = json.dumps(footer).encode()
        file.write(text)
        file.write(_TAIL.pack(_MAGIC, len(text)))
        found.append(facts)

    _write_atomically(path, write)
    return found[0]


def read_facts(path: Path) -> TableFacts | None:
    """Return the facts of a cache file, or None if it is absent, truncated or does not match its checksums."""
    try:
        with path.open("rb") as file:
            end = file.seek(-_TAIL.size, os.SEEK_END)
            magic, length = _TAIL.unpack(file.read(_TAIL.size))
            if magic != _MAGIC or length > end:
                return None
            file.seek(end - length)
            footer = json.loads(file.read(length))
            facts = TableFacts.of_plain(footer["facts"])
            size, stored = footer["size"], footer["checksums"]
            if size != end - length or size != 4 * facts.rows * sum(widths(facts.observation_dim, facts.action_dim)):
                return None
            every = -(-len(stored) * BLOCK // CHECKED_BYTES) or 1
            found = _checksums(file, size, range(0, size, BLOCK * every))
            return facts if found == stored[::every] else None
    except (OSError, ValueError, KeyError, TypeError, struct.error):
        return None


def _checksums(file: BinaryIO, size: int, starts: range) -> list[int]:
    """Return the wrapping sum of the 32-bit words of each block: fast enough for every start, and no torn page passes it."""
    per_read = max(1, CHUNK_BYTES // BLOCK) if starts.step == BLOCK else 1
    buffer = np.empty(per_read * BLOCK // 4, dtype=np.uint32)
    sums: list[int] = []
    for first in range(0, len(starts), per_read):
        start = starts[first]
        part = buffer[: min(buffer.nbytes, size - start) // 4]
        file.seek(start)
        if file.readinto(part.data) != part.nbytes:  # type: ignore[attr-defined]
            raise OSError("shorter than its tail says")
        whole = len(part) // (BLOCK // 4) * (BLOCK // 4)
        sums += part[:whole].reshape(-1, BLOCK // 4).sum(axis=1, dtype=np.uint64).tolist()
        if whole < len(part):
            sums.append(int(part[whole:].sum(dtype=np.uint64)))
    return sums


def _write_text(file: BinaryIO, text: str) -> None:
    file.write(text.encode())


def _write_atomically(path: Path, write: Callable[[BinaryIO], None]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(prefix=".writing-", dir=path.parent)
    try:
        with os.fdopen(handle, "w+b") as file:
            _share(temporary)
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise


def _share(path: str) -> None:
    """Give a temporary file the rights that a new file would have: a cache may be of a whole group."""
    if sys.platform != "win32":
        mask = os.umask(0)
        os.umask(mask)
        os.chmod(path, 0o666 & ~mask)


def _evict(tables: Path, keep: Path) -> None:
    """Delete what was unused for longest until the rest fits the limit; runs that still map a deleted file keep it."""
    for leftover in tables.glob(".writing-*"):
        with contextlib.suppress(OSError):
            if time.time() - leftover.stat().st_mtime > 86_400:  # of a process that was killed
                leftover.unlink()
    found = []
    for path in tables.glob("*.table"):
        with contextlib.suppress(OSError):
            found.append((path.stat().st_mtime, path.stat().st_size, path))
    total = sum(size for _, size, _ in found)
    for _, size, path in sorted(found):
        if total <= LIMIT_BYTES:
            return
        if path != keep:
            with contextlib.suppress(OSError):
                path.unlink()
                path.with_suffix(".lock").unlink(missing_ok=True)
                total -= size
