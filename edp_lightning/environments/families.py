"""What all datasets of one kind of environment share: observation views, goal and termination arguments, horizon, reference."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from gymnasium.envs.registration import EnvSpec
from numpy.typing import NDArray

from edp_lightning.environments import scores
from edp_lightning.environments.scores import ScoreReference
from edp_lightning.errors import UserError

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class ObservationView:
    """Flattens observations by explicit keys; the same for datasets and environments.

    Attributes:
        name: Name of the view.
        keys: Keys of the parts, in order; ``a/b`` reaches into nested dicts. Empty for plain arrays.
    """

    name: str
    keys: tuple[str, ...] = ()

    def __call__(self, observation: Any) -> Floats:
        """Return the parts side by side along the last axis, float32, shape (..., observation_dim)."""
        if not self.keys:
            return np.asarray(observation, dtype=np.float32)
        return np.concatenate([_pick(observation, key) for key in self.keys], axis=-1, dtype=np.float32)


def _pick(observation: Any, key: str) -> NDArray[Any]:
    for part in key.split("/"):
        observation = observation[part]
    return np.asarray(observation)


@dataclass(frozen=True)
class Family:
    """What all datasets of one kind of environment share.

    Attributes:
        views: Observation views by name; the first is the default.
        kwargs: Arguments of the evaluation environment.
        max_episode_steps: Horizon of an evaluation episode; the environment's own when not given.
        reference: Score reference.
        success: Whether reaching the goal is the score.
        terminals: Default rule for terminations in the data.
        cell_size: Metres per maze cell; 0 outside mazes.
        torso_quaternion: Where the orientation (w, x, y, z) begins in the observation of a robot that can fall, else None.
    """

    views: tuple[ObservationView, ...] = (ObservationView("box"),)
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    max_episode_steps: int | None = None
    reference: ScoreReference | None = None
    success: bool = False
    terminals: str = "env"
    cell_size: float = 0.0
    torso_quaternion: int | None = None


MAZE_KWARGS = {"continuing_task": False, "reset_target": False}
ANTMAZE = Family(
    views=(
        ObservationView("goal", ("achieved_goal", "observation", "desired_goal")),
        ObservationView("d4rl", ("achieved_goal", "observation")),
    ),
    kwargs=MAZE_KWARGS, reference=scores.MAZE_SUCCESS, success=True, terminals="reward", cell_size=4.0,
    torso_quaternion=1,
)  # fmt: skip
POINTMAZE = Family(
    views=(ObservationView("goal", ("observation", "desired_goal")), ObservationView("d4rl", ("observation",))),
    kwargs=MAZE_KWARGS, reference=scores.MAZE_SUCCESS, success=True, terminals="reward", cell_size=1.0,
)  # fmt: skip
FAMILIES: dict[str, Family] = {
    "gymnasium_robotics.envs.maze.ant_maze_v4:AntMazeEnv": ANTMAZE,
    "gymnasium_robotics.envs.maze.ant_maze_v5:AntMazeEnv": ANTMAZE,
    "gymnasium_robotics.envs.maze.point_maze:PointMazeEnv": POINTMAZE,
    "gymnasium_robotics.envs.franka_kitchen:KitchenEnv": Family(
        views=(ObservationView("observation", ("observation",)),),
        # as D4RL: each task counts once, and the episode ends with the last one
        kwargs={"remove_task_when_completed": True, "terminate_on_tasks_completed": True},
        max_episode_steps=280, reference=scores.KITCHEN,
    ),
    # Minari's metadata say 200 steps, the reference scores are for 100 (Farama-Foundation/Minari#303)
    "gymnasium_robotics.envs.adroit_hand.adroit_pen:AdroitHandPenEnv": Family(max_episode_steps=100, reference=scores.PEN),
    "gymnasium_robotics.envs.adroit_hand.adroit_door:AdroitHandDoorEnv": Family(reference=scores.DOOR),
    "gymnasium_robotics.envs.adroit_hand.adroit_hammer:AdroitHandHammerEnv": Family(reference=scores.HAMMER),
    "gymnasium_robotics.envs.adroit_hand.adroit_relocate:AdroitHandRelocateEnv": Family(reference=scores.RELOCATE),
    "gymnasium.envs.mujoco.hopper_v5:HopperEnv": Family(reference=scores.HOPPER),
    "gymnasium.envs.mujoco.hopper_v4:HopperEnv": Family(reference=scores.HOPPER),
    "gymnasium.envs.mujoco.half_cheetah_v5:HalfCheetahEnv": Family(reference=scores.HALFCHEETAH),
    "gymnasium.envs.mujoco.half_cheetah_v4:HalfCheetahEnv": Family(reference=scores.HALFCHEETAH),
    "gymnasium.envs.mujoco.walker2d_v5:Walker2dEnv": Family(reference=scores.WALKER2D),
    "gymnasium.envs.mujoco.walker2d_v4:Walker2dEnv": Family(reference=scores.WALKER2D),
    "gymnasium.envs.mujoco.ant_v5:AntEnv": Family(reference=scores.ANT),
    "gymnasium.envs.mujoco.ant_v4:AntEnv": Family(reference=scores.ANT),
}  # fmt: skip
"""Entry point of an environment -> its family."""

GOAL_RADIUS = 0.45
"""Metres within which the mazes of gymnasium-robotics count a goal as reached."""


def family_of(spec: EnvSpec | None) -> Family:
    """Return the family of an environment; one without any special rule if it is not in the table."""
    return FAMILIES.get(str(spec.entry_point), Family()) if spec is not None else Family()


def choose_view(views: Sequence[ObservationView], name: str | None, dataset: str) -> ObservationView:
    """Return a view by name, or the first.

    Raises:
        UserError: If there is none of this name.
    """
    if name is None:
        return views[0]
    for view in views:
        if view.name == name:
            return view
    raise UserError(f"dataset {dataset} has no view {name!r}: choose one of {', '.join(v.name for v in views)}")
