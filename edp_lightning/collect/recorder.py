"""Records single episodes. An episode depends on (task, seed, noise, index) only: workers may share them out as they like."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from edp_lightning.collect.controllers import AntController, Controller, PointController
from edp_lightning.collect.maze_tasks import MazeTask
from edp_lightning.collect.tasks import CollectTask
from edp_lightning.collect.toy import TwoStepEnv, behavior_action
from edp_lightning.environments.mazes import Navigator, remove_model_file
from edp_lightning.environments.quiet import quiet_gymnasium


@dataclass
class RecordedEpisode:
    """Arrays of one episode: observations and infos have T + 1 rows, the rest T.

    ``observations`` is an array, or a dict of arrays by key; ``infos`` are named arrays.
    """

    seed: int
    observations: Any
    actions: NDArray[np.float32]
    rewards: NDArray[np.float64]
    terminations: NDArray[np.bool_]
    truncations: NDArray[np.bool_]
    infos: dict[str, NDArray[Any]]

    def __len__(self) -> int:
        """Return T."""
        return len(self.rewards)

    def cut(self, steps: int) -> "RecordedEpisode":
        """Return the first ``steps`` steps, marked as truncated unless they end the episode anyway."""
        if steps >= len(self):
            return self
        truncations = self.truncations[:steps].copy()
        truncations[-1] = True
        observations = self.observations
        if isinstance(observations, dict):
            observations = {key: rows[: steps + 1] for key, rows in observations.items()}
        else:
            observations = observations[: steps + 1]
        infos = {name: rows[: steps + 1] for name, rows in self.infos.items()}
        return RecordedEpisode(
            self.seed, observations, self.actions[:steps], self.rewards[:steps], self.terminations[:steps], truncations, infos
        )


class Recorder(Protocol):
    """Plays and records episodes by number."""

    def record(self, seed: int, index: int, noise: float) -> RecordedEpisode:
        """Return episode ``index`` of the set with ``seed``."""

    def close(self) -> None:
        """Release the environment."""


def make_recorder(task: CollectTask) -> Recorder:
    """Return the recorder of a task of single episodes; it holds one environment."""
    return MazeRecorder(task) if isinstance(task, MazeTask) else ToyRecorder()


def streams(numbers: Sequence[int]) -> tuple[int, np.random.Generator]:
    """Return the environment's reset seed and the generator of everything else in an episode.

    Args:
        numbers: What makes an episode its own, such as the set's seed and the episode's index.
    """
    reset, rest = np.random.SeedSequence(numbers).spawn(2)
    return int(reset.generate_state(1)[0]) & 0x7FFFFFFF, np.random.default_rng(rest)


class MazeRecorder:
    """Records point mass and ant on their way through a maze, towards commanded goals.

    Args:
        task: What to record.
    """

    def __init__(self, task: MazeTask) -> None:
        self._task = task
        with quiet_gymnasium():
            # The bare environment: wrappers only check and count, at a third of the time of a step.
            env: Any = gym.make(task.collection_spec(), disable_env_checker=True).unwrapped
        self._env = env
        self._navigator = Navigator(env.maze)
        self._controller: Controller = AntController() if task.kind == "ant" else PointController()
        self._centre: NDArray[np.float64] | None = None  # of the cell that is being headed for
        self._waypoint: NDArray[np.float64] = np.zeros(2)  # drawn around that centre

    def record(self, seed: int, index: int, noise: float) -> RecordedEpisode:
        """Return one episode; a commanded goal that is reached is replaced, or ends the episode of a single-goal task."""
        env, horizon = self._env, self._task.horizon
        reset_seed, rng = streams([seed, index])
        observation, _ = env.reset(seed=reset_seed)
        rows = {key: np.empty((horizon + 1, *value.shape)) for key, value in observation.items()}
        actions = np.empty((horizon, *env.action_space.shape), dtype=np.float32)
        rewards = np.zeros(horizon)
        success = np.zeros(horizon + 1, dtype=np.bool_)
        steps = 0
        self._centre = None
        for steps in range(1, horizon + 1):
            self._store(rows, steps - 1, observation)
            position = observation["achieved_goal"]
            waypoint = self._choose_waypoint(position, rng)
            action = self._controller(observation["observation"], position, waypoint)
            actions[steps - 1] = np.clip(action + noise * rng.normal(size=action.shape), -1.0, 1.0)
            observation, rewards[steps - 1], _, _, info = env.step(actions[steps - 1])
            success[steps] = info["success"]
            if info["success"]:
                if self._task.single:
                    break
                self._command_new_goal(observation["achieved_goal"])
        self._store(rows, steps, observation)
        truncations = np.zeros(steps, dtype=np.bool_)
        truncations[-1] = True
        observations = {key: value[: steps + 1] for key, value in rows.items()}
        infos = {"goal": observations["desired_goal"].copy(), "success": success[: steps + 1]}
        return RecordedEpisode(
            reset_seed, observations, actions[:steps], rewards[:steps], np.zeros(steps, dtype=np.bool_), truncations, infos
        )

    def _choose_waypoint(self, position: NDArray[np.float64], rng: np.random.Generator) -> NDArray[np.float64]:
        """Return where to head: the goal in its own cell, else a point in the next cell, drawn when that cell's turn comes.

        A cell's point is gone to before the next cell's: who turned on entering a cell would cut its inner corner.
        """
        goal: NDArray[np.float64] = self._env.goal
        target = self._navigator.waypoint(position, goal)
        if target is goal:
            self._centre = None
            return goal
        size = self._env.maze.maze_size_scaling
        arrived = np.linalg.norm(position - self._waypoint) <= self._task.waypoint_radius * size
        in_its_cell = self._centre is not None and self._navigator.cell(position) == self._navigator.cell(self._centre)
        if in_its_cell and not arrived:
            return self._waypoint
        if target is not self._centre:
            reach = self._task.waypoint_noise * size
            self._centre, self._waypoint = target, target
            if reach > 0:
                self._waypoint = target + rng.uniform(-reach, reach, size=2)
        return self._waypoint

    def _store(self, rows: dict[str, NDArray[np.float64]], step: int, observation: dict[str, Any]) -> None:
        for key, value in observation.items():
            rows[key][step] = value
        # The environment builds an observation before a new goal is commanded: the row must hold the goal now in force.
        rows["desired_goal"][step] = self._env.goal

    def _command_new_goal(self, position: NDArray[np.float64]) -> None:
        env = self._env
        while np.linalg.norm(position - env.goal) <= 0.5 * env.maze.maze_size_scaling:
            env.goal = env.add_xy_position_noise(env.generate_target_goal())
        env.update_target_site_pos()

    def close(self) -> None:
        """Close the environment and remove the model file it left in the temporary folder."""
        self._env.close()
        remove_model_file(self._env)


class ToyRecorder:
    """Records two-step episodes of the toy task."""

    def __init__(self) -> None:
        self._env = TwoStepEnv()

    def record(self, seed: int, index: int, noise: float) -> RecordedEpisode:
        """Return one episode of two steps; ``noise`` is added to the behaviour's actions."""
        reset_seed, rng = streams([seed, index])
        state, _ = self._env.reset(seed=reset_seed)
        states, actions, rewards = [state], [], []
        for time in range(2):
            action = behavior_action(float(state[0]), time, index, rng) + noise * float(rng.normal())
            actions.append(np.clip(np.array([action], dtype=np.float32), -1.0, 1.0))
            state, reward, _, _, _ = self._env.step(actions[-1])
            states.append(state)
            rewards.append(reward)
        ends = np.array([False, True])
        return RecordedEpisode(
            reset_seed, np.stack(states), np.stack(actions), np.array(rewards), ends, np.zeros(2, dtype=np.bool_), {}
        )

    def close(self) -> None:
        """Nothing to release."""
