"""Rollouts: results depend on episode seeds only."""

import json

import gymnasium as gym
import numpy as np
import pytest
import torch

from edp_lightning.algorithms.entropy_diffusion import EntropyDiffusionPolicy
from edp_lightning.environments.answers import PROGRESS
from edp_lightning.environments.workers import LocalEnvironments, WorkerEnvironments
from edp_lightning.environments.wrappers import ActionChunks
from edp_lightning.evaluation.rollout import rollout
from edp_lightning.runs.rng import stream_seed


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
        info = {"success": self.total > 0, PROGRESS: {"left": self.left}}
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


class Flash(Countdown):
    """Succeeds only in its second step."""

    def step(self, action):
        outcome = super().step(action)
        return *outcome[:4], {**outcome[4], "success": self.left == 2}


def test_a_chunk_of_actions_is_so_many_steps():
    """An episode of four steps and chunks of three: the second chunk ends after its first step."""
    seen = []

    def plan(observation, generators):
        seen.append(observation[:, 0].tolist())
        return torch.tensor([[0.1, 0.2, 0.3]])

    (result,) = play([ActionChunks(Flash(), 3)], plan, [3], record=True)
    (plain,) = play([Flash()], lambda o, g: (5 - o[:, :1]) / 10 if o[0, 0] > 1 else torch.tensor([[0.1]]), [3], record=True)
    assert seen == [[4], [1]]
    assert (result.length, result.success, result.final) == (4, True, {"left": 0}) == (plain.length, plain.success, plain.final)
    assert result.episode_return == pytest.approx(0.7) == pytest.approx(plain.episode_return)
    np.testing.assert_allclose(result.trajectory.reward, plain.trajectory.reward, rtol=1e-6)
    np.testing.assert_array_equal(result.trajectory.decided_at, [0, 3])
    np.testing.assert_array_equal(plain.trajectory.decided_at, [0, 1, 2, 3])
    assert result.trajectory.action.shape == (2, 3)
    assert result.trajectory.terminated


def test_a_chunk_has_the_box_of_all_its_actions():
    env = ActionChunks(gym.make("MountainCarContinuous-v0").unwrapped, 4)
    assert env.action_space == gym.spaces.Box(-1.0, 1.0, (4,), np.float32)


def test_a_policy_of_chunks_is_trained_and_judged_step_by_step(pendulum_set, command):
    """Pendulum is cut after 200 steps: 66 chunks of three, and two steps of one more."""
    options = ("--data.action_chunk=3", "--data.n_step=3", "--data.environment=Pendulum-v1")
    folder = command("fit", "--trainer.max_steps=5", *options, dataset=pendulum_set)
    command("test", "--ckpt_path=last", *options, dataset=pendulum_set)
    record = json.loads((folder / "test_last.json").read_text())
    assert record["environment"]["action_chunk"] == 3
    assert {episode["length"] for episode in record["episodes"]} == {200}
    module = EntropyDiffusionPolicy.load_from_checkpoint(folder / "checkpoints" / "last.ckpt", weights_only=True)
    assert module.action_scaler.high.tolist() == [2.0, 2.0, 2.0]
    env, generator = gym.make("Pendulum-v1"), torch.Generator().manual_seed(stream_seed(10_000, "episode", 0))
    observation, _ = env.reset(seed=10_000)
    total, done = 0.0, False
    while not done:
        for action in module.act(torch.tensor(observation)[None], [generator])[0].split(1):
            observation, reward, _, done, _ = env.step(action.numpy())
            total += float(reward)
            if done:
                break
    assert record["episodes"][0]["return"] == pytest.approx(total, rel=1e-5)


def test_a_chunk_longer_than_the_window_of_its_value_is_refused(pendulum_set, command, capsys):
    with pytest.raises(SystemExit):
        command("fit", "--data.action_chunk=3", dataset=pendulum_set)
    assert "data.n_step (1) must be at least data.action_chunk (3)" in capsys.readouterr().err
