import dataclasses
import sys

import gymnasium as gym
import h5py
import numpy as np
import pytest
from gymnasium.envs.registration import EnvSpec

from edp_lightning.data.sources.minari import missing_message, open_set
from edp_lightning.environments.families import ObservationView
from edp_lightning.errors import UserError
from tests.conftest import make_buffer, make_set

BOX = ObservationView("box")


def read_episodes(dataset, view):
    return list(dataset.episodes(view))


WIDE = gym.spaces.Box(-np.inf, np.inf, (2,), np.float64)  # Arrow files keep the dtype of the space


def damage(root, dataset_id, change):
    with h5py.File(root / dataset_id / "data" / "main_data.hdf5", "a") as file:
        change(file)


def replace(group, name, values):
    del group[name]
    group[name] = values


def test_rows_come_back_as_written(random_set):
    episodes = read_episodes(open_set(random_set), BOX)
    assert [len(e) for e in episodes] == [4, 3, 5]
    assert episodes[1].observation.tolist() == [[100, 0], [101, 1], [102, 2], [103, 3]]
    assert episodes[1].truncated.tolist() == [False, False, True]
    assert episodes[0].observation.dtype == np.float32


def test_episodes_are_read_in_numerical_order():
    buffers = [make_buffer(i, np.full((2, 2), float(i)), [[0.0]], [0.0]) for i in range(12)]
    episodes = read_episodes(open_set(make_set("tests/many-v0", buffers)), BOX)
    assert [e.observation[0, 0] for e in episodes] == list(range(12))


def test_nested_dicts_are_flattened_by_explicit_keys():
    space = gym.spaces.Dict({"b": gym.spaces.Box(-9, 9, (1,)), "a": gym.spaces.Dict({"x": gym.spaces.Box(-9, 9, (2,))})})
    observations = {"b": np.full((3, 1), 5.0), "a": {"x": np.full((3, 2), 7.0)}}
    dataset = open_set(make_set("tests/nested-v0", [make_buffer(0, observations, [[0.0], [0.0]], [0.0, 0.0])], space))
    (episode,) = read_episodes(dataset, ObservationView("both", ("b", "a/x")))
    assert episode.observation[0].tolist() == [5, 7, 7]
    with pytest.raises(UserError, match="no observation a/y; there are a/x, b"):
        read_episodes(dataset, ObservationView("wrong", ("a/y",)))
    assert read_episodes(dataset, BOX)[0].observation[0].tolist() == [7, 7, 5]  # everything, in the space's order


DAMAGES = {
    r"T \+ 1": lambda f: replace(f["episode_1"], "observations", np.zeros((3, 2))),
    "NaN or infinite values .first in row 2": lambda f: f["episode_1/observations"].__setitem__((2, 0), np.nan),
    "rewards hold NaN or infinite": lambda f: f["episode_1/rewards"].__setitem__(0, np.inf),
    "2 actions for 3 rewards": lambda f: replace(f["episode_1"], "actions", np.zeros((2, 1))),
    "no terminations": lambda f: f["episode_1"].__delitem__("terminations"),
    r"actions of shape \(2,\)": lambda f: replace(f["episode_1"], "actions", np.zeros((3, 2))),
    "not numbers": lambda f: replace(f["episode_1"], "rewards", np.array([b"a", b"b", b"c"])),
}


@pytest.mark.parametrize("message", list(DAMAGES))
def test_damaged_episodes_are_named(message, random_set, minari_root):
    damage(minari_root, random_set, DAMAGES[message])
    with pytest.raises(UserError, match=f"{random_set}, episode 1.*{message}"):
        read_episodes(open_set(random_set), BOX)


def test_empty_episode_is_named(random_set, minari_root):
    def empty(file):
        for name in ("rewards", "terminations", "truncations"):
            replace(file["episode_2"], name, np.zeros(0))
        replace(file["episode_2"], "actions", np.zeros((0, 1)))
        replace(file["episode_2"], "observations", np.zeros((1, 2)))

    damage(minari_root, random_set, empty)
    with pytest.raises(UserError, match="episode 2 is empty"):
        read_episodes(open_set(random_set), BOX)


def test_truncated_file_is_named(random_set, minari_root):
    path = minari_root / random_set / "data" / "main_data.hdf5"
    path.write_bytes(path.read_bytes()[:500])
    with pytest.raises(UserError, match="truncated or not hdf5"):
        read_episodes(open_set(random_set), BOX)


def test_discrete_actions_are_refused():
    buffer = make_buffer(0, np.zeros((2, 2)), [0], [0.0])
    make_set("tests/discrete-v0", [buffer], action_space=gym.spaces.Discrete(3))
    with pytest.raises(UserError, match="continuous actions"):
        open_set("tests/discrete-v0")


def test_reading_leaves_the_file_untouched(random_set, minari_root):
    path = minari_root / random_set / "data" / "main_data.hdf5"
    before = path.read_bytes()
    path.chmod(0o444)
    read_episodes(open_set(random_set), BOX)
    assert path.read_bytes() == before


def test_missing_message_names_the_way_to_get_the_set(random_set):
    assert "collect antmaze-umaze-diverse" in missing_message("edp/antmaze/umaze-diverse-v1")
    assert "did you mean tests/random-v0" in missing_message("tests/randm-v0")
    assert "huggingface-cli download farama-minari/D4RL" in missing_message("D4RL/antmaze/umaze-v1")


@pytest.mark.parametrize("data_format", ["arrow", "parquet"])
def test_other_formats_give_the_same_episodes(data_format, random_set):
    rng = np.random.default_rng(0)
    buffers = []
    for episode, steps in enumerate((4, 3, 5)):
        observations = np.stack([np.array([100.0 * episode + t, t]) for t in range(steps + 1)])
        buffers.append(make_buffer(episode, observations, rng.uniform(-1, 1, (steps, 1)), rng.normal(size=steps)))
    other = open_set(make_set("tests/other-v0", buffers, WIDE, data_format=data_format))
    assert len(other.files) == 4  # metadata and one file per episode
    for a, b in zip(read_episodes(other, BOX), read_episodes(open_set(random_set), BOX), strict=True):
        np.testing.assert_array_equal(a.observation, b.observation)
        np.testing.assert_array_equal(a.action, b.action)
        np.testing.assert_array_equal(a.reward, b.reward)
        np.testing.assert_array_equal(a.truncated, b.truncated)


@pytest.mark.parametrize("data_format", ["hdf5", "arrow"])
def test_stale_first_goal_of_reset_target_sets_is_mended(data_format):
    space = gym.spaces.Dict(dict.fromkeys(("observation", "achieved_goal", "desired_goal"), WIDE))
    goals = np.array([[9.0, 9.0], [1.0, 2.0], [1.0, 2.0]])  # as Minari's PointMaze sets are: row 0 is the last episode's goal
    observations = {"observation": np.zeros((3, 2)), "achieved_goal": np.zeros((3, 2)), "desired_goal": goals}
    buffer = make_buffer(0, observations, [[0.0], [0.0]], [0.0, 0.0])
    dataset = open_set(make_set("tests/stale-v0", [buffer], space, data_format=data_format))
    view = ObservationView("goal", ("observation", "desired_goal"))
    assert read_episodes(dataset, view)[0].observation[0, 2:].tolist() == [9, 9]
    spec = EnvSpec("PointMaze_UMaze-v3", entry_point="gymnasium_robotics.envs.maze.point_maze:PointMazeEnv")
    spec.kwargs["reset_target"] = True
    (mended,) = read_episodes(dataclasses.replace(dataset, spec=spec), view)
    assert mended.observation[:, 2:].tolist() == [[1, 2]] * 3


def test_arrow_without_its_package_names_the_extra(random_set, monkeypatch):
    make_set("tests/arrow-v0", [make_buffer(0, np.zeros((2, 2)), [[0.0]], [0.0])], WIDE, data_format="arrow")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(UserError, match=r"pip install 'minari\[arrow\]'"):
        read_episodes(open_set("tests/arrow-v0"), BOX)


def test_incomplete_copies_are_named(random_set, minari_root):
    damage(minari_root, random_set, lambda file: file.__delitem__("episode_1"))
    with pytest.raises(UserError, match=r"3 episodes, .* holds 2: an incomplete copy"):
        read_episodes(open_set(random_set), BOX)
    (minari_root / random_set / "data" / "main_data.hdf5").unlink()
    with pytest.raises(UserError, match="no hdf5 data"):
        open_set(random_set)


def test_truncated_arrow_file_is_named(minari_root):
    make_set("tests/cut-v0", [make_buffer(0, np.zeros((2, 2)), [[0.0]], [0.0])], WIDE, data_format="arrow")
    (path,) = (minari_root / "tests" / "cut-v0" / "data" / "0").glob("*.arrow")
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(UserError, match="truncated or not arrow"):
        read_episodes(open_set("tests/cut-v0"), BOX)
