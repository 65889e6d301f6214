"""Frames of a policy at work, and plans of its ways through a maze for machines that cannot render."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from edp_lightning.environments.mazes import WALL
from edp_lightning.environments.recipe import EvaluationEnvironment
from edp_lightning.environments.workers import LocalEnvironments
from edp_lightning.errors import UserError
from edp_lightning.evaluation.rollout import Act, Player, rollout
from edp_lightning.figures.drawing import new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Frame = NDArray[np.uint8]


class _Filmed(gym.Wrapper[Any, Any, Any, Any]):
    """Keeps every so many frames of one episode."""

    def __init__(self, env: gym.Env[Any, Any], every: int, frames: list[Frame]) -> None:
        super().__init__(env)
        self._every = every
        self._frames = frames
        self._steps = 0

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """Step, and render when a frame is due."""
        outcome = self.env.step(action)
        self._steps += 1
        if self._steps % self._every == 0 or outcome[2] or outcome[3]:
            self._frames.append(_render(self.env))
        return outcome


def film(environment: EvaluationEnvironment, policy: Act | Player, seed: int = 10_000, every: int = 10) -> list[Frame]:
    """Play one evaluation episode and return frames of it, each (height, width, 3).

    Args:
        environment: Recipe of the environment, ``datamodule.environment``.
        policy: The policy, an ``OfflineAlgorithm`` or a function.
        seed: Seed of the episode; that of the evaluation's first one by default.
        every: Steps between frames; the last step is always there.

    Raises:
        UserError: If the environment cannot render on this machine.
    """
    frames: list[Frame] = []
    try:
        env = environment.make(render_mode="rgb_array")
    except TypeError as error:
        raise UserError(f"this environment draws no pictures ({error})") from error
    try:
        env.reset(seed=seed)
        frames.append(_render(env))
        rollout(LocalEnvironments([_Filmed(env, every, frames)]), policy, [seed])
    finally:
        env.close()
    return frames


def _render(env: gym.Env[Any, Any]) -> Frame:
    try:
        frame: Any = env.render()
    except Exception as error:  # OpenGL libraries raise many types
        raise UserError(
            f"nothing can be rendered here ({error}): without a display, set MUJOCO_GL=egl or MUJOCO_GL=osmesa before mujoco "
            "is imported (Debian's packages: libegl1, libosmesa6)"
        ) from error
    if not isinstance(frame, np.ndarray):
        raise UserError(f"{env.unwrapped} draws no pictures")
    return frame


class _Traced(gym.Wrapper[Any, Any, Any, Any]):
    """Keeps where the robot of a maze was, from the start of the last episode to its end."""

    def __init__(self, env: gym.Env[Any, Any]) -> None:
        super().__init__(env)
        self.positions: list[NDArray[np.float64]] = []

    def reset(self, **kwargs: Any) -> tuple[Any, dict[str, Any]]:
        """Reset, and begin anew."""
        outcome = self.env.reset(**kwargs)
        self.positions = [self.env.get_wrapper_attr("position")]
        return outcome

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """Step, and keep the position."""
        outcome = self.env.step(action)
        self.positions.append(self.env.get_wrapper_attr("position"))
        return outcome


@dataclass(frozen=True)
class Way:
    """One episode in a maze.

    Attributes:
        position: x and y in metres after each decision, the start first, shape (decisions + 1, 2).
        success: Whether the goal was reached.
    """

    position: NDArray[np.float64]
    success: bool


def trace(environment: EvaluationEnvironment, policy: Act | Player, seeds: Sequence[int]) -> list[Way]:
    """Play one evaluation episode per seed in a maze and return the ways, in the order of the seeds.

    Args:
        environment: Recipe of a maze, ``datamodule.environment``.
        policy: The policy, an ``OfflineAlgorithm`` or a function.
        seeds: Seeds of the episodes.
    """
    envs = [_Traced(environment.make()) for _ in seeds]
    try:
        results = rollout(LocalEnvironments(list(envs)), policy, seeds)
    finally:
        for env in envs:
            env.close()
    return [Way(np.stack(env.positions), bool(result.success)) for env, result in zip(envs, results, strict=True)]


def draw_maze(ax: Any, maze_map: Sequence[Sequence[Any]], cell_size: float) -> None:
    """Draw a plan of a maze in metres; its centre is the origin.

    Args:
        ax: Matplotlib axes.
        maze_map: Rows of cells as gymnasium-robotics has them; 1 is a wall, ``g`` the goal.
        cell_size: Metres per cell.
    """
    rows, columns = len(maze_map), len(maze_map[0])
    right, top = columns * cell_size / 2, rows * cell_size / 2
    walls = np.array([[cell == WALL for cell in row] for row in maze_map], dtype=float)
    ax.imshow(walls, cmap="Greys", vmin=0, vmax=2, extent=(-right, right, -top, top))
    for i, row in enumerate(maze_map):
        for j, cell in enumerate(row):
            if cell == "g":
                ax.plot((j + 0.5) * cell_size - right, top - (i + 0.5) * cell_size, "*", color="C3", markersize=14)
    ax.set(xlabel="x in m", ylabel="y in m")


def draw_ways(maze_map: Sequence[Sequence[Any]], cell_size: float, ways: Sequence[NDArray[Any]]) -> "Figure":
    """Return a plan of a maze with ways through it, in metres; the maze's centre is the origin.

    Args:
        maze_map: Rows of cells as gymnasium-robotics has them; 1 is a wall, ``g`` the goal.
        cell_size: Metres per cell.
        ways: Positions, each (steps, 2).
    """
    figure, (ax,) = new_figure(1, 4.5, 4.5)
    draw_maze(ax, maze_map, cell_size)
    for way in ways:
        ax.plot(*np.asarray(way).T, linewidth=1)
        ax.plot(*way[0], "o", color="black", markersize=4)
    return figure
