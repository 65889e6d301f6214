"""What an evaluation environment shows and takes: flat observations, a fixed goal, progress, chunks of actions."""

from typing import Any

import gymnasium as gym
import numpy as np

from edp_lightning.environments.answers import PROGRESS, REWARDS, step_of, success_of
from edp_lightning.environments.families import ObservationView
from edp_lightning.environments.flattening import Floats, flatten, parts_of
from edp_lightning.environments.mazes import Navigator, remove_model_file


class FlatObservation(gym.ObservationWrapper[Floats, Floats, Any]):
    """Applies a view to the observations of an environment."""

    def __init__(self, env: gym.Env[Any, Any], view: ObservationView) -> None:
        super().__init__(env)
        self._parts = parts_of(env.observation_space, view.keys)
        width = sum(part.width for part in self._parts)
        self.observation_space = gym.spaces.Box(-np.inf, np.inf, (width,), np.float32)

    def observation(self, observation: Any) -> Floats:
        """Return the flat observation, shape (observation_dim,)."""
        return flatten(observation, self._parts)


class ActionChunks(gym.Wrapper[Any, Any, Any, Any]):
    """Takes several actions at once and plays them one after the other, until the episode ends.

    ``info[REWARDS]`` lists the reward of each step played; ``info["success"]`` tells whether any of them succeeded.

    Args:
        env: An environment with a flat box of actions.
        chunk: Actions per decision.
    """

    def __init__(self, env: gym.Env[Any, Any], chunk: int) -> None:
        super().__init__(env)
        self._chunk = chunk
        box: Any = env.action_space
        self.action_space = gym.spaces.Box(np.tile(box.low, chunk), np.tile(box.high, chunk), dtype=box.dtype)

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """Play a chunk, shape (chunk * action_dim,); the reward is the sum over its steps."""
        rewards: list[float] = []
        succeeded: bool | None = None
        for part in np.reshape(action, (self._chunk, -1)):
            observation, reward, terminated, truncated, info = step_of(self.env.step(part))
            rewards.append(reward)
            found = success_of(info)
            if found is not None:
                succeeded = bool(succeeded) or found
            if terminated or truncated:
                break
        return observation, sum(rewards), terminated, truncated, {**info, REWARDS: rewards, "success": succeeded}


class MazeProgress(gym.Wrapper[Any, Any, Any, Any]):
    """Fixes the goal if asked to, and reports progress that shows before success does.

    ``info[PROGRESS]`` holds ``distance_left``: smallest length in metres of the way to the goal so far in the episode, and
    for robots that can fall ``fallen``: 1 while the torso is upside down. ``position`` is where the robot is, x and y in
    metres, shape (2,), whatever a view shows of it.

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
        self.position = np.full(2, np.nan)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Reset; the start keeps the environment's own noise."""
        observation, info = self.env.reset(seed=seed, options=options)
        if self._fixed_goal is not None:
            self._maze.goal = np.array(self._fixed_goal)
            self._maze.update_target_site_pos()
            observation = {**observation, "desired_goal": self._maze.goal.copy()}
        self._left = np.inf
        self.position = np.array(observation["achieved_goal"])
        return observation, info

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """Step and measure the way left."""
        observation, reward, terminated, truncated, info = self.env.step(action)
        self.position = np.array(observation["achieved_goal"])
        self._left = min(self._left, self._navigator.way_left(self.position, self._maze.goal))
        progress = {"distance_left": self._left}
        if self._torso_quaternion is not None:
            _, x, y, _ = observation["observation"][self._torso_quaternion : self._torso_quaternion + 4]
            progress["fallen"] = float(x * x + y * y > 0.5)  # the rotated z axis points down
        return observation, reward, terminated, truncated, {**info, PROGRESS: progress}

    def close(self) -> None:
        """Close and remove the model file the maze left in the temporary folder."""
        super().close()
        remove_model_file(self.env)
