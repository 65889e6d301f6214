"""One process at a time at what several may want to make."""

import contextlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path


def _nothing() -> None:
    pass


@contextlib.contextmanager
def one_at_a_time(path: Path, waiting: Callable[[], None] = _nothing) -> Iterator[None]:
    """Let one process at a time in; the system drops the lock of a process that dies. Windows has no such lock.

    Args:
        path: The file that is locked, made if it is not there.
        waiting: Called if another process is in, before it is waited for.

    Raises:
        OSError: If the file can neither be made nor opened.
    """
    try:
        lock = path.open("w")
    except PermissionError:  # another user's: its lock can be taken all the same
        lock = path.open("r")
    with lock:
        if sys.platform != "win32":
            import fcntl

            with contextlib.suppress(OSError):  # file systems without locks
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    waiting()
                    fcntl.flock(lock, fcntl.LOCK_EX)
        yield
