"""How each robot is trained: its task, its networks and PPO's settings."""

from collections.abc import Callable
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

import torch

from edp_lightning.collect.physics.locomotion import ROBOTS
from edp_lightning.collect.training.ant_task import AntTask
from edp_lightning.collect.training.locomotion_task import LocomotionTask
from edp_lightning.collect.training.networks import GaussianActor, ValueNetwork
from edp_lightning.collect.training.ppo import PPO, PPOSettings
from edp_lightning.collect.training.snapshots import load_policy, read_arrays
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


EXACT_AFTER = {"hopper": 1_900_000, "halfcheetah": 0, "walker2d": 800_000}
"""Steps after which a robot is trained in the exact physics; HalfCheetah's are Euler's anyway."""


def _locomotion(name: str) -> Callable[[int, Path | None], PPO]:
    def build(seed: int, start: Path | None) -> PPO:
        if start is not None:
            raise UserError(f"{name} is trained from nothing: --start is for the ant")
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            task = LocomotionTask(ROBOTS[name], 64, seed, EXACT_AFTER[name])
            actor = GaussianActor(task.observation_dim, task.action_dim, (64, 64), torch.tanh, squash=False, std=0.6)
            value = ValueNetwork(task.observation_dim, (64, 64))
        return PPO(task, actor, value, PPOSettings(), seed)

    return build


def _ant(seed: int, start: Path | None) -> PPO:
    task = AntTask(64, seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        # The gradient is taken under the noise of the data: a standard deviation of 0.2.
        actor = GaussianActor(30, 8, (256, 256), torch.relu, squash=True, std=0.2)
        scale = torch.cat([torch.ones(13), torch.full((14,), 0.2), torch.ones(3)])  # velocities are large
        value = ValueNetwork(30, (256, 256), normalize=True, scale=scale)
    load_policy(actor, read_arrays(start or Path(str(files("edp_lightning.collect").joinpath("ant_goal_policy.npz")))))
    settings = PPOSettings(
        rollout_steps=32, epochs=4, batch_size=2048, entropy_coef=5e-4, actor_lr=1e-4, actor_lr_range=(2e-5, 1.5e-4),
        value_lr=5e-4, value_iterations=25, std_range=(0.12, 0.35), normalize_observations=False, scale_rewards=False,
    )  # fmt: skip
    return PPO(task, actor, value, settings, seed)


RECIPES: dict[str, Recipe] = {
    "ant": Recipe(_ant, snapshot_period=0),
    **{name: Recipe(_locomotion(name), snapshot_period=1) for name in ROBOTS},
}
"""Name on the command line -> recipe."""


def recipe_of(name: str) -> Recipe:
    """Return the recipe of a robot.

    Raises:
        UserError: If there is none.
    """
    if name not in RECIPES:
        raise UserError(f"nothing called {name!r} can be trained; choose one of {', '.join(RECIPES)}")
    return RECIPES[name]
