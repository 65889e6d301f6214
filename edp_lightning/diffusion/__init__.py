"""The mean-reverting diffusion of actions as pure torch: schedules, transition laws and entropy estimators. No networks."""

from edp_lightning.diffusion.entropy import bridge_entropy, gaussian_entropy, path_entropy, reference_entropy
from edp_lightning.diffusion.schedule import SCHEDULES, ScheduleName, step_rates
from edp_lightning.diffusion.sde import MeanRevertingSDE

__all__ = [
    "SCHEDULES",
    "MeanRevertingSDE",
    "ScheduleName",
    "bridge_entropy",
    "gaussian_entropy",
    "path_entropy",
    "reference_entropy",
    "step_rates",
]
