"""Runs the trials of a sweep on this machine, so many at a time."""

import signal
import time
from collections.abc import Sequence

from edp_lightning.experiments.board import Board
from edp_lightning.experiments.running import State, TrialRun
from edp_lightning.runs.stop_signals import StopSignals

PAUSE = 0.1
"""Seconds between two looks at the processes."""

PATIENCE = 5.0
"""Seconds between two looks at a trial that another sweep runs."""


def run_local(runs: Sequence[TrialRun], workers: int, board: Board) -> int:
    """Run all trials to their end, or to the first stop signal.

    Args:
        runs: The trials; those that are done are left alone.
        workers: How many run at a time.
        board: Shows what happens.

    Returns:
        The signal that stopped it after every trial has saved, 0 if none did.

    Raises:
        KeyboardInterrupt: After a second Ctrl-C, which kills the trials.
    """
    signals = StopSignals()
    signals.install()
    queue = [run for run in runs if run.state is State.WAITING]
    asked: dict[int, float] = {}
    try:
        with board:
            while not signals.received:
                for run in [run for run in runs if run.state is State.RUNNING]:
                    run.poll()
                    if run.state is State.WAITING:  # it failed: the others first
                        queue.append(run)
                while queue and sum(run.state is State.RUNNING for run in runs) < workers:
                    run = queue.pop(0)
                    run.start()
                    if run.state is State.WAITING:
                        queue.append(run)
                    elif run.state is State.ELSEWHERE:
                        asked[id(run)] = time.monotonic()
                for run in runs:
                    if run.state is State.ELSEWHERE and time.monotonic() - asked[id(run)] > PATIENCE:
                        run.state = State.WAITING
                        queue.append(run)
                board.update()
                if all(run.state in (State.DONE, State.FAILED) for run in runs):
                    return 0
                time.sleep(PAUSE)
            _leave(runs, signals.received)
            return signals.received
    except KeyboardInterrupt:  # the second Ctrl-C
        _leave(runs, signal.SIGKILL if hasattr(signal, "SIGKILL") else signal.SIGTERM)
        raise
    finally:
        signals.restore()


def _leave(runs: Sequence[TrialRun], number: int) -> None:
    """Ask every process to save and leave, and wait for that."""
    for run in runs:
        run.stop(number)
    while not all(run.leave() for run in runs):
        time.sleep(PAUSE)
