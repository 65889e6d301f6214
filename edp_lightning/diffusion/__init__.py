"""Diffusions of actions as pure torch: schedules, transition laws and entropy estimators. No networks."""

from edp_lightning.diffusion.ddpm import DDPM, BetaSchedule, StepVariance
from edp_lightning.diffusion.entropy import bridge_entropy, gaussian_entropy, path_entropy, reference_entropy
from edp_lightning.diffusion.process import DiffusionProcess, Gaussian
from edp_lightning.diffusion.schedule import SCHEDULES, ScheduleName, step_rates
from edp_lightning.diffusion.sde import MeanRevertingSDE

__all__ = [
    "DDPM",
    "SCHEDULES",
    "BetaSchedule",
    "DiffusionProcess",
    "Gaussian",
    "MeanRevertingSDE",
    "ScheduleName",
    "StepVariance",
    "bridge_entropy",
    "gaussian_entropy",
    "path_entropy",
    "reference_entropy",
    "step_rates",
]
