"""Batched locomotion is Gymnasium's, number by number; its sets are what they say."""

import gymnasium as gym
import numpy as np
import pytest

from edp_lightning.collect import collect
from edp_lightning.collect.locomotion_policies import ROLES, bundled_policies
from edp_lightning.collect.locomotion_recorder import locomotion_episodes
from edp_lightning.collect.locomotion_tasks import LOCOMOTION_TASKS
from edp_lightning.collect.physics.locomotion import ROBOTS, Locomotion
from edp_lightning.collect.recorder import RecordedEpisode
from edp_lightning.data.sources.minari import open_set
from edp_lightning.environments.families import ObservationView


@pytest.mark.parametrize("name", list(ROBOTS))
def test_batched_robots_start_and_step_as_gymnasiums(name):
    """The environment is put into each batched state and stepped; a hundred steps end with robots in all attitudes."""
    locomotion, rng = Locomotion(ROBOTS[name]), np.random.default_rng(0)
    env = gym.make(ROBOTS[name].env_id).unwrapped
    states = locomotion.initial_states([np.random.default_rng(seed) for seed in (3, 4)])
    ends = []
    for row, seed in enumerate((3, 4)):
        observation, _ = env.reset(seed=seed)
        np.testing.assert_array_equal(locomotion.observations(states)[row], observation)
    for _ in range(100):
        actions = rng.uniform(-1, 1, (2, locomotion.action_dim)).astype(np.float32)
        after, rewards, terminated = locomotion.step(states, actions.astype(np.float64))
        seen = locomotion.observations(after)
        for row in range(2):
            env.set_state(states[row, 1 : 1 + env.model.nq], states[row, 1 + env.model.nq :])
            observation, reward, ended, _, _ = env.step(actions[row])
            np.testing.assert_allclose(seen[row], observation, rtol=1e-5, atol=1e-6)
            assert rewards[row] == pytest.approx(reward, rel=1e-5, abs=1e-6)
            assert terminated[row] == ended
        states = after
        ends.extend(terminated)
    assert any(ends) == (name != "halfcheetah")
    env.close()
    locomotion.close()


@pytest.fixture(scope="module")
def replay_episodes() -> list[RecordedEpisode]:
    return list(locomotion_episodes(LOCOMOTION_TASKS["hopper-medium-replay"], seed=0, noise=0.0, threads=1, steps=2000))


def test_an_episode_can_be_played_again_in_gymnasium(replay_episodes):
    """A cold solver and a warm one agree within a short episode: same seed, same actions, same rewards."""
    env = gym.make("Hopper-v5")
    played = 0
    for episode in replay_episodes[:6]:
        observation, _ = env.reset(seed=episode.seed)
        np.testing.assert_array_equal(episode.observations[0], observation)
        for step in range(min(len(episode), 20)):
            observation, reward, ended, _, _ = env.step(episode.actions[step])
            np.testing.assert_allclose(episode.observations[step + 1], observation, rtol=1e-3, atol=1e-3)
            assert episode.rewards[step] == pytest.approx(reward, abs=1e-2)
            assert episode.terminations[step] == ended
            played += 1
    assert played > 40
    env.close()


def test_replay_goes_from_random_to_medium_in_equal_shares(replay_episodes):
    assert sum(len(e) for e in replay_episodes) == 2000
    ends = np.cumsum([len(e) for e in replay_episodes])
    assert set(range(100, 2001, 100)) <= set(ends.tolist())  # each of the twenty policies has a hundred steps
    assert all(e.terminations[-1] or e.truncations[-1] for e in replay_episodes)
    lengths = [len(e) for e in replay_episodes]
    assert np.mean(lengths[:5]) < np.mean(lengths[-5:])  # the random policy falls at once


def test_data_depend_on_the_seed_and_not_on_the_number_of_threads():
    task = LOCOMOTION_TASKS["walker2d-medium"]
    one, two, other = (list(locomotion_episodes(task, seed, 0.0, threads, 300)) for seed, threads in ((0, 1), (0, 2), (1, 1)))
    for name in ("observations", "actions", "rewards", "terminations", "truncations"):
        parts = [np.concatenate([getattr(e, name) for e in episodes]) for episodes in (one, two)]
        np.testing.assert_array_equal(*parts)
    assert not np.array_equal(one[0].actions[:10], other[0].actions[:10])


def test_episodes_end_at_the_time_limit():
    task = LOCOMOTION_TASKS["halfcheetah-medium"]
    episodes = list(locomotion_episodes(task, 0, 0.0, 1, 1500))
    assert [len(e) for e in episodes] == [1000, 500]
    assert episodes[0].truncations.tolist() == [False] * 999 + [True]
    assert not episodes[0].terminations.any()


@pytest.mark.parametrize("name", list(LOCOMOTION_TASKS))
def test_every_set_is_written_and_opens(name, minari_root):
    collect(name, steps=200)
    task = LOCOMOTION_TASKS[name]
    dataset = open_set(task.dataset_id)
    episodes = list(dataset.episodes(ObservationView("box")))
    assert sum(len(episode) for episode in episodes) == 200
    assert dataset.spec.id == ROBOTS[task.robot].env_id
    assert dataset.spec.max_episode_steps == 1000
    assert dataset.locally_collected


@pytest.mark.parametrize("robot", list(ROBOTS))
def test_policies_stand_in_the_order_of_their_skill(robot):
    locomotion = Locomotion(ROBOTS[robot])
    policies = {skill: bundled_policies(robot, skill) for skill in ("expert", "medium", "replay")}
    assert [len(policies[skill]) for skill in ("expert", "medium", "replay")] == [1, 1, len(ROLES) - 2]
    last = policies["replay"][-1]
    observation = np.ones((1, locomotion.observation_dim))
    np.testing.assert_array_equal(last.mean(observation), policies["medium"][0].mean(observation))
    locomotion.close()
