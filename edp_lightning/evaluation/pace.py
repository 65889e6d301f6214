"""How environment steps and gradient steps take turns."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import ClassVar

from edp_lightning.errors import UserError
from edp_lightning.option_bounds import check_bounds


@dataclass(frozen=True)
class Pace:
    """The turns of a run that goes on from an offline checkpoint.

    Before the first gradient step ``first`` environment steps are taken; after gradient step k (counted from 1) there are
    ``first + floor(k * per_gradient_step)`` of them, rounded down to a multiple of ``num_envs`` because all environments step
    together.

    Attributes:
        env_steps: Environment steps of the run, of all environments together.
        first: Environment steps before the first gradient step.
        per_gradient_step: Environment steps per gradient step; 0.05 is an update-to-data ratio of 20.
        num_envs: Environments.
    """

    at_least: ClassVar[dict[str, float]] = {"num_envs": 1, "first_env_steps": 0}

    env_steps: int
    first: int
    per_gradient_step: float
    num_envs: int

    def check(self) -> None:
        """Refuse turns that never come, or that do not divide.

        Raises:
            UserError: Naming the option.
        """
        check_bounds("online", {"num_envs": self.num_envs, "first_env_steps": self.first}, self)
        if not self.per_gradient_step > 0:
            raise UserError(f"online.env_steps_per_gradient_step must be above 0; got {self.per_gradient_step:g}")
        if self.env_steps <= self.first:
            raise UserError(
                f"online.env_steps {self.env_steps} must be more than online.first_env_steps {self.first}, which come before "
                "the first gradient step"
            )
        for name, value in (("env_steps", self.env_steps), ("first_env_steps", self.first)):
            if value % self.num_envs:
                raise UserError(f"online.{name} {value} must be a multiple of online.num_envs {self.num_envs}")

    @property
    def settings(self) -> dict[str, float]:
        """What decides which environment step follows which gradient step, by option."""
        return {
            "first_env_steps": self.first,
            "env_steps_per_gradient_step": self.per_gradient_step,
            "num_envs": self.num_envs,
        }

    def check_unchanged(self, saved: Mapping[str, float]) -> None:
        """Refuse other turns than a run began with; ``env_steps`` alone may grow.

        Args:
            saved: Its :attr:`settings`, as far as they are known.

        Raises:
            UserError: Naming the option.
        """
        for name, value in self.settings.items():
            before = saved.get(name, value)
            if value != before:
                raise UserError(f"this run began with online.{name} {before:g}, not {value:g}: it cannot change on the way")

    @property
    def ratio(self) -> Fraction:
        """Environment steps per gradient step without rounding errors of the decimal number."""
        return Fraction(self.per_gradient_step).limit_denominator(1_000_000)

    @property
    def gradient_steps(self) -> int:
        """Gradient steps of the run: the last one is followed by the last environment steps."""
        return math.ceil((self.env_steps - self.first) / self.ratio)

    def due(self, gradient_steps: int) -> int:
        """Return the environment steps that have been taken after so many gradient steps."""
        steps = min(self.env_steps, self.first + math.floor(gradient_steps * self.ratio))
        return steps - steps % self.num_envs
