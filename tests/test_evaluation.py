"""Rollouts: results depend on episode seeds only."""

import gymnasium as gym
import numpy as np
import pytest
import torch

from edp_lightning.evaluation import rollout
from edp_lightning.workers import LocalEnvironments, WorkerEnvironments


class Countdown(gym.Env):
    """Lasts as many steps as its seed says; the reward is the action; succeeds if the sum of actions is positive."""

    observation_space = gym.spaces.Box(-np.inf, np.inf, (2,), np.float32)
    action_space = gym.spaces.Box(-1, 1, (1,), np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.left, self.total = 1 + seed % 7, 0.0
        return np.array([self.left, self.np_random.normal()], dtype=np.float32), {}

    def step(self, action):
        self.left -= 1
        self.total += float(action[0])
        info = {"success": self.total > 0, "progress": {"left": self.left}}
        return np.array([self.left, self.total], dtype=np.float32), float(action[0]), self.left == 0, False, info


def play(envs, policy, seeds, **kwargs):
    return rollout(LocalEnvironments(envs), policy, seeds, **kwargs)


def act(observation, generators):
    noise = torch.stack([torch.randn(1, generator=g) for g in generators])
    return torch.tanh(observation[:, 1:] + noise)


def sequential(seeds):
    results = []
    for seed in seeds:
        results += play([Countdown()], act, [seed])
    return results


@pytest.mark.parametrize("num_envs", [1, 3, 20])
def test_vectorised_rollouts_equal_a_sequential_loop(num_envs):
    seeds = list(range(100, 112))
    together = play([Countdown() for _ in range(num_envs)], act, seeds)
    assert together == sequential(seeds)


def test_short_episodes_do_not_crowd_out_long_ones():
    seeds = list(range(21))
    results = play([Countdown() for _ in range(4)], act, seeds)
    assert [r.seed for r in results] == seeds
    assert [r.length for r in results] == [1 + seed % 7 for seed in seeds]  # every episode to its end, each once


def test_outcome_of_an_episode_does_not_depend_on_its_company():
    (alone,) = play([Countdown()], act, [6])
    beside = play([Countdown() for _ in range(3)], act, [13, 6, 20])[1]
    assert alone == beside


def test_success_counts_if_it_was_ever_true_and_progress_is_the_last():
    for result in play([Countdown()], lambda o, g: torch.ones(len(o), 1), [3]):
        assert result.success
        assert result.final == {"left": 0}
        assert result.episode_return == 4


def test_finished_episodes_are_reported():
    seen = []
    play([Countdown() for _ in range(2)], act, [1, 2, 3], on_episode=seen.append)
    assert sorted(r.seed for r in seen) == [1, 2, 3]


class Fragile(Countdown):
    """Fails in the second step of an episode."""

    def reset(self, *, seed=None, options=None):
        observation, info = super().reset(seed=seed)
        self.length = self.left
        return observation, info

    def step(self, action):
        if self.left < self.length:
            raise ValueError("broken joint")
        return super().step(action)


@pytest.fixture
def workers(request):
    environments = WorkerEnvironments(request.param, 5, 2)
    yield environments
    environments.close()
    assert not any(process.is_alive() for process in environments._processes)


@pytest.mark.parametrize("workers", [Countdown], indirect=True)
def test_processes_give_the_episodes_of_a_sequential_loop(workers):
    seeds = list(range(100, 112))
    assert rollout(workers, act, seeds) == sequential(seeds)
    assert rollout(workers, act, seeds[:3]) == sequential(seeds[:3])  # the same environments again, not all of them
    workers._processes[1].kill()
    with pytest.raises(RuntimeError, match="died"):
        rollout(workers, act, seeds)


@pytest.mark.parametrize("workers", [Fragile], indirect=True)
def test_a_failure_in_a_process_is_told_with_its_traceback(workers):
    with pytest.raises(RuntimeError, match="broken joint"):
        rollout(workers, act, [3, 4])


def test_recorded_steps_are_what_was_seen_and_done():
    (result,) = play([Countdown()], act, [3], record=True)
    trajectory = result.trajectory
    assert len(trajectory.observation) == len(trajectory.action) == result.length == 4
    np.testing.assert_array_equal(trajectory.observation[:, 0], [4, 3, 2, 1])
    np.testing.assert_array_equal(trajectory.action[:, 0], trajectory.reward)
    np.testing.assert_allclose(trajectory.observation[1:, 1], trajectory.reward.cumsum()[:-1], rtol=1e-6)
    assert trajectory.reward.sum() == pytest.approx(result.episode_return)
    assert trajectory.terminated
    assert play([Countdown()], act, [3])[0].trajectory is None


def test_an_episode_that_is_cut_is_not_terminated():
    env = gym.wrappers.TimeLimit(Countdown(), 2)
    (result,) = play([env], act, [3], record=True)
    assert result.length == 2
    assert not result.trajectory.terminated
