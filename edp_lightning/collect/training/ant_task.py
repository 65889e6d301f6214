"""The ant as a task of PPO: way-points inside mazes, under the noise of the data."""

from typing import Any

import gymnasium as gym
import numpy as np

from edp_lightning.collect.physics.batched import Array, BatchedPhysics
from edp_lightning.collect.training.task import Step
from edp_lightning.environments.mazes import remove_model_file
from edp_lightning.environments.quiet import quiet_gymnasium, register_robotics

HORIZON = 500
REACHED = 0.5
"""Metres within which a way-point counts as reached."""
PATIENCE = 150
"""Steps after which a way-point is replaced all the same."""
FURTHER_NOISE = (0.0, 0.1, 0.2, 0.3)
"""Standard deviations of action noise beside the policy's own: rougher than the data's, where falls are rare."""
OPEN_FIELD = [[1] * 9, *[[1, *[0] * 7, 1] for _ in range(7)], [1] * 9]


def maze_maps() -> list[list[list[int]]]:
    """Return the mazes of training: an open field and the three of AntMaze, 1 for walls."""
    register_robotics()
    names = [f"AntMaze_{size}-v4" for size in ("UMaze", "Medium", "Large")]
    maps = [[[1 if cell == 1 else 0 for cell in row] for row in gym.spec(name).kwargs["maze_map"]] for name in names]
    return [OPEN_FIELD, *maps]


class AntInMaze:
    """``size`` ants in one maze, each on its way to a point in its own or a neighbouring cell.

    The observation is the controller's: 13 positions and 14 velocities without x, y; the direction to the point;
    min(distance, 4)/4. A reward per step is 0.05 x (progress in m/s, between -3 and 1.3, + 0.5 upright + 0.5 - 0.05 ``|a|^2``
    + 2 at the point - 300 for the tenth step on the back, which ends the episode). upright is the vertical part of the torso's
    axis, in [-1, 1].

    Args:
        maze_map: 1 for walls, 0 for free cells.
        size: How many ants.
        rng: Source of randomness.
    """

    def __init__(self, maze_map: list[list[int]], size: int, rng: np.random.Generator) -> None:
        register_robotics()
        with quiet_gymnasium():
            env: Any = gym.make(
                "AntMaze_UMaze-v4", maze_map=maze_map, continuing_task=True, reset_target=False, disable_env_checker=True
            ).unwrapped
        self._map, self._open, self._maze = maze_map, maze_map is OPEN_FIELD, env.maze
        self._physics = BatchedPhysics(env.ant_env.model, env.ant_env.frame_skip)
        self._rest = env.ant_env.init_qpos.copy()
        self._free = [(i, j) for i, row in enumerate(maze_map) for j, cell in enumerate(row) if cell == 0]
        self._rng = rng
        env.close()
        remove_model_file(env)
        self.changing = {
            "states": np.zeros((size, self._physics.state_dim)),
            "points": np.zeros((size, 2)),
            "ages": np.zeros(size, dtype=np.int64),
            "waits": np.zeros(size, dtype=np.int64),
            "on_back": np.zeros(size, dtype=np.int64),
            "noise": np.zeros(size),
        }
        """Everything that changes, by name."""
        for ant in range(size):
            self._reset(ant)
            self.changing["ages"][ant] = rng.integers(HORIZON)

    def observations(self) -> Array:
        """Return the controller's inputs, (size, 30)."""
        states = self.changing["states"]
        positions, velocities = self._physics.positions(states), self._physics.velocities(states)
        offset = self.changing["points"] - positions[:, :2]
        distance = np.linalg.norm(offset, axis=1, keepdims=True) + 1e-6
        return np.concatenate([positions[:, 2:], velocities, offset / distance, np.minimum(distance, 4.0) / 4.0], axis=1)

    def step(self, actions: Array) -> Step:
        """Step all ants, with the further noise of their episodes."""
        c = self.changing
        executed = np.clip(actions + c["noise"][:, None] * self._rng.standard_normal(actions.shape), -1.0, 1.0)
        before = np.linalg.norm(c["points"] - self._physics.positions(c["states"])[:, :2], axis=1)
        c["states"] = self._physics.step(c["states"], executed)
        positions = self._physics.positions(c["states"])
        after = np.linalg.norm(c["points"] - positions[:, :2], axis=1)
        upright = 1 - 2 * (positions[:, 4] ** 2 + positions[:, 5] ** 2)
        c["on_back"] = np.where(upright < 0, c["on_back"] + 1, 0)
        c["ages"] += 1
        c["waits"] += 1
        fallen = (c["on_back"] >= 10) | ~np.isfinite(c["states"]).all(1)
        reached, late = after < REACHED, c["ages"] >= HORIZON
        progress = np.clip((before - after) / self._physics.seconds, -3.0, 1.3)
        rewards = progress + 0.5 * upright + 0.5 - 0.05 * np.square(actions).sum(1) + 2.0 * reached - 300.0 * fallen
        for ant in np.flatnonzero(reached | (c["waits"] >= PATIENCE)):
            self._new_point(int(ant))
        final = self.observations()  # with the next way-point, as the episode goes on; before any reset
        for ant in np.flatnonzero(fallen | late):
            self._reset(int(ant))
        events = {"falls per 1000": 1000.0 * fallen.sum(), "points per 1000": 1000.0 * reached.sum()}
        return Step(final, 0.05 * rewards, fallen, late & ~fallen, events)

    def _new_point(self, ant: int) -> None:
        here = self._physics.positions(self.changing["states"][ant : ant + 1])[0, :2]
        self.changing["waits"][ant] = 0
        if self._open:
            angle, distance = self._rng.uniform(-np.pi, np.pi), self._rng.uniform(0.8, 7.0)
            self.changing["points"][ant] = np.clip(here + distance * np.array([np.cos(angle), np.sin(angle)]), -12, 12)
            return
        row, column = (int(v) for v in self._maze.cell_xy_to_rowcol(here))
        near = [(row + 1, column), (row - 1, column), (row, column + 1), (row, column - 1), (row, column)]
        cells = [cell for cell in near if cell in self._free] or self._free[:1]
        centre = self._centre(cells[self._rng.integers(len(cells))])
        self.changing["points"][ant] = centre + self._rng.uniform(-1.4, 1.4, 2)

    def _centre(self, cell: tuple[int, int]) -> Array:
        return np.asarray(self._maze.cell_rowcol_to_xy(np.array(cell)), dtype=np.float64)

    def _reset(self, ant: int) -> None:
        """Put an ant somewhere: a fifth as in the environment, half turned, the rest turned, tilted and moving."""
        rng, c = self._rng, self.changing
        position, velocity = self._rest.copy(), rng.normal(0.0, 0.1, 14)
        position[:2] = self._centre(self._free[rng.integers(len(self._free))]) + rng.uniform(-1.0, 1.0, 2)
        position[7:] += rng.uniform(-0.1, 0.1, 8)
        kind = rng.random()
        if kind < 0.8:
            position[3:7] = _turned(rng.uniform(-np.pi, np.pi), rng.normal(0.0, 0.1 if kind < 0.5 else 0.5, 2))
        if 0.5 <= kind < 0.8:
            velocity = rng.normal(0.0, 0.6, 14)
            position[2] += rng.uniform(0.0, 0.2)
        c["states"][ant] = self._physics.states(position[None], velocity[None])[0]
        c["ages"][ant] = c["on_back"][ant] = 0
        c["noise"][ant] = rng.choice(FURTHER_NOISE)
        self._new_point(ant)


def _turned(yaw: float, tilt: Array) -> Array:
    """Return the quaternion (w, x, y, z) of a turn about the vertical after a small tilt (2,), in radians."""
    w1, z1 = np.cos(yaw / 2), np.sin(yaw / 2)
    norm = np.sqrt(1 + tilt @ tilt / 4)
    w2, x2, y2 = 1 / norm, tilt[0] / 2 / norm, tilt[1] / 2 / norm
    return np.array([w1 * w2, w1 * x2 - z1 * y2, w1 * y2 + z1 * x2, z1 * w2])


class AntTask:
    """Ants in an open field and in the three mazes, equally many in each.

    Args:
        per_maze: Ants in each maze.
        seed: Seed of starts, way-points and noise.
    """

    def __init__(self, per_maze: int, seed: int) -> None:
        self._rng = np.random.default_rng([seed, 1])
        self._mazes = [AntInMaze(maze_map, per_maze, self._rng) for maze_map in maze_maps()]
        self.size = per_maze * len(self._mazes)
        self.observation_dim, self.action_dim = 30, 8

    def observations(self) -> Array:
        """Return the controller's inputs, (N, 30)."""
        return np.concatenate([maze.observations() for maze in self._mazes])

    def step(self, actions: Array) -> Step:
        """Step all ants; fallen ones and those at the time limit start anew."""
        parts = [maze.step(part) for maze, part in zip(self._mazes, np.split(actions, len(self._mazes)), strict=True)]
        return Step(
            np.concatenate([part.final_observations for part in parts]),
            np.concatenate([part.rewards for part in parts]),
            np.concatenate([part.terminated for part in parts]),
            np.concatenate([part.truncated for part in parts]),
            {name: sum(part.events[name] for part in parts) for name in parts[0].events},
        )

    def state_dict(self) -> dict[str, Any]:
        """Return all that changes, for an exact resume."""
        mazes = {str(n): {k: v.copy() for k, v in maze.changing.items()} for n, maze in enumerate(self._mazes)}
        return {"mazes": mazes, "rng": self._rng.bit_generator.state}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from there."""
        for number, maze in enumerate(self._mazes):
            maze.changing.update({key: value.copy() for key, value in state["mazes"][str(number)].items()})
        self._rng.bit_generator.state = state["rng"]
