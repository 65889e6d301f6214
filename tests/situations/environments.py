"""Environments as users write them, with what is odd about them as arguments: spaces, infos, limits, wrappers, answers."""

import time
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.envs.registration import WrapperSpec
from gymnasium.spaces import Box, Dict, Discrete, MultiDiscrete, Text, Tuple

OBSERVATIONS: dict[str, gym.Space[Any]] = {
    "flat": Box(-10, 10, (3,), np.float32),
    "float64": Box(-10, 10, (3,), np.float64),
    "axes": Box(-10, 10, (2, 2), np.float32),
    "bytes": Box(0, 255, (4,), np.uint8),
    "discrete": Discrete(5, start=2),
    "several": MultiDiscrete([3, 4]),
    "dict": Dict({"speed": Box(-10, 10, (2,), np.float64), "gear": Discrete(3), "arm": Box(-10, 10, (2, 1), np.float32)}),
    "tuple": Tuple((Box(-10, 10, (2,), np.float32), Dict({"a": Box(-10, 10, (1,), np.float32)}))),
    "text": Text(5),
}
ACTIONS: dict[str, gym.Space[Any]] = {
    "flat": Box(-1, 1, (2,), np.float32),
    "float64": Box(np.array([-0.1, -0.7]), np.array([0.1, 0.3]), dtype=np.float64),
    "integers": Box(np.array([-1, 0]), np.array([3, 1]), dtype=np.int8),
    "axes": Box(-1, 1, (2, 1), np.float32),
    "unbounded": Box(-np.inf, np.inf, (2,), np.float32),
    "dict": Dict({"grip": Box(0, 1, (1,), np.float64), "arm": Box(-0.1, 0.1, (1,), np.float64)}),
    "discrete": Discrete(2),
}
INFOS: dict[str, Any] = {
    "none": lambda env: None,
    "empty": lambda env: {},
    "list": lambda env: [1, 2],
    "terms": lambda env: {"rewards": {"speed": 1.0, "energy": -3.0}, "progress": 0.5, "success": "no"},
    "lists": lambda env: {"rewards": [9.0, 9.0, 9.0], "progress": {"left": 1}, "success": [True, False]},
    "success": lambda env: {"success": np.array([env.time == 2])},
    "counts": lambda env: {"success": 7, "progress": None},
    "odd keys": lambda env: {1: 2, None: 3},
}
REWARDS: dict[str, Any] = {
    "float": float,
    "numpy": np.float32,
    "array": lambda value: np.array([value]),
    "integer": round,
    "nan": lambda value: float("nan"),
    "text": str,
    "none": lambda value: None,
}
ENDS: dict[str, Any] = {"bool": bool, "numpy": np.bool_, "integer": int, "array": lambda value: np.array([value]), "text": str}


class OddEnv(gym.Env[Any, Any]):
    """Rewards, lengths and observations depend on all actions so far; every action must be in the space.

    Args:
        observation: Key of ``OBSERVATIONS``.
        action: Key of ``ACTIONS``.
        info: Key of ``INFOS``.
        reward: Key of ``REWARDS``.
        end: Key of ``ENDS``.
        length: Steps until the episode terminates; None for never.
        fault: Where it fails: ``reset``, ``step``, ``later`` (in the third step), ``close``; or what it returns wrongly:
            ``old reset``, ``old step``, ``nan``.
    """

    def __init__(
        self,
        observation: str = "flat",
        action: str = "flat",
        info: str = "empty",
        reward: str = "float",
        end: str = "bool",
        length: int | None = 4,
        fault: str = "",
    ) -> None:
        self.observation_space, self.action_space = OBSERVATIONS[observation], ACTIONS[action]
        self._info, self._reward, self._end = INFOS[info], REWARDS[reward], ENDS[end]
        self._length, self._fault = length, fault
        self.time, self._sum = 0, 0.0

    def _observe(self, space: gym.Space[Any] | None = None, place: int = 0) -> Any:
        space = space or self.observation_space
        if isinstance(space, Dict):
            return {key: self._observe(part, place + i) for i, (key, part) in enumerate(space.spaces.items())}
        if isinstance(space, Tuple):
            return tuple(self._observe(part, place + i) for i, part in enumerate(space.spaces))
        if isinstance(space, Discrete):
            return space.start + (self.time + place) % space.n
        if isinstance(space, MultiDiscrete):
            return (self.time + place + np.arange(len(space.nvec))) % space.nvec
        if isinstance(space, Text):
            return "abc"
        values = np.full(space.shape, self._sum + self.time + place, dtype=np.float64) * 0.1
        values = np.clip(values, space.low, space.high)
        if self._fault == "nan" and self.time:
            values = values * np.nan
        return values.astype(space.dtype)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        if self._fault == "reset":
            raise OSError("no robot at 10.0.0.7\nis it on?")
        self.time, self._sum, self._seed = 0, float(self.np_random.uniform()), seed
        return self._observe() if self._fault == "old reset" else (self._observe(), self._info(self))

    def step(self, action):
        assert self.action_space.contains(action), f"{action!r} is not in {self.action_space}"
        if self._fault == "step" or (self._fault == "later" and self.time == 2):
            raise ValueError("broken joint")
        self.time += 1
        parts = action.values() if isinstance(action, dict) else [action]
        self._sum += sum(float(np.sum(part)) for part in parts)
        reward = self._reward(self._sum + float(self.np_random.uniform()))
        answer = (self._observe(), reward, self._end(self.time == self._length), self._end(False), self._info(self))
        return (answer[0], answer[1], answer[2], answer[4]) if self._fault == "old step" else answer

    def close(self):
        if self._fault == "close":
            raise OSError("the robot is gone")


class EndlessEnv(OddEnv):
    """Has no end; each step takes a while.

    Args:
        seconds: How long; not with seed 0, with which it is tried before training.
        marker: File that is written when such a step begins.
        options: Of ``OddEnv``.
    """

    def __init__(self, seconds: float = 0.0, marker: str = "", **options: Any) -> None:
        super().__init__(**{"length": None, **options})
        self._seconds, self._marker = seconds, marker

    def step(self, action):
        if self._seed:  # the trial uses seed 0
            if self._marker:
                Path(self._marker).touch()
            time.sleep(self._seconds)
        return super().step(action)


class SkipSteps(gym.Wrapper[Any, Any, Any, Any], gym.utils.RecordConstructorArgs):
    """Plays every action several times; can be rebuilt.

    Args:
        env: Environment.
        times: How often.
    """

    def __init__(self, env: gym.Env[Any, Any], times: int = 2) -> None:
        gym.utils.RecordConstructorArgs.__init__(self, times=times)
        super().__init__(env)
        self._times = times

    def step(self, action):
        observation, total, terminated, truncated, info = self.env.step(action)
        for _ in range(self._times - 1):
            if not (terminated or truncated):
                observation, reward, terminated, truncated, info = self.env.step(action)
                total = total + reward
        return observation, total, terminated, truncated, info


class Forgetful(gym.Wrapper[Any, Any, Any, Any]):
    """Says nothing of how it was made, so it cannot be rebuilt."""


def make_odd(**options: Any) -> OddEnv:
    """A function as entry point."""
    return OddEnv(**options)


HERE = "tests.situations.environments"
gym.register("tests/Odd-v0", f"{HERE}:OddEnv", disable_env_checker=True)
gym.register("tests/Limited-v0", f"{HERE}:OddEnv", max_episode_steps=3, kwargs={"length": None}, disable_env_checker=True)
gym.register("tests/Endless-v0", f"{HERE}:EndlessEnv", disable_env_checker=True)
gym.register("tests/Class-v0", OddEnv, disable_env_checker=True)
gym.register("tests/Function-v0", make_odd, disable_env_checker=True)
gym.register("tests/Lambda-v0", lambda **options: OddEnv(**options), disable_env_checker=True)
gym.register("tests/Skipping-v0", f"{HERE}:OddEnv", kwargs={"length": 9}, disable_env_checker=True)
gym.register("tests/Missing-v0", "robot_that_is_not_installed.envs:Robot", disable_env_checker=True)
gym.spec("tests/Skipping-v0").additional_wrappers = (WrapperSpec("SkipSteps", f"{HERE}:SkipSteps", {"times": 2}),)


def robot_arrays(observation_dim: int = 3, action_dim: int = 2, bound: float = 1.0) -> dict[str, Any]:
    """Plain arrays of three episodes of 5, 7 and 6 steps."""
    rng = np.random.default_rng(0)
    truncated = np.zeros(18, dtype=bool)
    truncated[[4, 11, 17]] = True
    observations = rng.normal(size=(18, observation_dim))
    following = np.roll(observations, -1, axis=0)
    following[truncated] += 1
    return {
        "observations": observations,
        "next_observations": following,
        "actions": rng.uniform(-bound, bound, (18, action_dim)),
        "rewards": rng.normal(size=18),
        "terminated": np.zeros(18, dtype=bool),
        "truncated": truncated,
    }
