"""Sets of Hopper, HalfCheetah and Walker2d (Gymnasium v5), by bundled policies of different skill."""

import copy
from dataclasses import dataclass
from typing import Literal

import gymnasium as gym
from gymnasium.envs.registration import EnvSpec

Skill = Literal["medium", "expert", "replay"]


@dataclass(frozen=True)
class LocomotionTask:
    """How a locomotion set is collected.

    Attributes:
        dataset_id: Minari id that is written.
        robot: ``hopper``, ``halfcheetah`` or ``walker2d``.
        env_id: Gymnasium id.
        skills: Whose data it holds, in equal shares of the steps: ``medium``, ``expert``, or ``replay`` (the snapshots from the
            random policy up to medium, each standing for an equal stretch of training).
        steps: Default number of steps; that of D4RL's set.
        description: Ends up in the set's metadata.
        noise: Default standard deviation of Gaussian noise beside the policies' own.
    """

    dataset_id: str
    robot: str
    env_id: str
    skills: tuple[Skill, ...]
    steps: int
    description: str
    noise: float = 0.0

    @property
    def behavior(self) -> str:
        """Return what acts, in words."""
        return f"PPO policies ({' and '.join(self.skills)}), actions drawn from their Gaussians"

    def collection_spec(self) -> EnvSpec:
        """Return the environment that data are collected in."""
        return copy.deepcopy(gym.spec(self.env_id))

    def evaluation_spec(self) -> EnvSpec:
        """Return the environment that policies are evaluated in: the same."""
        return self.collection_spec()


MEDIUM = "A policy stopped at a third to a half of the expert's return."
REPLAY = "Twenty snapshots of one training, equally far apart in its steps, from the random policy up to medium."
MEDIUM_EXPERT = "Half by the medium policy, half by the best policy of the training."
ENVIRONMENTS = {"hopper": "Hopper-v5", "halfcheetah": "HalfCheetah-v5", "walker2d": "Walker2d-v5"}
REPLAY_STEPS = {"hopper": 400_000, "halfcheetah": 200_000, "walker2d": 300_000}
"""Sizes of D4RL's medium-replay-v2 sets (402,000, 202,000 and 302,000 rows), rounded."""


def _tasks() -> dict[str, LocomotionTask]:
    tasks = {}
    for robot, env_id in ENVIRONMENTS.items():
        for name, skills, steps, description in (
            ("medium", ("medium",), 1_000_000, MEDIUM),
            ("medium-replay", ("replay",), REPLAY_STEPS[robot], REPLAY),
            ("medium-expert", ("medium", "expert"), 2_000_000, MEDIUM_EXPERT),
        ):
            own: tuple[Skill, ...] = skills  # type: ignore[assignment]
            tasks[f"{robot}-{name}"] = LocomotionTask(f"edp/{robot}/{name}-v0", robot, env_id, own, steps, description)
    return tasks


LOCOMOTION_TASKS: dict[str, LocomotionTask] = _tasks()
"""Name on the command line -> task."""
