"""Callbacks that every run of the command line has, beside those of the user's."""

from collections.abc import Mapping, Sequence

import lightning as L
from lightning.pytorch.callbacks import ProgressBar

from edp_lightning import callbacks
from edp_lightning.errors import UserError

FORCED_CALLBACKS: dict[str, type[L.Callback]] = {
    "target_update": callbacks.TargetNetworkUpdate,
    "entropy_tuning": callbacks.EntropyCoefficientTuning,
    "guard": callbacks.NumericsGuard,
    "online": callbacks.OnlineTraining,
    "evaluation": callbacks.EnvironmentEvaluation,
    "q_diagnostics": callbacks.QDiagnostics,
    "held_out": callbacks.HeldOutErrors,
    "data_report": callbacks.DataReport,
    "speed": callbacks.SpeedMonitor,
    "progress_bar": callbacks.TrainingProgressBar,
    "random_states": callbacks.RandomStates,
    "prediction_writer": callbacks.PredictionWriter,
    "best_checkpoint": callbacks.BestCheckpoint,
    "last_checkpoint": callbacks.LastCheckpoint,  # after the best one: its file knows the best score
}
"""Section of a config -> callback that is always there; no config can lose one by setting trainer.callbacks."""


def forced_beside(forced: Mapping[str, L.Callback], users: Sequence[L.Callback], progress_bar: bool = True) -> list[L.Callback]:
    """Return the forced callbacks that this run needs.

    A callback of the user's that derives from a forced one takes its place, any progress bar that of the progress bar:
    nothing happens twice.

    Args:
        forced: By their sections of the config.
        users: ``trainer.callbacks``.
        progress_bar: ``trainer.enable_progress_bar``.

    Raises:
        UserError: If the user's list has a forced callback itself, whose options are set in its section.
    """
    kept = []
    for section, callback in forced.items():
        kind = ProgressBar if isinstance(callback, ProgressBar) else type(callback)
        if any(type(other) is type(callback) for other in users):
            raise UserError(
                f"{type(callback).__name__} is in every run: set its options in the section {section}, and take it out of "
                "trainer.callbacks"
            )
        replaced = any(isinstance(other, kind) for other in users)
        if not replaced and (progress_bar or kind is not ProgressBar):
            kept.append(callback)
    return kept
