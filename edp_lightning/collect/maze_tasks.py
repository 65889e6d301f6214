"""Sets of point mass and ant in mazes."""

import copy
from dataclasses import dataclass
from typing import Any, Literal

import gymnasium as gym
from gymnasium.envs.registration import EnvSpec

from edp_lightning.environments.mazes import Cell
from edp_lightning.environments.quiet import register_robotics


@dataclass(frozen=True)
class MazeTask:
    """How a set in a maze is collected and evaluated.

    Attributes:
        dataset_id: Minari id that is written.
        env_id: Gymnasium id of the robot in its maze.
        kind: What acts: ``point`` or ``ant``.
        horizon: Steps per episode, in collection and evaluation.
        start: Cell of the evaluation's start.
        goal: Cell of the evaluation's goal.
        starts: Cells in which collected episodes start; every free cell when empty.
        goals: Cells of the commanded goals; every free cell when empty.
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
    kind: Literal["point", "ant"]
    horizon: int
    start: Cell
    goal: Cell
    starts: tuple[Cell, ...] = ()
    goals: tuple[Cell, ...] = ()
    single: bool = False
    noise: float = 0.2
    waypoint_noise: float = 0.0
    waypoint_radius: float = 1.0
    steps: int = 300_000
    description: str = ""

    @property
    def behavior(self) -> str:
        """Return what acts, in words."""
        return f"{self.kind} controller"

    def collection_spec(self) -> EnvSpec:
        """Return the environment that data are collected in: it goes on at goals, and starts where the task says."""
        starts, goals = ((self.start,), (self.goal,)) if self.single else (self.starts, self.goals)
        return self._spec(starts, goals, continuing=True)

    def evaluation_spec(self) -> EnvSpec:
        """Return the environment that policies are evaluated in: one start cell, one goal cell, ends at the goal."""
        return self._spec((self.start,), (self.goal,), continuing=False)

    def _spec(self, starts: tuple[Cell, ...], goals: tuple[Cell, ...], continuing: bool) -> EnvSpec:
        register_robotics()
        spec = copy.deepcopy(gym.spec(self.env_id))
        spec.max_episode_steps = self.horizon
        cells: list[list[Any]] = [[1 if cell == 1 else 0 for cell in row] for row in spec.kwargs["maze_map"]]
        for row, column in {*starts, *goals}:
            mark = "c" if (row, column) in starts and (row, column) in goals else "r" if (row, column) in starts else "g"
            cells[row][column] = mark
        spec.kwargs.update(maze_map=cells, continuing_task=continuing, reset_target=False, reward_type="sparse")
        return spec


DIVERSE = "Random starts and random commanded goals; a goal that is reached is replaced by a new one in the same episode. "
PLAY = "A few hand-picked starts and commanded goals; a goal that is reached is replaced by another in the same episode. "
WALKER = "Ant walked by a goal-reaching controller along noisy breadth-first way-points; falls stay in the data."
MASS = "Point mass steered by a noisy PD controller along breadth-first way-points."


def _ant(name: str, maze: str, horizon: int, goal: Cell, description: str, start: Cell = (1, 1), **options: Any) -> MazeTask:
    return MazeTask(
        f"edp/antmaze/{name}-v1", f"AntMaze_{maze}-v4", "ant", horizon, start, goal,
        waypoint_noise=0.25, waypoint_radius=0.3, description=description + WALKER, **options,
    )  # fmt: skip


MAZE_TASKS: dict[str, MazeTask] = {
    "pointmaze-umaze": MazeTask(
        "edp/pointmaze/umaze-v0", "PointMaze_UMaze-v3", "point", 300, (3, 1), (1, 1),
        noise=0.5, steps=100_000, description=DIVERSE + MASS,
    ),
    "pointmaze-medium": MazeTask(
        "edp/pointmaze/medium-v0", "PointMaze_Medium-v3", "point", 600, (1, 1), (6, 6),
        noise=0.5, steps=200_000, description=DIVERSE + MASS,
    ),
    "antmaze-umaze": _ant(
        "umaze", "UMaze", 700, (1, 1), "One start, one goal; an episode ends at the goal. ", start=(3, 1), single=True,
    ),
    "antmaze-umaze-diverse": _ant("umaze-diverse", "UMaze", 700, (1, 1), DIVERSE, start=(3, 1)),
    "antmaze-medium-play": _ant(
        "medium-play", "Medium", 1000, (6, 6), PLAY,
        starts=((1, 1), (1, 6), (4, 2), (6, 1)), goals=((1, 1), (1, 6), (3, 3), (6, 3), (6, 6)),
    ),
    "antmaze-medium-diverse": _ant("medium-diverse", "Medium", 1000, (6, 6), DIVERSE),
    "antmaze-large-play": _ant(
        "large-play", "Large", 1000, (7, 9), PLAY,
        starts=((1, 1), (1, 10), (5, 4), (7, 1)), goals=((1, 1), (1, 8), (3, 6), (5, 1), (7, 6), (7, 9)),
    ),
    "antmaze-large-diverse": _ant("large-diverse", "Large", 1000, (7, 9), DIVERSE),
}  # fmt: skip
"""Name on the command line -> task."""
