"""Ctrl-C and SIGTERM as a wish that a loop grants between two gradient steps."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any


class StopSignals:
    """Remembers that SIGINT or SIGTERM came, until somebody asks.

    A second SIGINT raises ``KeyboardInterrupt`` where it is. SIGTERM may come as often as it likes: batch systems repeat it.
    """

    def __init__(self) -> None:
        self.received = 0
        self._previous: dict[int, Any] = {}

    def install(self) -> None:
        """Take both signals over; outside the main thread, where that is impossible, leave them as they are."""
        self.received = 0
        try:
            for number in (signal.SIGINT, signal.SIGTERM):
                self._previous[number] = signal.signal(number, self._note)
        except ValueError:
            self._previous = {}

    def shield(self) -> None:
        """Ignore both from now on: the process is on its way out and must finish what it writes."""
        for number in self._previous:
            signal.signal(number, signal.SIG_IGN)

    def restore(self) -> None:
        """Give both back to whoever had them."""
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous = {}

    def _note(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT and self.received:
            raise KeyboardInterrupt
        self.received = max(self.received, number)


@contextmanager
def signals_kept_from_children() -> Iterator[None]:
    """Let processes that are started inside never see Ctrl-C and SIGTERM; whoever starts them ends them.

    They inherit a mask, so this holds from their first moment on. What comes for this process meanwhile arrives afterwards.
    """
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT, signal.SIGTERM))
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
