"""The bundled locomotion policies: the best of a training, one stopped half-way, and twenty snapshots up to that one."""

from collections.abc import Mapping
from importlib.resources import files
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edp_lightning.collect.locomotion_tasks import Skill

Array = NDArray[np.float64]
ROLES: tuple[str, ...] = ("expert", "medium", *(f"replay_{number:02d}" for number in range(20)))
"""What the policies of a file are, in order."""


class LocomotionPolicy:
    """A Gaussian policy: tanh layers on normalised observations, a linear mean, one standard deviation per action.

    Args:
        arrays: ``w0 b0 w1 b1 w_mean b_mean log_std observation_mean observation_std``, float32.
    """

    def __init__(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        self._layers = [(arrays[f"w{n}"].T, arrays[f"b{n}"]) for n in ("0", "1", "_mean")]
        self._mean, self._deviation = arrays["observation_mean"], arrays["observation_std"]
        self.std = np.exp(arrays["log_std"])

    def mean(self, observations: Array) -> NDArray[np.float32]:
        """Return mean actions, (B, action_dim), not clipped, for observations (B, observation_dim)."""
        x = np.clip((observations.astype(np.float32) - self._mean) / self._deviation, -10.0, 10.0)
        for number, (weight, bias) in enumerate(self._layers):
            x = x @ weight + bias
            x = np.tanh(x) if number < len(self._layers) - 1 else x
        result: NDArray[np.float32] = x
        return result


def bundled_policies(robot: str, skill: Skill) -> list[LocomotionPolicy]:
    """Return the policies of a skill: one, or for ``replay`` twenty in the order of training.

    Args:
        robot: ``hopper``, ``halfcheetah`` or ``walker2d``.
        skill: Whose data is wanted.
    """
    with files(__package__).joinpath(f"{robot}_policies.npz").open("rb") as file:
        stacked = dict(np.load(file))
    rows = [row for row, role in enumerate(ROLES) if role.startswith(skill)]
    return [LocomotionPolicy({name: values[row] for name, values in stacked.items()}) for row in rows]
