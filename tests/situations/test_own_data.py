"""Datasets as people record them: images, dictionaries, clocks, counters, boxes without bounds, files in use."""

import fcntl
import inspect
import pwd

import gymnasium as gym
import h5py
import numpy as np
import pytest
from minari import create_dataset_from_buffers

from edp_lightning.cli import main
from edp_lightning.data.datamodule import OfflineDataModule
from edp_lightning.errors import UserError
from tests.conftest import make_set
from tests.data.sources.test_d4rl import FILES, write
from tests.situations.sets import Pair, data, episode, listening, read, robot_log, saved

IMAGE = gym.spaces.Box(0, 255, (32, 32, 3), np.uint8)
STATE = gym.spaces.Box(-9, 9, (2,), np.float64)


def facts(module):
    return dict(module.card.facts)


def images(rows):
    return np.zeros((rows, 32, 32, 3), np.uint8)  # their JPEG files have equal length


STORES_BYTES = pytest.mark.skipif(
    "jpeg_encoding" not in inspect.signature(create_dataset_from_buffers).parameters,
    reason="Minari before 0.5.4 stores every box of bytes with three axes as JPEG files",
)


@STORES_BYTES
@pytest.mark.parametrize("jpeg_encoding", [True, False])
def test_declared_images_are_never_read_as_numbers(jpeg_encoding):
    make_set("tests/image-v0", [episode(images(4), 3)], IMAGE, jpeg_encoding=jpeg_encoding)
    with pytest.raises(UserError, match=r"tests/image-v0.*is an image .*store features"):
        read(OfflineDataModule("tests/image-v0"))


def test_an_image_among_other_things_can_be_left_out():
    both = {"camera": images(4), "state": np.arange(8.0).reshape(4, 2)}
    make_set("tests/both-v0", [episode(both, 3)], gym.spaces.Dict({"camera": IMAGE, "state": STATE}))
    with pytest.raises(UserError, match=r"camera is an image .*leave it out with data.view: state"):
        read(OfflineDataModule("tests/both-v0"))
    module = read(OfflineDataModule("tests/both-v0", view="state"))
    assert module.transitions.observation.tolist() == [[0, 1], [2, 3], [4, 5]]
    with pytest.raises(UserError, match="no view 'stat': choose one of keys with commas between, of camera, state"):
        read(OfflineDataModule("tests/both-v0", view="stat"))


@STORES_BYTES
def test_small_boxes_of_bytes_are_numbers():
    grid = np.arange(2 * 147, dtype=np.uint8).reshape(2, 7, 7, 3)
    make_set("tests/grid-v0", [episode(grid, 1)], gym.spaces.Box(0, 255, (7, 7, 3), np.uint8))
    assert read(OfflineDataModule("tests/grid-v0")).transitions.observation[0].tolist() == list(range(147))


def test_a_stored_array_that_does_not_fit_the_declared_space_is_refused(minari_root):
    make_set("tests/wide-v0", [episode(np.zeros((4, 2)), 3)], STATE)
    with h5py.File(minari_root / "tests/wide-v0/data/main_data.hdf5", "a") as file:
        del file["episode_0/observations"]
        file["episode_0/observations"] = np.zeros((4, 700), np.uint8)
    with pytest.raises(UserError, match=r"wide-v0, episode 0: .*has shape \(700,\), its space says \(2,\)"):
        read(OfflineDataModule("tests/wide-v0"))


def looks(steps):
    rows = [Pair.look(step) for step in range(steps + 1)]
    return {key: np.stack([row[key] for row in rows]) for key in rows[0]}


@pytest.mark.parametrize("data_format", ["hdf5", "arrow"])
def test_everything_in_a_dict_is_seen_in_the_spaces_order(data_format):
    make_set("tests/pair-v0", [episode(looks(3), 3)], Pair.observation_space, data_format=data_format)
    module = read(OfflineDataModule("tests/pair-v0", environment="tests/Pair-v0"))
    # at, gear (one-hot), speed: Minari's file keeps the keys in alphabetical order
    assert module.transitions.observation.tolist() == [
        [0, 1, 0, 0, 0, 0.5],
        [-1, 0, 1, 0, 1, 1.5],
        [-2, 0, 0, 1, 2, 2.5],
    ]
    env = module.environment.make()
    seen = [env.reset(seed=0)[0], *(env.step(np.zeros(1))[0] for _ in range(2))]
    env.close()
    np.testing.assert_array_equal(seen, module.transitions.observation)
    assert facts(module)["observation, action"] == "6 (view all), 1"


@pytest.mark.parametrize("data_format", ["hdf5", "arrow"])
def test_tuples_have_indices_for_keys(data_format):
    space = gym.spaces.Tuple((STATE, gym.spaces.Tuple((gym.spaces.Box(-9, 9, (1,), np.float64), gym.spaces.MultiBinary(2)))))
    observations = (np.full((3, 2), 4.0), (np.full((3, 1), 5.0), np.tile(np.array([1, 0], np.int8), (3, 1))))
    make_set("tests/tuple-v0", [episode(observations, 2)], space, data_format=data_format)
    assert read(OfflineDataModule("tests/tuple-v0")).transitions.observation[0].tolist() == [4, 4, 5, 1, 0]
    assert read(OfflineDataModule("tests/tuple-v0", view="1,0")).transitions.observation[0].tolist() == [5, 1, 0, 4, 4]


def test_flat_arrays_take_the_order_of_a_dict_environment():
    arrays = robot_log()
    arrays |= {key: np.resize(arrays[key], (40, 6)) for key in ("observations", "next_observations")}
    arrays["next_observations"][:-1] = arrays["observations"][1:]
    module = read(data(arrays, environment="tests/Pair-v0"))
    env = module.environment.make()
    assert env.reset(seed=0)[0].tolist() == [0, 0.5, 1, 0, 0, 0]  # speed, gear, at
    env.close()
    arrays |= {key: arrays[key][:, :3] for key in ("observations", "next_observations")}
    env = read(data(arrays, environment="tests/Pair-v0", view="at,speed")).environment.make()
    assert env.reset(seed=0)[0].tolist() == [0, 0, 0.5]
    env.close()


def clock(offset, per_step=0.02):
    """Observations: a clock, a value that never changes, one that an idle object drifts by, and a joint."""
    steps, rng = np.arange(101.0), np.random.default_rng(0)
    idle = 0.7 + np.where(steps < 50, 1e-12, 0.4) * rng.normal(size=101)
    return np.stack([offset + per_step * steps, np.full(101, 2.5), idle, rng.normal(size=101)], axis=1)


@pytest.mark.parametrize("offset", [1.7e9, 0.0])
@pytest.mark.parametrize("source", ["npz", "minari", "counts"])
def test_columns_that_float32_cannot_hold_are_named(offset, source):
    values = clock(offset)
    if source == "counts":
        values = (values * 1e3).astype(np.int64)
    arrays = robot_log(rows=100) | {"observations": values[:-1], "next_observations": values[1:]}
    if source == "minari":
        make_set("tests/clock-v0", [episode(values, 100)], gym.spaces.Box(-np.inf, np.inf, (4,), np.float64))
        module = read(OfflineDataModule("tests/clock-v0"))
    else:
        module = read(data(arrays))
    found = facts(module)
    if offset:
        assert len(set(module.transitions.observation[:, 0].tolist())) <= 16  # of 100
        assert found["observation columns too fine for float32"].startswith("0: up to ")
    else:
        assert "observation columns too fine for float32" not in found
    constant = set(found["observation columns that never change"].partition(" of ")[0].replace("-", ", ").split(", "))
    assert "1" in constant
    assert constant <= {"0", "1"}


def test_fit_says_what_to_do_about_lost_columns():
    values = clock(1.7e9)
    arrays = robot_log(rows=100) | {"observations": values[:-1], "next_observations": values[1:]}
    module = data(arrays)
    with pytest.warns(UserWarning, match="columns 0 .*Store each less its first value of the episode"):
        module.setup("fit")


def unbounded(actions):
    box = gym.spaces.Box(-np.inf, np.inf, (2,))
    make_set("tests/free-v0", [episode(np.zeros((len(actions) + 1, 2)), len(actions), actions)], STATE, box)
    return "tests/free-v0"


def test_a_box_without_bounds_gets_them_from_the_user_or_the_data():
    name = unbounded([[0.0, 10.0], [4.0, 30.0], [2.0, 20.0]])
    with pytest.raises(
        UserError, match=r"no bounds .*component 0: -inf to inf.*data\.action_low and data\.action_high .*or both to data"
    ):
        read(OfflineDataModule(name))
    given = read(OfflineDataModule(name, action_low=0.0, action_high=[4.0, 40.0]))
    assert given.transitions.action.tolist() == [[-1.0, -0.5], [1.0, 0.5], [0.0, 0.0]]
    assert facts(given)["action box given by"] == "data.action_low and data.action_high"
    reached = read(OfflineDataModule(name, action_low="data", action_high="data"))
    np.testing.assert_allclose(reached.action_low, [-0.2, 9.0], rtol=1e-6)  # 5 % of the range beyond it
    np.testing.assert_allclose(reached.action_high, [4.2, 31.0], rtol=1e-6)
    np.testing.assert_allclose(reached.transitions.action[:, 0], [-1 / 1.1, 1 / 1.1, 0], atol=1e-6)
    with pytest.raises(UserError, match=r"data\.action_low has 3 numbers, actions have 2"):
        read(OfflineDataModule(name, action_low=[0.0, 0.0, 0.0], action_high=1.0))
    still = read(OfflineDataModule(unbounded_constant(), action_low="data", action_high="data"))
    assert still.action_low.item() < 1.0 < still.action_high.item()  # a component that never moves needs room all the same
    assert still.transitions.action.flatten().tolist() == pytest.approx([0.0, 0.0], abs=1e-6)
    ends = float(np.finfo(np.float32).max)
    with pytest.raises(UserError, match="none with room between them"):
        read(OfflineDataModule(name, action_low=-ends, action_high=ends))


def unbounded_constant():
    box = gym.spaces.Box(-np.inf, np.inf, (1,))
    make_set("tests/still-v0", [episode(np.zeros((3, 2)), 2, [[1.0], [1.0]])], STATE, box)
    return "tests/still-v0"


def test_bounds_are_options_of_the_command_line(capsys):
    name = unbounded([[0.0, 10.0], [4.0, 30.0]])
    main(["data", "show", name, "--action_low=data", "--action_high=[4.5,31]"])
    assert "-1" in capsys.readouterr().out


def test_bounds_win_over_those_of_the_file(tmp_path):
    arrays = robot_log() | {"action_low": np.array([-0.5]), "action_high": np.array([0.5])}
    with pytest.raises(UserError, match=r"actions lie outside .*or set data.action_low and data.action_high"):
        read(data(arrays))
    assert read(data(arrays, action_low=-1.0, action_high=1.0)).transitions.action.abs().max() > 0.9


def test_a_mixture_of_different_boxes_can_be_given_one(tmp_path):
    first, second = saved(tmp_path / "a.npz"), saved(tmp_path / "b.npz", bound=2.0)
    with pytest.raises(UserError, match=r"different action boxes; .*set data.action_low and data.action_high"):
        read(OfflineDataModule(first, mixture={second: 0.5}))
    module = read(OfflineDataModule(first, mixture={second: 0.5}, action_low=-2.0, action_high=2.0))
    assert module.transitions.action[:40].abs().max() <= 0.5
    assert module.transitions.action[40:].abs().max() > 0.9


def test_clipped_actions_are_counted_and_said(caplog):
    actions = np.linspace(-0.9, 0.9, 20)[:, None]
    actions[[3, 8]] = 1.5
    make_set("tests/over-v0", [episode(np.zeros((21, 2)), 20, actions)], STATE)
    module = OfflineDataModule("tests/over-v0")
    with listening(caplog) as said:
        module.setup("fit")
        assert "10.00% of the actions of tests/over-v0 lie outside its action box and are clipped" in said()
    assert facts(module)["actions outside the box, clipped to it"] == "10.00% of steps"
    assert module.transitions.action.max() == 1.0


def test_whole_actions_are_said(tmp_path):
    box = gym.spaces.Box(-3, 3, (1,), np.int64)
    make_set("tests/gears-v0", [episode(np.zeros((4, 2)), 3, [[-3], [0], [3]])], STATE, box)
    module = read(OfflineDataModule("tests/gears-v0"))
    assert module.transitions.action.flatten().tolist() == [-1, 0, 1]
    assert facts(module)["actions"].startswith("whole numbers: an evaluation rounds")


@pytest.mark.parametrize("kind", ["minari", "d4rl"])
def test_a_file_in_use_is_called_locked(kind, random_set, minari_root, tmp_path):
    if kind == "minari":
        name, path = random_set, minari_root / random_set / "data" / "main_data.hdf5"
    else:
        path = write(tmp_path / "hopper_medium-v2.hdf5", FILES["hopper_medium-v2.hdf5"]())
        name = f"d4rl:{path}"
    with path.open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(UserError, match="is locked: another program has it open for writing"):
            read(OfflineDataModule(name))
    read(OfflineDataModule(name))


def test_a_folder_for_sets_that_cannot_be_made_is_named_before_anything_is_collected(tmp_path, monkeypatch, capsys):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "file" / "sets"))
    for command in (["collect", "toy", "--steps=200"], ["data", "convert", saved(tmp_path / "a.npz"), "mine/a-v0"]):
        with pytest.raises(SystemExit):
            main(command)
        message = capsys.readouterr()
        assert "MINARI_DATASETS_PATH chooses another folder" in message.err
        assert "200/200" not in message.out
    with pytest.raises(SystemExit):
        main(["data", "show", "D4RL/pen/human-v2"])
    assert "is not on this machine (looked in" in capsys.readouterr().err


def test_asking_for_a_missing_set_makes_no_folder(minari_root):
    with pytest.raises(UserError, match="not on this machine"):
        OfflineDataModule("D4RL/pen/human-v2").prepare_data()
    assert not minari_root.exists()


def test_a_user_without_a_home_folder_is_told_which_variable_to_set(monkeypatch, tmp_path, random_set):
    def nobody(uid):
        raise KeyError(uid)

    monkeypatch.setattr(pwd, "getpwuid", nobody)
    for name in ("HOME", "EDP_LIGHTNING_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(UserError, match="no home folder: set EDP_LIGHTNING_CACHE"):
        read(OfflineDataModule(random_set))
    read(OfflineDataModule(random_set, cache=False))
    monkeypatch.delenv("MINARI_DATASETS_PATH")
    with pytest.raises(UserError, match="no home folder: set MINARI_DATASETS_PATH"):
        OfflineDataModule(random_set).prepare_data()
