"""D4RL's files: synthetic ones of the five published layouts, against the published rule for transitions."""

from dataclasses import dataclass

import h5py
import numpy as np
import pytest

from edp_lightning.data.datamodule import OfflineDataModule
from edp_lightning.data.sources.d4rl_catalogue import CATALOGUE, open_d4rl
from edp_lightning.errors import UserError


@dataclass
class Stream:
    """Rows of a file, as a dict of arrays, and the horizon that D4RL's environment has."""

    arrays: dict[str, np.ndarray]
    horizon: int


def stream(observation_dim, action_dim, lengths, ends, *, timeouts=True, horizon=1000, next_observations=False, extra=()):
    """Episodes one after the other; ``ends`` holds for each ``terminal``, ``limit`` or both as ``both``."""
    rng = np.random.default_rng(len(lengths))
    rows = sum(lengths)
    last = np.cumsum(lengths) - 1

    def marked(*kinds):
        return np.isin(np.arange(rows), [row for row, end in zip(last, ends, strict=True) if end in kinds])

    arrays = {
        "observations": rng.normal(size=(rows, observation_dim)),
        "actions": rng.uniform(-1, 1, (rows, action_dim)).astype(np.float32),
        "rewards": rng.normal(size=rows),
        "terminals": marked("terminal", "both"),
    }
    if timeouts:
        arrays["timeouts"] = marked("limit", "both")
    if next_observations:
        arrays["next_observations"] = np.concatenate([arrays["observations"][1:], rng.normal(size=(1, observation_dim))])
        arrays["next_observations"][last] = rng.normal(size=(len(last), observation_dim))
    for name, width in extra:
        arrays[f"infos/{name}"] = rng.normal(size=(rows, width))
    return Stream(arrays, horizon)


def antmaze():
    made = stream(29, 8, [30, 20, 25, 7], ["limit", "limit", "limit", "none"], extra=[("goal", 2), ("qpos", 15), ("qvel", 14)])
    made.arrays["observations"][:, :2] = np.cumsum(np.full((82, 2), 0.1), axis=0)
    made.arrays["terminals"][[12, 13, 14, 49, 60]] = True  # clusters of steps near the goal; the ant walks on
    made.arrays["rewards"] = made.arrays["terminals"].astype(np.float64)
    return made


def kitchen():
    """No timeouts: the time limit is counted, from 1 after a terminal; one limit falls on a terminal."""
    made = stream(60, 9, [300, 280, 100, 279, 40], ["terminal"] * 4 + ["none"], timeouts=False, horizon=280)
    made.arrays["observations"] = made.arrays["observations"].astype(np.float32)
    return made


FILES = {
    "hopper_medium-v2.hdf5": lambda: stream(
        11, 3, [10, 15, 4, 6, 9], ["terminal", "limit", "both", "terminal", "terminal"],
        next_observations=True, extra=[("qpos", 6), ("qvel", 6)],
    ),
    "walker2d_medium-v2.hdf5": lambda: stream(17, 6, [10, 15, 4], ["terminal", "limit", "none"], next_observations=True),
    "halfcheetah_medium-v2.hdf5": lambda: stream(17, 6, [10, 10], ["limit", "limit"], next_observations=True),
    "antmaze.hdf5": antmaze,
    "pen-human-v1.hdf5": lambda: stream(45, 24, [20, 31, 9], ["limit", "limit", "limit"], horizon=100),
    "kitchen_microwave_kettle_light_slider-v0.hdf5": kitchen,
    "maze2d-umaze-sparse-v1.hdf5": lambda: stream(4, 2, [12, 9, 30], ["limit", "limit", "none"], extra=[("goal", 2)]),
}  # fmt: skip


def write(path, made):
    with h5py.File(path, "w") as file:
        for name, array in made.arrays.items():
            file[name] = array
        if "next_observations" in made.arrays:
            file["metadata/algorithm"] = np.bytes_("SAC")
    return path


def published_rule(made):
    """The transitions that D4RL's documentation of ``qlearning_dataset`` defines, row by row."""
    a = {name: array for name, array in made.arrays.items() if not name.startswith("infos")}
    kept, counter = [], 0
    for row in range(len(a["rewards"]) - 1):  # the last row has no next one
        limit = a["timeouts"][row] if "timeouts" in a else counter == made.horizon - 1
        if limit:
            counter = 0
            continue
        kept.append(row)
        counter = 1 if a["terminals"][row] else counter + 1
    kept = np.array(kept)
    return {
        "observation": a["observations"][kept].astype(np.float32),
        "action": a["actions"][kept].astype(np.float32),
        "reward": a["rewards"][kept].astype(np.float32),
        "next_observation": a["observations"][kept + 1].astype(np.float32),
        "terminated": a["terminals"][kept].astype(np.float32),
    }


def table(path, **options):
    data = OfflineDataModule(f"d4rl:{path}", **options)
    data.prepare_data()
    data.setup("validate")
    return data


@pytest.mark.parametrize("name", list(FILES))
def test_transitions_equal_the_published_rule_bit_for_bit(name, tmp_path):
    made = FILES[name]()
    found = table(write(tmp_path / name, made)).transitions
    for column, expected in published_rule(made).items():
        np.testing.assert_array_equal(getattr(found, column).numpy(), expected, err_msg=column)


def test_kitchen_limits_are_counted_as_d4rl_counts_them():
    made = kitchen()
    dropped = set(range(len(made.arrays["rewards"]))) - set(_rows(made))
    # episode 0: row 279; then 19 more and the terminal; episode 1 starts counting at 1: its limit comes one row early
    assert {279, 300 + 278} <= dropped


def _rows(made):
    rule = published_rule(made)
    index = {row.tobytes(): i for i, row in enumerate(made.arrays["observations"].astype(np.float32))}
    return [index[row.tobytes()] for row in rule["observation"]]


def test_rows_at_time_limits_can_be_kept_with_their_true_next_observation(tmp_path):
    made = FILES["hopper_medium-v2.hdf5"]()
    path = write(tmp_path / "hopper_medium-v2.hdf5", made)
    rows = table(path, keep_time_limits=True).transitions
    np.testing.assert_array_equal(rows.next_observation.numpy(), made.arrays["next_observations"].astype(np.float32))
    np.testing.assert_array_equal(rows.terminated.numpy(), made.arrays["terminals"])
    with pytest.raises(UserError, match=r"keep_time_limits needs next_observations"):
        table(write(tmp_path / "pen.hdf5", FILES["pen-human-v1.hdf5"]()), keep_time_limits=True)


@pytest.mark.parametrize("n_step", [2, 5])
def test_n_step_windows_stay_inside_the_pieces(n_step, tmp_path):
    made = FILES["maze2d-umaze-sparse-v1.hdf5"]()
    made.arrays["observations"][:, 0] = np.arange(51)
    rows = table(write(tmp_path / "m.hdf5", made), n_step=n_step).transitions
    first, following = rows.observation[:, 0].numpy(), rows.next_observation[:, 0].numpy()
    np.testing.assert_array_equal(following - first, rows.steps)
    for limit in (11, 20):
        assert not ((first <= limit) & (following > limit)).any()


def test_timeouts_out_of_step_do_not_join_two_places(tmp_path, caplog):
    made = antmaze()
    made.arrays["observations"][40:, 0] += 21.0  # antmaze v0: the robot was put back between rows 39 and 40, no timeout there
    path = write(tmp_path / "v0.hdf5", made)
    source = open_d4rl(str(path))
    data = table(path)
    step = (data.transitions.next_observation - data.transitions.observation)[:, :2].norm(dim=1)
    assert step.max() < 1.5
    assert len(step) == len(published_rule(made)["reward"]) - 1
    source.episodes(None)
    assert "1 rows cut" in source.notes[0]


def test_near_the_goal_the_ant_walks_on(tmp_path):
    episodes = open_d4rl(str(write(tmp_path / "a.hdf5", antmaze()))).episodes(None)
    assert [len(e) for e in episodes] == [29, 19, 24, 6]  # terminals do not cut, limits and the end of the file drop a row
    assert [int(e.terminated.sum()) for e in episodes] == [3, 0, 1, 0]


ENVIRONMENTS = {
    "hopper_medium-v2.hdf5": "Hopper-v4",
    "walker2d_medium-v2.hdf5": "Walker2d-v4",
    "halfcheetah_medium-v2.hdf5": "HalfCheetah-v4",
    "pen-human-v1.hdf5": "AdroitHandPen-v1",
    "antmaze.hdf5": None,
    "maze2d-umaze-sparse-v1.hdf5": None,
    "kitchen_microwave_kettle_light_slider-v0.hdf5": None,
}


@pytest.mark.parametrize("name", list(ENVIRONMENTS))
def test_environment_is_inferred_only_without_doubt(name, tmp_path):
    data = table(write(tmp_path / name, FILES[name]()))
    if ENVIRONMENTS[name] is None:
        assert data.environment is None
        assert "Minari set" in data.no_environment
    else:
        assert data.environment.describe()["id"] == ENVIRONMENTS[name]
        assert data.environment.score_reference.origin.startswith("d4rl/infos.py")


def test_two_robots_of_the_same_widths_must_be_told_apart(tmp_path):
    path = write(tmp_path / "mine.hdf5", FILES["walker2d_medium-v2.hdf5"]())
    data = table(path)
    assert data.environment is None
    assert "HalfCheetah-v4 or Walker2d-v4" in data.no_environment
    assert table(path, environment="Walker2d-v4").environment.score_reference.maximum == 4592.3
    with pytest.raises(UserError, match=r"Hopper-v4 has observations of shape \(11,\).*data have \(17,\)"):
        table(path, environment="Hopper-v4")
    with pytest.raises(UserError, match="knows no 'Wlker2d-v4'"):
        table(path, environment="Wlker2d-v4")


def test_a_chosen_environment_decides_the_view(tmp_path):
    path = write(tmp_path / "a.hdf5", antmaze())
    with pytest.raises(UserError, match=r"shape \(31,\) through view goal, the data have \(29,\).*data.view"):
        table(path, environment="AntMaze_UMaze-v4")
    maze = [[1, 1, 1, 1, 1], [1, "g", 0, 0, 1], [1, 1, 1, 0, 1], [1, "r", 0, 0, 1], [1, 1, 1, 1, 1]]
    data = table(path, environment="AntMaze_UMaze-v4", environment_kwargs={"maze_map": maze}, view="d4rl")
    assert data.environment.fixed_goal == (-4.0, 4.0)
    np.testing.assert_array_equal(data.transitions.reward.numpy(), published_rule(antmaze())["reward"])  # not relabelled


def test_versions_of_an_environment_are_not_mixed(tmp_path):
    path = write(tmp_path / "walker2d_medium-v2.hdf5", FILES["walker2d_medium-v2.hdf5"]())
    with pytest.raises(UserError, match=r"collected in Walker2d-v4, but would be evaluated in Walker2d-v5"):
        table(path, environment="Walker2d-v5")


def test_published_names_are_looked_up_in_the_cache_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("D4RL_DATASET_DIR", str(tmp_path / "cache"))
    with pytest.raises(UserError, match=r"curl --create-dirs -o .*cache/hopper_medium-v2.hdf5 http://.*/gym_mujoco_v2/hopper_"):
        open_d4rl("hopper-medium-v2")
    with pytest.raises(UserError, match="did you mean hopper-medium"):
        open_d4rl("hopper-medum-v2")
    (tmp_path / "cache").mkdir()
    write(tmp_path / "cache" / "hopper_medium-v2.hdf5", FILES["hopper_medium-v2.hdf5"]())
    assert open_d4rl("hopper-medium-v2").spec.id == "Hopper-v4"
    assert len({entry.file for entry in CATALOGUE.values()}) == len(CATALOGUE) == 45


def broken(change):
    made = FILES["hopper_medium-v2.hdf5"]()
    change(made.arrays)
    return made


BREAKS = {
    r"rewards has shape \(44, 2\), expected \(rows,\)": lambda a: a.update(rewards=np.zeros((44, 2))),
    r"actions has shape \(43, 3\), expected 44 rows": lambda a: a.update(actions=a["actions"][1:]),
    r"timeouts has shape \(43,\), expected 44 rows": lambda a: a.update(timeouts=a["timeouts"][1:]),
    "the arrays are empty": lambda a: a.update({key: rows[:0] for key, rows in a.items()}),
    "no array terminals; .* this one has actions": lambda a: a.pop("terminals"),
    "observations hold NaN or infinite values .first in row 7": lambda a: a["observations"].__setitem__((7, 2), np.nan),
    "terminals must hold 0 and 1 only": lambda a: a.update(terminals=np.full(44, 3.0)),
    r"observations has shape \(44,\), expected \(rows, width\)": lambda a: a.update(observations=np.zeros(44)),
}


@pytest.mark.parametrize("message", list(BREAKS))
def test_damaged_files_are_named(message, tmp_path):
    path = write(tmp_path / "x.hdf5", broken(BREAKS[message]))
    with pytest.raises(UserError, match=f"x.hdf5.*{message}"):
        table(path)


def test_next_observations_have_a_row_per_step(tmp_path):
    path = write(tmp_path / "x.hdf5", broken(lambda a: a.update(next_observations=a["next_observations"][:-1])))
    with pytest.raises(UserError, match=r"next_observations has shape \(43, 11\), expected 44 rows"):
        table(path, keep_time_limits=True)


def test_files_of_another_kind_are_named(tmp_path, random_set, minari_root):
    path = write(tmp_path / "x.hdf5", FILES["hopper_medium-v2.hdf5"]())
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(UserError, match=r"x.hdf5 is truncated or not HDF5"):
        open_d4rl(str(path))
    with pytest.raises(UserError, match="file of a Minari set"):
        open_d4rl(str(minari_root / random_set / "data" / "main_data.hdf5"))
    made = antmaze()
    del made.arrays["timeouts"]
    with pytest.raises(UserError, match="no timeouts in the file"):
        table(write(tmp_path / "y.hdf5", made))


def test_a_part_that_cannot_be_read_is_one_message(tmp_path):
    """A compressed block that the disk has spoilt: the file opens, and reading fails later."""
    path = write(tmp_path / "a.hdf5", FILES["hopper_medium-v2.hdf5"]())
    with h5py.File(path, "r+") as file:
        rows = file["rewards"][()]
        del file["rewards"]
        file.create_dataset("rewards", data=np.resize(rows, len(rows)), chunks=(len(rows),), compression="gzip")
        block = file["rewards"].id.get_chunk_info(0)
    content = bytearray(path.read_bytes())
    content[block.byte_offset : block.byte_offset + block.size] = bytes(block.size)
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"a\.hdf5 is truncated or not HDF5"):
        OfflineDataModule(f"d4rl:{path}").setup("fit")
