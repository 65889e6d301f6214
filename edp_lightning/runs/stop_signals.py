"""Ctrl-C and SIGTERM as a wish that a loop grants between two gradient steps, or at once where nothing can be spoilt."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import resource_tracker
from types import FrameType
from typing import Any


class StopRequested(BaseException):
    """Raised by a stop signal where it may interrupt."""


class StopSignals:
    """Remembers that SIGINT or SIGTERM came, until somebody asks.

    A second SIGINT raises ``KeyboardInterrupt`` where it is. SIGTERM may come as often as it likes: batch systems repeat it.
    """

    def __init__(self) -> None:
        self.received = 0
        self._previous: dict[int, Any] = {}
        self._interrupting = False

    @property
    def installed(self) -> bool:
        """Whether the signals come here."""
        return bool(self._previous)

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

    def forget(self) -> None:
        """Take note that somebody else has given both back."""
        self._previous, self.received = {}, 0

    @contextmanager
    def interrupting(self) -> Iterator[None]:
        """Let the first signal interrupt what runs inside, even a step that never returns.

        Raises:
            StopRequested: Where the code is when the signal comes; at once if one came before.
        """
        self._interrupting = True
        try:
            self.check()
            yield
        finally:
            self._interrupting = False

    def check(self) -> None:
        """Raise if a signal came; for loops around foreign code that may have swallowed the exception.

        Raises:
            StopRequested: If so.
        """
        if self.received:
            raise StopRequested

    def _note(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT and self.received:
            raise KeyboardInterrupt
        self.received = max(self.received, number)
        if self._interrupting:
            self._interrupting = False  # once: what cleans up after it must not be interrupted
            raise StopRequested


@contextmanager
def leaving_on_sigterm() -> Iterator[None]:
    """Let SIGTERM leave what runs inside as an exception does: it cleans up. Its repetitions, as of batch systems, do nothing.

    Where somebody takes the signal already, and outside the main thread, all stays as it is.

    Raises:
        SystemExit: With 143, where the code is when the signal comes.
    """
    in_main_thread = threading.current_thread() is threading.main_thread()
    if not in_main_thread or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        yield
        return
    signal.signal(signal.SIGTERM, _leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _leave(number: int, frame: FrameType | None) -> None:
    signal.signal(number, signal.SIG_IGN)
    raise SystemExit(128 + number)


@contextmanager
def signals_kept_from_children() -> Iterator[None]:
    """Let processes that are started inside never see Ctrl-C and SIGTERM; whoever starts them ends them.

    They inherit a mask, so this holds from their first moment on. What comes for this process meanwhile arrives afterwards.
    """
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    resource_tracker.ensure_running()  # multiprocessing starts it with the first process, and lifts the mask when it does
    before = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT, signal.SIGTERM))
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
