import numpy as np
import pytest

from edp_lightning.data.datamodule import OfflineDataModule
from edp_lightning.data.sources.arrays import array_source, open_npz
from edp_lightning.errors import UserError


def log(next_observations=True):
    """Two episodes: three steps that end, four that are cut; observations count."""
    arrays = {
        "observations": np.array([0, 1, 2, 10, 11, 12, 13], dtype=np.float32)[:, None],
        "actions": np.linspace(-1, 1, 7, dtype=np.float32)[:, None],
        "rewards": np.arange(7.0),
        "terminated": np.array([0, 0, 1, 0, 0, 0, 0], dtype=bool),
        "truncated": np.array([0, 0, 0, 0, 0, 0, 1], dtype=bool),
    }
    if next_observations:
        arrays["next_observations"] = np.array([1, 2, 3, 11, 12, 13, 14], dtype=np.float32)[:, None]
    return arrays


def rows(arrays, **options):
    data = OfflineDataModule.from_arrays(arrays, name="robot", **options)
    data.prepare_data()
    data.setup("validate")
    return data.transitions


def test_every_step_becomes_a_row():
    table = rows(log())
    assert table.next_observation.squeeze(1).tolist() == [1, 2, 3, 11, 12, 13, 14]
    assert table.terminated.tolist() == [0, 0, 1, 0, 0, 0, 0]


def test_without_next_observations_the_step_before_a_cut_is_dropped():
    table = rows(log(next_observations=False))
    assert table.observation.squeeze(1).tolist() == [0, 1, 2, 10, 11, 12]  # where 13 led to is unknown
    assert table.next_observation.squeeze(1).tolist() == [1, 2, 2, 11, 12, 13]
    assert table.terminated.tolist() == [0, 0, 1, 0, 0, 0]


def test_a_recording_that_stops_without_an_end_is_cut_there():
    arrays = log()
    arrays["truncated"][-1] = False
    assert rows(arrays).next_observation[-1].item() == 14


def test_npz_and_object_give_the_same(tmp_path):
    np.savez(tmp_path / "log.npz", **log())
    data = OfflineDataModule(f"npz:{tmp_path / 'log.npz'}")
    data.prepare_data()
    data.setup("validate")
    for a, b in zip(data.transitions, rows(log()), strict=True):
        np.testing.assert_array_equal(a.numpy(), b.numpy())


def test_action_bounds_are_the_robots():
    arrays = log() | {"actions": np.linspace(0, 50, 7)[:, None]}
    with pytest.raises(UserError, match=r"6 actions lie outside .*first in row 1.; store the bounds"):
        rows(arrays)
    table = rows(arrays | {"action_low": np.array([0.0]), "action_high": np.array([50.0])})
    assert table.action[[0, -1], 0].tolist() == [-1, 1]


BREAKS = {
    "no truncated; it has .*both are needed": lambda a: a.pop("truncated"),
    "no rewards": lambda a: a.pop("rewards"),
    r"actions has shape \(6, 1\), expected 7 rows": lambda a: a.update(actions=a["actions"][1:]),
    r"observations has shape \(7,\), expected \(rows, width\)": lambda a: a.update(observations=np.zeros(7)),
    "rewards hold NaN or infinite values .first in row 3": lambda a: a["rewards"].__setitem__(3, np.inf),
    "terminated must hold 0 and 1 only": lambda a: a.update(terminated=np.full(7, 0.5)),
    "actions are not numbers": lambda a: a.update(actions=np.array([["left"]] * 7)),
    r"action_low has shape \(2,\), expected \(1,\)": lambda a: a.update(action_low=np.zeros(2)),
    "action_low must be below": lambda a: a.update(action_low=np.ones(1)),
    "the arrays are empty": lambda a: a.update({k: v[:0] for k, v in a.items()}),
    "next_observations of row 4 is not the observation of row 5": lambda a: a["observations"].__setitem__(5, 99),
}


@pytest.mark.parametrize("message", list(BREAKS))
def test_faults_are_named(message):
    arrays = log()
    BREAKS[message](arrays)
    with pytest.raises(UserError, match=f"robot: .*{message}"):
        array_source("robot", arrays)


def test_files_of_another_kind_are_named(tmp_path):
    with pytest.raises(UserError, match="does not exist"):
        open_npz(tmp_path / "none.npz")
    (tmp_path / "text.npz").write_text("hello")
    with pytest.raises(UserError, match=r"text.npz is truncated or no .npz"):
        open_npz(tmp_path / "text.npz")
    np.savez(tmp_path / "whole.npz", **log())
    (tmp_path / "cut.npz").write_bytes((tmp_path / "whole.npz").read_bytes()[:700])
    with pytest.raises(UserError, match=r"cut.npz is truncated"):
        open_npz(tmp_path / "cut.npz")
    np.save(tmp_path / "robot.npy", np.zeros(3))
    with pytest.raises(UserError, match=r"robot.npy is truncated or no .npz"):
        open_npz(tmp_path / "robot.npy")
    np.savez_compressed(tmp_path / "packed.npz", **log())
    damaged = bytearray((tmp_path / "packed.npz").read_bytes())
    damaged[60:90] = b"x" * 30
    (tmp_path / "packed.npz").write_bytes(damaged)
    with pytest.raises(UserError, match=r"packed.npz is truncated"):
        open_npz(tmp_path / "packed.npz")
    np.savez(tmp_path / "objects.npz", **(log() | {"rewards": np.array([{}] * 7)}))
    with pytest.raises(UserError, match=r"objects.npz is truncated or no .npz file of plain arrays"):
        open_npz(tmp_path / "objects.npz")
