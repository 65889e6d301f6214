"""What a sweep shows while it runs: how many trials are done, running, failed, and how long the rest will take."""

import time
from collections.abc import Sequence
from datetime import timedelta

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table

from edp_lightning.errors import UserError
from edp_lightning.experiments import records
from edp_lightning.experiments.running import State, TrialRun

REDRAW = 2.0
"""Seconds between two looks at the steps of running trials."""


class Board:
    """One table that is kept up to date on a terminal; elsewhere a line for each change.

    Args:
        runs: The trials.
        workers: How many run at a time.
        console: Where to show it; stdout when not given.
    """

    def __init__(self, runs: Sequence[TrialRun], workers: int, console: Console | None = None) -> None:
        self.runs = runs
        self.workers = workers
        self.console = console or Console()
        self._live = Live(console=self.console, auto_refresh=False) if self.console.is_terminal else None
        self._steps = {run.trial.folder: steps_of(run) for run in runs}
        self._before: dict[str, tuple[State, str, int]] = {}
        self._drawn = 0.0

    def __enter__(self) -> "Board":
        """Begin."""
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(self, *error: object) -> None:
        """Draw the end."""
        self.update(True)
        if self._live is not None:
            self._live.stop()

    def update(self, now: bool = False) -> None:
        """Show what is new.

        Args:
            now: Do not wait for the next time.
        """
        changed = [run for run in self.runs if self._before.get(run.trial.name) != (run.state, run.verb, run.failures)]
        if not (now or changed or time.monotonic() - self._drawn > REDRAW):
            return
        self._drawn = time.monotonic()
        for run in self.runs:
            if run in changed or run.state in (State.RUNNING, State.ELSEWHERE):
                self._steps[run.trial.folder] = steps_of(run)
        if self._live is not None:
            self._live.update(self.table(), refresh=True)
        else:
            for run in changed if self._before else []:
                words = [f"[{self.summary()}]", f"{run.trial.name}:", run.verb or run.state.value]
                self.console.print(*words, *([f"({run.reason})"] if run.reason else []), markup=False, soft_wrap=True)
        self._before = {run.trial.name: (run.state, run.verb, run.failures) for run in self.runs}

    def summary(self) -> str:
        """Return the counts and the time left in one line."""
        counts = {state: sum(run.state == state for run in self.runs) for state in State}
        words = [f"{counts[state]} {state.value}" for state in State if counts[state] or state is State.DONE]
        left = self.seconds_left()
        return ", ".join([*words, "time left unknown" if left is None else f"about {timedelta(seconds=round(left))} left"])

    def seconds_left(self) -> float | None:
        """Return how long the rest takes at the speed so far, None if no step was seen."""
        rest = [run for run in self.runs if run.state in (State.WAITING, State.RUNNING, State.ELSEWHERE)]
        missing = sum(run.trial.steps - self._steps[run.trial.folder] for run in rest)
        if not missing:
            return 0.0
        steps = sum(run.gained + self._under_way(run) for run in self.runs)
        seconds = sum(run.seconds + (run.running_seconds() if run.verb == "fit" else 0.0) for run in self.runs)
        return missing * seconds / steps / max(1, min(self.workers, len(rest))) if steps else None

    def table(self) -> RenderableType:
        """Return the summary above a table with the trials that run or failed."""
        table = Table(box=None, pad_edge=False)
        for column in ("trial", "state", "steps", "failures"):
            table.add_column(column, justify="left" if column in ("trial", "state") else "right")
        for run in self.runs:
            if run.state in (State.RUNNING, State.ELSEWHERE, State.FAILED) or run.failures:
                steps = f"{self._steps[run.trial.folder]:,} of {run.trial.steps:,}"
                failures = f"{run.failures} {run.reason}" if run.failures else run.reason
                table.add_row(run.trial.name, run.verb or run.state.value, steps, failures)
        return Group(self.summary(), table) if table.row_count else self.summary()

    def _under_way(self, run: TrialRun) -> int:
        return self._steps[run.trial.folder] - run.first_step if run.verb == "fit" else 0


def steps_of(run: TrialRun) -> int:
    """Return the gradient steps saved so far, 0 where that cannot be read."""
    try:
        return records.checkpoint_step(run.trial)
    except UserError:
        return 0
