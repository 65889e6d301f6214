"""Lightning callbacks: everything that happens after a gradient step or beside training (edp_lightning.callbacks)."""

from edp_lightning.callbacks.checkpoints import BestCheckpoint, LastCheckpoint
from edp_lightning.callbacks.data_report import DataReport
from edp_lightning.callbacks.entropy_tuning import EntropyCoefficientTuning
from edp_lightning.callbacks.environment_evaluation import EnvironmentEvaluation
from edp_lightning.callbacks.guards import NumericsGuard
from edp_lightning.callbacks.held_out import HeldOutErrors
from edp_lightning.callbacks.job_timer import JobTimer
from edp_lightning.callbacks.online_training import OnlineTraining
from edp_lightning.callbacks.prediction_writer import PredictionWriter
from edp_lightning.callbacks.progress import TrainingProgressBar
from edp_lightning.callbacks.q_diagnostics import QDiagnostics
from edp_lightning.callbacks.random_states import RandomStates
from edp_lightning.callbacks.speed import SpeedMonitor
from edp_lightning.callbacks.target_update import TargetNetworkUpdate

__all__ = [
    "BestCheckpoint",
    "DataReport",
    "EntropyCoefficientTuning",
    "EnvironmentEvaluation",
    "HeldOutErrors",
    "JobTimer",
    "LastCheckpoint",
    "NumericsGuard",
    "OnlineTraining",
    "PredictionWriter",
    "QDiagnostics",
    "RandomStates",
    "SpeedMonitor",
    "TargetNetworkUpdate",
    "TrainingProgressBar",
]
