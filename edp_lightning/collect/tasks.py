"""Which sets can be collected: one entry per name of ``collect NAME``."""

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import gymnasium as gym
from gymnasium.envs.registration import EnvSpec

from edp_lightning.environments.quiet import register_robotics
from edp_lightning.errors import UsageError, did_you_mean


@dataclass(frozen=True)
class CollectTask:
    """How one set is collected and evaluated.

    Attributes:
        dataset_id: Minari id that is written.
        env_id: Gymnasium id of the robot in its maze.
        kind: What acts: ``point``, ``ant`` or ``toy``.
        horizon: Steps per episode.
        evaluation_horizon: Steps per episode of the evaluation environment.
        start: Cell of the evaluation's start.
        goal: Cell of the evaluation's goal.
        single: Every collected episode goes from the evaluation's start to its goal and ends there.
        noise: Default standard deviation of the Gaussian noise on actions.
        waypoint_noise: Half-width, in cells, of the square around a cell's centre that its way-point is drawn from: ways also
            come near the walls, where a learned policy ends up sooner or later.
        waypoint_radius: Distance, in cells, within which a way-point counts as reached. An ant that cuts an inner corner
            catches its legs on it; the noise of these data frees it, a policy with less noise would stay there for ever.
        steps: Default number of steps.
        description: Ends up in the set's metadata.
    """

    dataset_id: str
    env_id: str
    kind: Literal["point", "ant", "toy"]
    horizon: int
    evaluation_horizon: int
    start: tuple[int, int] = (0, 0)
    goal: tuple[int, int] = (0, 0)
    single: bool = False
    noise: float = 0.2
    waypoint_noise: float = 0.0
    waypoint_radius: float = 1.0
    steps: int = 300_000
    description: str = ""
    evaluation_kwargs: Mapping[str, Any] = field(default_factory=dict)

    def collection_spec(self) -> EnvSpec:
        """Return the environment that data are collected in: continuing, every free cell a start and a goal."""
        spec = copy.deepcopy(_registered(self.env_id))
        spec.max_episode_steps = self.horizon
        if self.kind != "toy":
            cells = [list(row) for row in _free_map(spec)]
            if self.single:
                _mark(cells, self.start, self.goal)
            spec.kwargs.update(maze_map=cells, continuing_task=True, reset_target=False, reward_type="sparse")
        return spec

    def evaluation_spec(self) -> EnvSpec:
        """Return the environment that policies are evaluated in: one start cell, one goal cell, ends at the goal."""
        spec = copy.deepcopy(_registered(self.env_id))
        spec.max_episode_steps = self.evaluation_horizon
        if self.kind != "toy":
            cells = [list(row) for row in _free_map(spec)]
            _mark(cells, self.start, self.goal)
            spec.kwargs.update(maze_map=cells, continuing_task=False, reset_target=False, reward_type="sparse")
        return spec


def _registered(env_id: str) -> EnvSpec:
    if env_id == TOY_SPEC.id:
        return TOY_SPEC
    register_robotics()
    return gym.spec(env_id)


def _free_map(spec: EnvSpec) -> list[list[int]]:
    return [[1 if cell == 1 else 0 for cell in row] for row in spec.kwargs["maze_map"]]


def _mark(cells: list[list[Any]], start: tuple[int, int], goal: tuple[int, int]) -> None:
    cells[start[0]][start[1]] = "r"
    cells[goal[0]][goal[1]] = "g"


TOY_SPEC = EnvSpec(id="edp_lightning/TwoStep-v0", entry_point="edp_lightning.collect.toy:TwoStepEnv", disable_env_checker=True)

DIVERSE = "Random starts and random commanded goals; a goal that is reached is replaced by a new one in the same episode. "
WALKER = "Ant walked by a goal-reaching controller along noisy breadth-first way-points; falls stay in the data."
MASS = "Point mass steered by a noisy PD controller along breadth-first way-points."

TASKS: dict[str, CollectTask] = {
    "pointmaze-umaze": CollectTask(
        "edp/pointmaze/umaze-v0", "PointMaze_UMaze-v3", "point", 300, 300, (3, 1), (1, 1),
        noise=0.5, steps=100_000, description=DIVERSE + MASS,
    ),
    "pointmaze-medium": CollectTask(
        "edp/pointmaze/medium-v0", "PointMaze_Medium-v3", "point", 600, 600, (1, 1), (6, 6),
        noise=0.5, steps=200_000, description=DIVERSE + MASS,
    ),
    "antmaze-umaze": CollectTask(
        "edp/antmaze/umaze-v0", "AntMaze_UMaze-v4", "ant", 700, 700, (3, 1), (1, 1),
        single=True, waypoint_noise=0.25, waypoint_radius=0.3,
        description="One start, one goal; an episode ends at the goal. " + WALKER,
    ),
    "antmaze-umaze-diverse": CollectTask(
        "edp/antmaze/umaze-diverse-v0", "AntMaze_UMaze-v4", "ant", 700, 700, (3, 1), (1, 1),
        waypoint_noise=0.25, waypoint_radius=0.3, description=DIVERSE + WALKER,
    ),
    "antmaze-medium-diverse": CollectTask(
        "edp/antmaze/medium-diverse-v0", "AntMaze_Medium-v4", "ant", 1000, 1000, (1, 1), (6, 6),
        waypoint_noise=0.25, waypoint_radius=0.3, description=DIVERSE + WALKER,
    ),
    "antmaze-large-diverse": CollectTask(
        "edp/antmaze/large-diverse-v0", "AntMaze_Large-v4", "ant", 1000, 1000, (1, 1), (7, 9),
        waypoint_noise=0.25, waypoint_radius=0.3, description=DIVERSE + WALKER,
    ),
    "toy": CollectTask(
        "edp/toy/two-step-v0", TOY_SPEC.id, "toy", 2, 2, noise=0.0, steps=1000,
        description="Two-step task of arXiv 2402.04080, figure 3: most samples lie where the reward is low.",
    ),
}  # fmt: skip
"""Name on the command line -> task."""

DATASET_IDS: dict[str, str] = {name: task.dataset_id for name, task in TASKS.items()}
"""Name on the command line -> Minari id it writes."""


def task_of(name: str) -> CollectTask:
    """Return the task called ``name``.

    Raises:
        UsageError: If there is none.
    """
    if name not in TASKS:
        nearest = did_you_mean(name, TASKS)
        raise UsageError(f"nothing called {name!r} can be collected{nearest}\nchoose one of {', '.join(TASKS)}")
    return TASKS[name]
