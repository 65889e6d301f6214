"""What evaluations cannot work with, said before training begins."""

from typing import Any

import lightning as L

from edp_lightning.callbacks.checkpoints import BestCheckpoint
from edp_lightning.errors import UserError
from edp_lightning.runs.processes import check_script_is_guarded


def check_background(trainer: L.Trainer) -> None:
    """Refuse evaluations in the background where their scores are needed at once.

    Raises:
        UserError: With several devices, and beside callbacks that act on the scores of every evaluation.
    """
    if trainer.world_size > 1:
        raise UserError("evaluation.background is for one device: with several, ranks share out the episodes; set it to false")
    for callback in watchers(trainer):
        raise UserError(
            f"{type(callback).__name__} watches {callback.monitor} at every evaluation, which one in the background knows "
            "only later: set evaluation.background to false"
        )


def check_data(data: Any) -> None:
    """Refuse a data module that says nothing of an environment, not even that there is none.

    Raises:
        UserError: If it is no ``OfflineDataModule``.
    """
    if not hasattr(data, "environment"):
        raise UserError(
            "EnvironmentEvaluation asks the data module for the environment, and this trainer has no OfflineDataModule: "
            "give it one, or leave the callback out and play load_policy(...) yourself"
        )


def check_processes(environment: Any) -> None:
    """Refuse what other processes cannot play: classes of a notebook or shell, and scripts that they would run again.

    Raises:
        UserError: Saying which of the two.
    """
    check_script_is_guarded()
    if environment.lives_in_a_shell:
        raise UserError(
            "the environment's class was defined in this notebook or shell, where other processes cannot find it: do "
            "without them (background false, num_workers 0), or put the class into a module"
        )


def watchers(trainer: L.Trainer) -> list[Any]:
    """Return callbacks, other than this package's, that act on a number of every evaluation."""
    return [
        callback
        for callback in trainer.callbacks  # type: ignore[attr-defined]
        if not isinstance(callback, BestCheckpoint)
        and str(getattr(callback, "monitor", "")).startswith(("evaluation/", "q_diagnostics/"))
    ]
