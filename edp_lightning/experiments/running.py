"""One trial as processes of the ordinary command line: fit, then test, tried again where that fails."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager
from enum import Enum
from pathlib import Path
from typing import Any

from edp_lightning.errors import UserError
from edp_lightning.experiments import attached, records
from edp_lightning.experiments.attempts import note
from edp_lightning.experiments.plan import Trial
from edp_lightning.runs.run_folder import FolderInUseError, lock_run_folder

RETRIES = 2
"""How often a trial that failed is tried again."""

THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS")


class State(Enum):
    """What a trial is at."""

    WAITING = "waiting"
    RUNNING = "running"
    ELSEWHERE = "running elsewhere"
    DONE = "done"
    FAILED = "failed"


class TrialRun:
    """Takes a trial to its end, one process at a time; nothing here waits.

    Args:
        trial: The trial.
        threads: Threads of its processes.

    Attributes:
        state: What it is at.
        failures: How often it failed.
        reason: Why it failed last.
        verb: What its process does, ``fit`` or ``test``; empty without one.
        first_step: Gradient steps when its process began.
        gained: Gradient steps taken by this object's processes that have ended.
        seconds: Time these took.
    """

    def __init__(self, trial: Trial, threads: int) -> None:
        self.trial = trial
        self.threads = threads
        self.state = State.WAITING
        self.failures = 0
        self.reason = ""
        self.verb = ""
        self.gained, self.seconds = 0, 0.0
        self._command: list[str] = []
        self._process: subprocess.Popen[bytes] | None = None
        self._lock: AbstractContextManager[Any] | None = None
        self.first_step, self._begin = 0, 0.0

    def look(self) -> None:
        """Find out from its folder whether it is done; starts nothing."""
        try:
            self.state = State.DONE if records.next_command(self.trial) is None else State.WAITING
        except UserError:
            self.state = State.WAITING  # starting it says why

    def notice_others(self) -> None:
        """Find out whether another sweep runs it, for those who only look."""
        folder = records.trial_folder(self.trial)
        if self.state is State.WAITING and folder.exists():
            try:
                with lock_run_folder(folder):
                    pass
            except FolderInUseError:
                self.state = State.ELSEWHERE
            except UserError:
                pass  # starting it says why

    def start(self) -> None:
        """Start its next process, if it is not done and no other sweep runs it."""
        try:
            records.trial_folder(self.trial).mkdir(parents=True, exist_ok=True)
            try:
                self._lock = lock_run_folder(records.trial_folder(self.trial))
                with lock_run_folder(self.trial.folder):  # a process left over by a sweep that was killed may be saving
                    pass
            except FolderInUseError:
                self._release()
                self.state = State.ELSEWHERE
                return
            if not records.is_begun(self.trial):
                records.forget_results(self.trial)
            records.remember_settings(self.trial)
            self._go_on()
        except (OSError, UserError) as error:
            self._fail(str(error))

    def poll(self) -> None:
        """Notice that its process has ended, and start the next one or see to the failure."""
        assert self._process is not None
        status = self._process.poll()
        if status is None:
            return
        failure = self._account(status)
        if failure:
            self._fail(failure)
            return
        try:
            self._go_on()
        except (OSError, UserError) as error:
            self._fail(str(error))

    def stop(self, number: int) -> None:
        """Send its process a signal: it saves and leaves."""
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(number)

    def leave(self) -> bool:
        """Return whether its process has ended after :meth:`stop`; the trial waits for another sweep then."""
        if self._process is not None:
            status = self._process.poll()
            if status is None:
                return False
            self._account(status)
        self._release()
        self.state = State.WAITING if self.state == State.RUNNING else self.state
        return True

    def running_seconds(self) -> float:
        """Return for how long its process has been at work."""
        return time.monotonic() - self._begin if self._process is not None else 0.0

    def _go_on(self) -> None:
        records.check_settings(self.trial)  # each process reads the configs, which may have been edited since the last one did
        command = records.next_command(self.trial)
        if command is None:
            self.state, self.verb = State.DONE, ""
            self._release()
            return
        self.verb, self._command = command[0], command
        self.first_step, self._begin = records.checkpoint_step(self.trial), time.monotonic()
        note(self.trial.folder, event="started", command=self.verb, step=self.first_step)
        with records.log_file(self.trial).open("ab") as log:
            self._process = subprocess.Popen(
                attached_command([sys.executable, "-m", "edp_lightning", *command]),
                env=os.environ | thread_variables(self.threads),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C is the sweep's: it passes it on once
            )
        self.state = State.RUNNING

    def _account(self, status: int) -> str:
        """Note the end of its process; return why that is a failure, or nothing."""
        verb, self.verb, self._process = self.verb, "", None
        try:
            step = records.checkpoint_step(self.trial)
        except UserError as error:
            return str(error)
        if verb == "fit":
            self.gained += step - self.first_step
            self.seconds += time.monotonic() - self._begin
        note(self.trial.folder, event="ended", command=verb, step=step, status=status)
        if status < 0:
            return f"{verb} was killed by signal {signal.Signals(-status).name}"
        if status:
            return f"{verb} ended with status {status}"
        if verb == "fit" and step < self.trial.steps:
            return f"fit ended by itself at step {step} of {self.trial.steps}"
        if verb == "fit" and records.owes_evaluation(self.trial):
            return "fit ended without the evaluation that had been interrupted"
        if verb == "test" and records.next_command(self.trial) == self._command:
            return "test wrote no result file"
        return ""

    def _fail(self, reason: str) -> None:
        self._release()
        self.failures += 1
        self.reason = reason
        self.state = State.FAILED if self.failures > RETRIES else State.WAITING

    def _release(self) -> None:
        if self._lock is not None:
            self._lock.__exit__(None, None, None)
            self._lock = None


def attached_command(command: Sequence[str]) -> list[str]:
    """Return a command line whose process is asked to stop when this one dies, where the system can do that."""
    if sys.platform != "linux":
        return list(command)
    return [sys.executable, "-S", str(Path(attached.__file__)), str(os.getpid()), *command]


def thread_variables(threads: int) -> dict[str, str]:
    """Return the environment variables that keep a process to so many threads."""
    return {name: str(threads) for name in THREAD_VARIABLES}
