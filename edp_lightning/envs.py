"""Which environment evaluates which dataset: observation view, goal and termination arguments, horizon, score reference."""

import copy
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.envs.registration import EnvSpec
from numpy.typing import NDArray

from edp_lightning import scores
from edp_lightning.errors import UserError
from edp_lightning.mazes import Navigator
from edp_lightning.quiet import quiet_gymnasium, register_robotics
from edp_lightning.scores import ScoreReference

Floats = NDArray[np.float32]

# Minari publishes the umaze evaluation map turned by 180 degrees against the data (Farama-Foundation/Minari#304).
UMAZE_AS_COLLECTED = ((1, 1, 1, 1, 1), (1, "g", 0, 0, 1), (1, 1, 1, 0, 1), (1, "r", 0, 0, 1), (1, 1, 1, 1, 1))
TURNED_UMAZE_SETS = ("D4RL/antmaze/umaze-v1", "D4RL/antmaze/umaze-diverse-v1")


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


def choose_view(family: Family, name: str | None, dataset: str) -> ObservationView:
    """Return a family's view by name, or its default.

    Raises:
        UserError: If the family has no view of this name.
    """
    if name is None:
        return family.views[0]
    for view in family.views:
        if view.name == name:
            return view
    raise UserError(f"dataset {dataset} has no view {name!r}: choose one of {', '.join(v.name for v in family.views)}")


@dataclass(frozen=True)
class EvaluationEnvironment:
    """Recipe of the environment in which policies trained on a dataset are judged. Picklable.

    Attributes:
        spec_json: Gymnasium's EnvSpec as JSON.
        view: How observations are flattened.
        max_episode_steps: Horizon.
        score_reference: For normalised scores, if there is one.
        success: Whether reaching the goal is the score.
        fixed_goal: World coordinates of the goal for views that do not show it; None leaves the environment's own goal.
    """

    spec_json: str
    view: ObservationView
    max_episode_steps: int | None
    score_reference: ScoreReference | None
    success: bool
    fixed_goal: tuple[float, float] | None = None

    def make(self) -> gym.Env[Floats, Floats]:
        """Return a fresh environment with flat float32 observations."""
        spec = EnvSpec.from_json(self.spec_json)
        spec.max_episode_steps = self.max_episode_steps
        with quiet_gymnasium():
            register_robotics()
            env = gym.make(spec, disable_env_checker=True)
        if hasattr(env.unwrapped, "maze"):
            env = MazeProgress(env, self.fixed_goal, family_of(spec).torso_quaternion)
        return FlatObservation(env, self.view)

    def describe(self) -> dict[str, Any]:
        """Return plain facts for result files."""
        spec = EnvSpec.from_json(self.spec_json)
        reference = self.score_reference
        return {
            "id": spec.id,
            "arguments": {key: _plain(value) for key, value in spec.kwargs.items()},
            "max_episode_steps": self.max_episode_steps,
            "view": self.view.name,
            "fixed_goal": list(self.fixed_goal) if self.fixed_goal else None,
            "score_reference": None if reference is None else [reference.minimum, reference.maximum, reference.origin],
        }


def _plain(value: Any) -> Any:
    if isinstance(value, (str, int, float, bool)) or value is None:
        return value
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    return str(value)


def evaluation_environment(
    dataset_id: str,
    spec: EnvSpec | None,
    evaluation_spec: EnvSpec | None,
    view: ObservationView,
    stored_reference: ScoreReference | None = None,
) -> EvaluationEnvironment | None:
    """Return the recipe for a dataset, or None if it names no environment.

    Args:
        dataset_id: Minari id of the set.
        spec: Environment the data were collected in.
        evaluation_spec: Evaluation environment named by the set, if any.
        view: Observation view.
        stored_reference: Score reference stored with the set; the family's own is preferred.
    """
    chosen = evaluation_spec or spec
    if chosen is None:
        return None
    family = family_of(chosen)
    chosen = copy.deepcopy(chosen)
    chosen.kwargs.update(family.kwargs)
    if dataset_id in TURNED_UMAZE_SETS:
        chosen.kwargs["maze_map"] = [list(row) for row in UMAZE_AS_COLLECTED]
    shows_goal = not family.cell_size or "desired_goal" in view.keys
    return EvaluationEnvironment(
        spec_json=chosen.to_json(),
        view=view,
        max_episode_steps=family.max_episode_steps or chosen.max_episode_steps,
        score_reference=family.reference or stored_reference,
        success=family.success,
        fixed_goal=None if shows_goal else goal_position(chosen, family.cell_size, dataset_id),
    )


def goal_position(spec: EnvSpec, cell_size: float, dataset_id: str) -> tuple[float, float]:
    """Return the centre of the only goal cell of a maze, in metres; the maze's centre is the origin.

    Raises:
        UserError: If the maze has none or several, so that there is no goal to relabel to.
    """
    cells = spec.kwargs["maze_map"]
    goals = [(i, j) for i, row in enumerate(cells) for j, cell in enumerate(row) if cell == "g"]
    if len(goals) != 1:
        raise UserError(f"dataset {dataset_id}: its evaluation maze has {len(goals)} goal cells; this view needs exactly one")
    (row, column) = goals[0]
    return (column + 0.5 - len(cells[0]) / 2) * cell_size, (len(cells) / 2 - row - 0.5) * cell_size


class FlatObservation(gym.ObservationWrapper[Floats, Floats, Any]):
    """Applies a view to the observations of an environment."""

    def __init__(self, env: gym.Env[Any, Any], view: ObservationView) -> None:
        super().__init__(env)
        self._view = view
        width = view(env.observation_space.sample()).shape[-1]
        self.observation_space = gym.spaces.Box(-np.inf, np.inf, (width,), np.float32)

    def observation(self, observation: Any) -> Floats:
        """Return the flat observation, shape (observation_dim,)."""
        return self._view(observation)


class MazeProgress(gym.Wrapper[Any, Any, Any, Any]):
    """Fixes the goal if asked to, and reports progress that shows before success does.

    ``info["progress"]`` holds ``distance_left``: smallest length in metres of the way to the goal so far in the episode, and
    for robots that can fall ``fallen``: 1 while the torso is upside down.

    Args:
        env: A maze of gymnasium-robotics.
        fixed_goal: World coordinates of the goal, or None for the environment's own.
        torso_quaternion: Where the orientation begins in ``observation["observation"]``; None for robots that cannot fall.
    """

    def __init__(
        self, env: gym.Env[Any, Any], fixed_goal: tuple[float, float] | None, torso_quaternion: int | None = None
    ) -> None:
        super().__init__(env)
        maze: Any = env.unwrapped
        self._maze = maze
        self._fixed_goal = fixed_goal
        self._torso_quaternion = torso_quaternion
        self._navigator = Navigator(self._maze.maze)
        self._left = np.inf

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Reset; the start keeps the environment's own noise."""
        observation, info = self.env.reset(seed=seed, options=options)
        if self._fixed_goal is not None:
            self._maze.goal = np.array(self._fixed_goal)
            self._maze.update_target_site_pos()
            observation = {**observation, "desired_goal": self._maze.goal.copy()}
        self._left = np.inf
        return observation, info

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """Step and measure the way left."""
        observation, reward, terminated, truncated, info = self.env.step(action)
        self._left = min(self._left, self._navigator.way_left(observation["achieved_goal"], self._maze.goal))
        info["progress"] = {"distance_left": self._left}
        if self._torso_quaternion is not None:
            _, x, y, _ = observation["observation"][self._torso_quaternion : self._torso_quaternion + 4]
            info["progress"]["fallen"] = float(x * x + y * y > 0.5)  # the rotated z axis points down
        return observation, reward, terminated, truncated, info

    def close(self) -> None:
        """Close and remove the model file the maze left in the temporary folder."""
        path = self._maze.tmp_xml_file_path
        super().close()
        if os.path.exists(path):
            os.unlink(path)
