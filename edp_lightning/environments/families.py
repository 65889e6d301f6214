"""What all datasets of one kind of environment share: observation views, goal and termination arguments, horizon, reference."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import gymnasium as gym
from gymnasium.envs.registration import EnvSpec

from edp_lightning.environments import scores
from edp_lightning.environments.flattening import is_structured, keys_of, parts_of
from edp_lightning.environments.scores import ScoreReference
from edp_lightning.environments.versions import BrokenVersions
from edp_lightning.errors import UserError


@dataclass(frozen=True)
class ObservationView:
    """Which parts of an observation the policy sees; ``flattening`` puts them side by side.

    Attributes:
        name: Name of the view.
        keys: Keys of the parts, in order; ``a/b`` reaches into nested spaces. Empty: everything, in the space's order.
    """

    name: str
    keys: tuple[str, ...] = ()


PLANE = 2
"""Numbers of an achieved or desired goal: places in the plane."""


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
        termination_is_fall: The environment ends an episode where its robot falls, and only there.
        draws_globally: The environment draws from global random streams; see ``OwnRandomness``.
        broken_with: Versions of packages that do not run these environments.
    """

    views: tuple[ObservationView, ...] = (ObservationView("box"),)
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    max_episode_steps: int | None = None
    reference: ScoreReference | None = None
    success: bool = False
    terminals: str = "env"
    cell_size: float = 0.0
    torso_quaternion: int | None = None
    termination_is_fall: bool = False
    draws_globally: bool = False
    broken_with: BrokenVersions | None = None

    def torso_columns(self, view: ObservationView) -> slice | None:
        """Return where a view of this family shows the orientation, or None if it does not."""
        if self.torso_quaternion is None or "observation" not in view.keys:
            return None
        start = PLANE * view.keys.index("observation") + self.torso_quaternion
        return slice(start, start + 4)


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
# from MuJoCo 3.12 on, joint types no longer equal numpy's integers, which gymnasium-robotics checks these models with
CHECKED_JOINTS = BrokenVersions({"gymnasium-robotics": "<=1.4.2", "mujoco": ">=3.12"}, "pip install 'mujoco<3.12'")
FETCH_AND_HAND = (
    "fetch.reach:MujocoFetchReach", "fetch.push:MujocoFetchPush", "fetch.slide:MujocoFetchSlide",
    "fetch.pick_and_place:MujocoFetchPickAndPlace", "shadow_dexterous_hand.reach:MujocoHandReach",
    "shadow_dexterous_hand.manipulate_block:MujocoHandBlock", "shadow_dexterous_hand.manipulate_egg:MujocoHandEgg",
    "shadow_dexterous_hand.manipulate_pen:MujocoHandPen",
    "shadow_dexterous_hand.manipulate_block_touch_sensors:MujocoHandBlockTouchSensors",
    "shadow_dexterous_hand.manipulate_egg_touch_sensors:MujocoHandEggTouchSensors",
    "shadow_dexterous_hand.manipulate_pen_touch_sensors:MujocoHandPenTouchSensors",
)  # fmt: skip
"""Where their classes are, without the last syllable."""

OGBENCH = Family(success=True, draws_globally=True)
FAMILIES: dict[str, Family] = {
    "gymnasium_robotics.envs.maze.ant_maze_v4:AntMazeEnv": ANTMAZE,
    "gymnasium_robotics.envs.maze.ant_maze_v5:AntMazeEnv": ANTMAZE,
    "gymnasium_robotics.envs.maze.point_maze:PointMazeEnv": POINTMAZE,
    "gymnasium_robotics.envs.franka_kitchen:KitchenEnv": Family(
        views=(ObservationView("observation", ("observation",)),),
        # as D4RL: each task counts once, and the episode ends with the last one
        kwargs={"remove_task_when_completed": True, "terminate_on_tasks_completed": True},
        max_episode_steps=280, reference=scores.KITCHEN, broken_with=CHECKED_JOINTS,
    ),
    **{f"gymnasium_robotics.envs.{place}Env": Family(broken_with=CHECKED_JOINTS) for place in FETCH_AND_HAND},
    # Minari's metadata say 200 steps, the reference scores are for 100 (Farama-Foundation/Minari#303)
    "gymnasium_robotics.envs.adroit_hand.adroit_pen:AdroitHandPenEnv": Family(max_episode_steps=100, reference=scores.PEN),
    "gymnasium_robotics.envs.adroit_hand.adroit_door:AdroitHandDoorEnv": Family(reference=scores.DOOR),
    "gymnasium_robotics.envs.adroit_hand.adroit_hammer:AdroitHandHammerEnv": Family(reference=scores.HAMMER),
    "gymnasium_robotics.envs.adroit_hand.adroit_relocate:AdroitHandRelocateEnv": Family(reference=scores.RELOCATE),
    "gymnasium.envs.mujoco.hopper_v5:HopperEnv": Family(reference=scores.HOPPER, termination_is_fall=True),
    "gymnasium.envs.mujoco.hopper_v4:HopperEnv": Family(reference=scores.HOPPER, termination_is_fall=True),
    "gymnasium.envs.mujoco.half_cheetah_v5:HalfCheetahEnv": Family(reference=scores.HALFCHEETAH),
    "gymnasium.envs.mujoco.half_cheetah_v4:HalfCheetahEnv": Family(reference=scores.HALFCHEETAH),
    "gymnasium.envs.mujoco.walker2d_v5:Walker2dEnv": Family(reference=scores.WALKER2D, termination_is_fall=True),
    "gymnasium.envs.mujoco.walker2d_v4:Walker2dEnv": Family(reference=scores.WALKER2D, termination_is_fall=True),
    "gymnasium.envs.mujoco.ant_v5:AntEnv": Family(reference=scores.ANT),
    "gymnasium.envs.mujoco.ant_v4:AntEnv": Family(reference=scores.ANT),
    "ogbench.locomaze.maze:make_maze_env": OGBENCH,
    "ogbench.manipspace.envs.cube_env:CubeEnv": OGBENCH,
    "ogbench.manipspace.envs.scene_env:SceneEnv": OGBENCH,
    "ogbench.manipspace.envs.puzzle_env:PuzzleEnv": OGBENCH,
}  # fmt: skip
"""Entry point of an environment -> its family."""

GOAL_RADIUS = 0.45
"""Metres within which the mazes of gymnasium-robotics count a goal as reached."""


def family_of(spec: EnvSpec | None) -> Family:
    """Return the family of an environment; one without any special rule if it is not in the table."""
    return FAMILIES.get(str(spec.entry_point), Family()) if spec is not None else Family()


def choose_view(
    views: Sequence[ObservationView], name: str | None, dataset: str, space: gym.Space[Any] | None = None
) -> ObservationView:
    """Return a view by name, or the first.

    Args:
        views: Views of the family, the default first.
        name: Name of one of them, or keys of the space with commas between.
        dataset: Names the set in messages.
        space: Space of the observations; where the default is everything, its keys are spelt out in the space's order, so that
            data and environment are read alike.

    Raises:
        UserError: If there is none of this name, or something in the default view cannot be flattened.
    """
    keys = () if space is None or not is_structured(space) else keys_of(space)
    if name is None:
        if views[0].keys or not keys:
            return views[0]
        assert space is not None
        parts_of(space)  # refuses what cannot be flattened
        return ObservationView("all", keys)
    for view in views:
        if view.name == name:
            return view
    chosen = tuple(key.strip() for key in name.split(","))
    if space is not None and keys and all(any(k == key or k.startswith(f"{key}/") for k in keys) for key in chosen):
        return ObservationView(name, chosen)
    names = [view.name for view in views if view.keys or not keys]
    options = ", ".join(names) if names else ""
    if keys:
        options += f"{' or ' if options else ''}keys with commas between, of {', '.join(keys)}"
    raise UserError(f"dataset {dataset} has no view {name!r}: choose one of {options}")


def pays_by_distance(spec: EnvSpec | None) -> bool:
    """Return whether a maze pays ``exp(-distance to the goal)`` at every step (``reward_type: dense``), not 1 at the goal."""
    return spec is not None and spec.kwargs.get("reward_type") == "dense" and family_of(spec).cell_size > 0
