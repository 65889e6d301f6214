"""Records episodes of Hopper, HalfCheetah and Walker2d, many at once."""

from collections.abc import Generator, Sequence

import numpy as np
from numpy.typing import NDArray

from edp_lightning.collect.locomotion_policies import LocomotionPolicy, bundled_policies
from edp_lightning.collect.locomotion_tasks import LocomotionTask
from edp_lightning.collect.physics.batched import Array
from edp_lightning.collect.physics.locomotion import ROBOTS, Locomotion
from edp_lightning.collect.recorder import RecordedEpisode, streams

LANES = 128
"""Episodes that run side by side, at most."""


def locomotion_episodes(
    task: LocomotionTask, seed: int, noise: float, threads: int, steps: int
) -> Generator[RecordedEpisode, None, None]:
    """Yield episodes of ``steps`` steps in all; each policy of the task gives an equal share, in the order of their skill.

    Args:
        task: The task.
        seed: Seed of the set.
        noise: Standard deviation of Gaussian noise beside the policies' own.
        threads: Threads of the physics; the data do not depend on it.
        steps: Steps in all.
    """
    groups = [bundled_policies(task.robot, skill) for skill in task.skills]
    # Skills share equally, whatever the number of their policies.
    shares = [steps / len(groups) / len(group) for group in groups for _ in group]
    ends = np.round(np.cumsum([0.0, *shares])).astype(int)
    locomotion = Locomotion(ROBOTS[task.robot], threads)
    try:
        for part, policy in enumerate(policy for group in groups for policy in group):
            share = int(ends[part + 1] - ends[part])
            if share:
                yield from record_policy(locomotion, policy, [seed, part], noise, share)
    finally:
        locomotion.close()


def record_policy(
    locomotion: Locomotion, policy: LocomotionPolicy, seed: Sequence[int], noise: float, steps: int
) -> Generator[RecordedEpisode, None, None]:
    """Yield episodes of one policy in the order of their numbers, ``steps`` steps in all; the last one is cut.

    Episodes that take long count no less than short ones: what ends first waits for its turn.

    Args:
        locomotion: The robots.
        policy: What acts.
        seed: Numbers that, with the episode's own, make its seed.
        noise: Standard deviation of Gaussian noise beside the policy's own.
        steps: Steps in all, > 0.
    """
    # No episode is needed beyond the steps in all.
    horizon = min(locomotion.robot.horizon, steps)
    lanes = _Lanes(locomotion, seed, min(LANES, -(-steps // horizon) + 1), horizon)
    deviation = np.sqrt(np.square(policy.std) + noise**2).astype(np.float32)
    finished: dict[int, RecordedEpisode] = {}
    due, remaining = 0, steps
    while remaining > 0:
        observations = locomotion.observations(lanes.states)
        actions = np.clip(policy.mean(observations) + deviation * lanes.noise_now(), -1.0, 1.0).astype(np.float32)
        finished.update(lanes.step(observations, actions))
        while due in finished and remaining > 0:
            episode = finished.pop(due).cut(remaining)
            remaining -= len(episode)
            due += 1
            yield episode


class _Lanes:
    """Episodes side by side; a lane whose episode ended takes the next number."""

    def __init__(self, locomotion: Locomotion, seed: Sequence[int], size: int, horizon: int) -> None:
        self._locomotion, self._seed = locomotion, list(seed)
        self._rows = np.arange(size)
        self._observations = np.empty((size, horizon + 1, locomotion.observation_dim))
        self._actions = np.empty((size, horizon, locomotion.action_dim), dtype=np.float32)
        self._rewards = np.empty((size, horizon))
        self._noise = np.empty((size, horizon, locomotion.action_dim), dtype=np.float32)
        self._ages = np.zeros(size, dtype=np.int64)
        self._numbers = np.zeros(size, dtype=np.int64)
        self._reset_seeds = [0] * size
        self._next = 0
        self.states: Array = np.stack([self._begin(lane) for lane in range(size)])

    def _begin(self, lane: int) -> Array:
        """Give a lane the next episode, and return its first state: that of ``reset`` with the episode's seed."""
        reset_seed, rng = streams([*self._seed, self._next])
        self._numbers[lane], self._reset_seeds[lane] = self._next, reset_seed
        self._noise[lane] = rng.standard_normal(self._noise.shape[1:], dtype=np.float32)
        self._ages[lane] = 0
        self._next += 1
        state: Array = self._locomotion.initial_states([np.random.default_rng(reset_seed)])[0]
        return state

    def noise_now(self) -> NDArray[np.float32]:
        """Return this step's standard Gaussian noise, (lanes, action_dim)."""
        noise: NDArray[np.float32] = self._noise[self._rows, self._ages]
        return noise

    def step(self, observations: Array, actions: NDArray[np.float32]) -> dict[int, RecordedEpisode]:
        """Step all lanes and return the episodes that ended, by number."""
        self.states, rewards, terminated = self._locomotion.step(self.states, actions.astype(np.float64))
        self._observations[self._rows, self._ages] = observations
        self._actions[self._rows, self._ages] = actions
        self._rewards[self._rows, self._ages] = rewards
        self._ages += 1
        ended = np.flatnonzero(terminated | (self._ages == self._rewards.shape[1]))
        if not len(ended):
            return {}
        last = self._locomotion.observations(self.states[ended])
        episodes = {}
        for lane, observation in zip(ended, last, strict=True):
            number = int(self._numbers[lane])
            episodes[number] = self._episode(int(lane), observation, bool(terminated[lane]))
            self.states[lane] = self._begin(int(lane))
        return episodes

    def _episode(self, lane: int, last: Array, terminated: bool) -> RecordedEpisode:
        steps = int(self._ages[lane])
        self._observations[lane, steps] = last
        at_end = np.arange(steps) == steps - 1
        return RecordedEpisode(
            self._reset_seeds[lane],
            self._observations[lane, : steps + 1].copy(),
            self._actions[lane, :steps].copy(),
            self._rewards[lane, :steps].copy(),
            at_end & terminated,
            # As Gymnasium's time limit: set at the last step whatever else ends it.
            at_end & (steps == self._rewards.shape[1]),
            {},
        )
