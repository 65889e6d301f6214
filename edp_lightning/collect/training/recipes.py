"""How each robot is trained: its task, its networks and PPO's settings."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from edp_lightning.collect.physics.locomotion import ROBOTS
from edp_lightning.collect.training.locomotion_task import LocomotionTask
from edp_lightning.collect.training.networks import GaussianActor, ValueNetwork
from edp_lightning.collect.training.ppo import PPO, PPOSettings
from edp_lightning.errors import UserError


@dataclass(frozen=True)
class Recipe:
    """How a robot is trained.

    Attributes:
        build: (seed, start) -> PPO; start is a file of weights to begin with, or None.
        snapshot_period: Iterations between two snapshots of the policy; 0 keeps none.
    """

    build: Callable[[int, Path | None], PPO]
    snapshot_period: int


def _locomotion(name: str) -> Callable[[int, Path | None], PPO]:
    def build(seed: int, start: Path | None) -> PPO:
        if start is not None:
            raise UserError(f"{name} is trained from nothing: --start is for the ant")
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            task = LocomotionTask(ROBOTS[name], 64, seed)
            actor = GaussianActor(task.observation_dim, task.action_dim, (64, 64), torch.tanh, squash=False, std=0.6)
            value = ValueNetwork(task.observation_dim, (64, 64))
        return PPO(task, actor, value, PPOSettings(), seed)

    return build


RECIPES: dict[str, Recipe] = {name: Recipe(_locomotion(name), snapshot_period=4) for name in ROBOTS}
"""Name on the command line -> recipe."""


def recipe_of(name: str) -> Recipe:
    """Return the recipe of a robot.

    Raises:
        UserError: If there is none.
    """
    if name not in RECIPES:
        raise UserError(f"nothing called {name!r} can be trained; choose one of {', '.join(RECIPES)}")
    return RECIPES[name]
