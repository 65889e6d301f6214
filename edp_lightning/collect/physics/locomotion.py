"""Hopper, Walker2d and HalfCheetah of Gymnasium (v5), many at once: the same observations, rewards and terminations."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import mujoco
import numpy as np
from numpy.typing import NDArray

from edp_lightning.collect.physics.batched import Array, BatchedPhysics
from edp_lightning.environments.quiet import quiet_gymnasium

Healthy = Callable[[Array, Array], NDArray[np.bool_]]


def hopper_is_healthy(positions: Array, velocities: Array) -> NDArray[np.bool_]:
    """Return whether each hopper stands: height > 0.7, ``|angle| < 0.2``, the rest within 100. (B, nq), (B, nv) -> (B,)."""
    rest = np.concatenate([positions[:, 2:], velocities], axis=1)
    healthy: NDArray[np.bool_] = (np.abs(rest) < 100.0).all(1) & (positions[:, 1] > 0.7) & (np.abs(positions[:, 2]) < 0.2)
    return healthy


def walker_is_healthy(positions: Array, velocities: Array) -> NDArray[np.bool_]:
    """Return whether each walker stands: height between 0.8 and 2, ``|angle| < 1``. (B, nq), (B, nv) -> (B,)."""
    height, angle = positions[:, 1], positions[:, 2]
    healthy: NDArray[np.bool_] = (height > 0.8) & (height < 2.0) & (np.abs(angle) < 1.0)
    return healthy


def always_healthy(positions: Array, velocities: Array) -> NDArray[np.bool_]:
    """Return True for each robot: a cheetah's episode only ends with its time. (B, nq), (B, nv) -> (B,)."""
    return np.ones(len(positions), dtype=np.bool_)


@dataclass(frozen=True)
class Robot:
    """What Gymnasium's environment says about a robot beside its model.

    Attributes:
        env_id: Gymnasium id.
        healthy_reward: Reward of each step that ends healthy.
        control_cost: Weight of the actions' squares in the reward.
        reset_noise: Half-width of the uniform noise on initial positions, and of that on velocities or its deviation.
        gaussian_velocities: Initial velocities are Gaussian, not uniform.
        velocity_limit: Observed velocities are clipped to this.
        is_healthy: Ends the episode where it is False.
        horizon: Steps per episode.
    """

    env_id: str
    healthy_reward: float
    control_cost: float
    reset_noise: float
    gaussian_velocities: bool
    velocity_limit: float
    is_healthy: Healthy
    horizon: int = 1000


ROBOTS: dict[str, Robot] = {
    "hopper": Robot("Hopper-v5", 1.0, 1e-3, 5e-3, False, 10.0, hopper_is_healthy),
    "halfcheetah": Robot("HalfCheetah-v5", 0.0, 0.1, 0.1, True, np.inf, always_healthy),
    "walker2d": Robot("Walker2d-v5", 1.0, 1e-3, 5e-3, False, 10.0, walker_is_healthy),
}
"""Name on the command line -> robot."""


class Locomotion:
    """Batched physics of one robot, with what Gymnasium's environment makes of it.

    Args:
        robot: The robot.
        threads: Threads of the physics.
    """

    def __init__(self, robot: Robot, threads: int = 1) -> None:
        with quiet_gymnasium():
            env: Any = gym.make(robot.env_id, disable_env_checker=True).unwrapped
        self.robot = robot
        self._physics = BatchedPhysics(env.model, env.frame_skip, threads)
        self._options, self._integrator = env.model.opt, env.model.opt.integrator
        self._positions, self._velocities = env.init_qpos.copy(), env.init_qvel.copy()
        self.action_dim = int(env.model.nu)
        self.observation_dim = int(env.observation_space.shape[0])
        env.close()

    def integrate(self, exactly: bool) -> None:
        """Integrate as the environment does, or with Euler's method, for training only.

        Euler's method takes a quarter to a third of the time of the Runge-Kutta method of Hopper and Walker2d.
        """
        self._options.integrator = self._integrator if exactly else mujoco.mjtIntegrator.mjINT_EULER

    def initial_states(self, rngs: list[np.random.Generator]) -> Array:
        """Return one initial state per generator, (len(rngs), state_dim)."""
        noise, nq, nv = self.robot.reset_noise, len(self._positions), len(self._velocities)
        positions = np.stack([self._positions + rng.uniform(-noise, noise, nq) for rng in rngs])
        if self.robot.gaussian_velocities:
            velocities = np.stack([self._velocities + noise * rng.standard_normal(nv) for rng in rngs])
        else:
            velocities = np.stack([self._velocities + rng.uniform(-noise, noise, nv) for rng in rngs])
        return self._physics.states(positions, velocities)

    def observations(self, states: Array) -> Array:
        """Return what the environment would show: positions but the first, clipped velocities, (B, observation_dim)."""
        limit = self.robot.velocity_limit
        velocities = np.clip(self._physics.velocities(states), -limit, limit)
        return np.concatenate([self._physics.positions(states)[:, 1:], velocities], axis=1)

    def step(self, states: Array, actions: Array) -> tuple[Array, Array, NDArray[np.bool_]]:
        """Step every robot once.

        Args:
            states: (B, state_dim).
            actions: In [-1, 1], (B, action_dim).

        Returns:
            The next states (B, state_dim), rewards (B,), terminated (B,).
        """
        after = self._physics.step(states, actions)
        positions = self._physics.positions(after)
        healthy = self.robot.is_healthy(positions, self._physics.velocities(after))
        speed = (positions[:, 0] - self._physics.positions(states)[:, 0]) / self._physics.seconds
        rewards = speed + self.robot.healthy_reward * healthy - self.robot.control_cost * np.square(actions).sum(1)
        return after, rewards, ~healthy

    def close(self) -> None:
        """End the physics' threads."""
        self._physics.close()
