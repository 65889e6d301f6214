"""How evaluations end that bring no score: given up because of a signal, or failed."""

import signal
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn

import lightning as L
import torch
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities.exceptions import SIGTERMException

from edp_lightning.callbacks.checkpoints import LastCheckpoint
from edp_lightning.callbacks.evaluation_checks import watchers
from edp_lightning.errors import UserError, first_line
from edp_lightning.evaluation.foreground import Outcome
from edp_lightning.runs.ranks import largest_over_ranks
from edp_lightning.runs.stop_signals import StopSignals

FAILURES_IN_A_ROW = 3
"""Evaluations that fail one after the other until a run ends: nobody would learn what its policy is worth."""


@contextmanager
def stop_signals(trainer: L.Trainer) -> Iterator[StopSignals]:
    """Yield where stop signals arrive: where the run has taken them over, or a place of their own for the time inside."""
    for callback in _savers(trainer):
        if callback.signals.installed:
            yield callback.signals
            return
    signals = StopSignals()
    signals.install()
    try:
        yield signals
    finally:
        signals.restore()


def stop(trainer: L.Trainer, number: int) -> NoReturn:
    """Stop inside an evaluation because of a signal; during ``fit`` the state is saved before.

    Raises:
        KeyboardInterrupt: After SIGINT.
        SIGTERMException: After SIGTERM.
    """
    for callback in _savers(trainer):
        if callback.signals.installed and trainer.state.fn == TrainerFn.FITTING:
            callback.stop_in_evaluation(trainer, number)
    raise stop_exception(number)


def stop_exception(number: int) -> BaseException:
    """Return what Lightning and the command line expect after a signal."""
    return KeyboardInterrupt() if number == signal.SIGINT else SIGTERMException(128 + number)


def end_with(trainer: L.Trainer, error: BaseException) -> None:
    """End the run with an exception once its state is saved.

    Raises:
        BaseException: The exception itself, at once, if nobody saves.
    """
    if not _savers(trainer):
        raise error
    for callback in _savers(trainer):
        callback.end_with(error)


def agree(trainer: L.Trainer, outcome: Outcome, device: torch.device) -> None:
    """Let the outcome of a rank's share be that of all ranks: stopped if one was, otherwise failed if one did."""
    launcher = trainer.strategy.launcher
    if outcome.stopped == signal.SIGTERM and launcher is not None and trainer.is_global_zero:
        launcher.kill(signal.SIGTERM)  # the others are playing yet; a terminal's Ctrl-C reaches them by itself
    outcome.stopped = int(largest_over_ranks(outcome.stopped, device))
    if largest_over_ranks(outcome.failure is not None, device) and outcome.failure is None:
        outcome.failure = RuntimeError("the evaluation failed on another rank")


def after_failure(trainer: L.Trainer, step: int, failure: Exception, in_a_row: int) -> None:
    """Say that an evaluation failed, and end the run after saving if it is the third in a row.

    Args:
        trainer: The trainer.
        step: Gradient steps of the policy.
        failure: What went wrong.
        in_a_row: How many failed, this one included, since one succeeded.

    Raises:
        UserError: At once, if another callback insists on the score, or if nobody saves.
    """
    reason = first_line(failure)
    if isinstance(failure, RuntimeError) and str(failure).strip():  # the traceback of another process ends with the reason
        reason = str(failure).strip().splitlines()[-1]
    for callback in watchers(trainer):
        if getattr(callback, "strict", False) and callback.monitor not in trainer.callback_metrics:
            raise UserError(
                f"evaluation at step {step} failed ({reason}), and {type(callback).__name__} needs its {callback.monitor}: "
                "mend the environment, or set the callback's strict to false; then add --ckpt_path last"
            ) from failure
    warnings.warn(f"evaluation at step {step} failed, training goes on: {failure!r}", stacklevel=2)
    if in_a_row < FAILURES_IN_A_ROW:
        return
    error = UserError(
        f"{in_a_row} evaluations in a row failed, the last at step {step}: {reason}. The run is saved: mend the environment, "
        "or set data.environment to none, then add --ckpt_path last"
    )
    error.__cause__ = failure
    end_with(trainer, error)


def _savers(trainer: L.Trainer) -> list[LastCheckpoint]:
    return [callback for callback in trainer.callbacks if isinstance(callback, LastCheckpoint)]  # type: ignore[attr-defined]
