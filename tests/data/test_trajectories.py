"""Windows of trajectories: where they end, what is still to be earned, how they are drawn, and that no row is copied."""

import numpy as np
import pytest
import torch

from edp_lightning.data.datamodule import OfflineDataModule
from edp_lightning.data.loader import TransitionLoader
from edp_lightning.data.tables.table import TransitionTable
from edp_lightning.data.trajectories import Trajectories
from edp_lightning.data.transitions import Batch, WindowBatch
from edp_lightning.errors import UserError

LENGTHS = (5, 1, 3, 7)


def arrays(lengths=LENGTHS, terminated=()):
    """Episodes that all begin and end at 0: their borders show nowhere in the observations."""
    steps = sum(lengths)
    ends = np.zeros(steps, dtype=bool)
    ends[np.cumsum(lengths) - 1] = True
    observation = np.concatenate([np.minimum(np.arange(n), 1) for n in lengths]).astype(float)
    after = np.where(ends, 0.0, np.append(observation[1:], 0.0))
    task_ends = np.isin(np.arange(steps), terminated)
    return {
        "observations": observation[:, None],
        "next_observations": after[:, None],
        "actions": np.linspace(-0.9, 0.9, steps)[:, None],
        "rewards": 10.0 ** np.arange(steps) % 97,
        "terminated": task_ends,
        "truncated": ends & ~task_ends,
    }


def module(options=None, **kwargs):
    data = OfflineDataModule.from_arrays(arrays(**kwargs), **(options or {}))
    data.setup("fit")
    return data


def test_windows_end_with_their_episode_and_are_padded_behind():
    data = module()
    assert data.facts.episode_rows == LENGTHS
    batch = data.trajectories().windows(4)(torch.arange(16))
    table, start = arrays(), 0
    for length in LENGTHS:
        for t in range(length):
            row, real = start + t, min(4, length - t)
            assert batch.mask[row].tolist() == [1.0] * real + [0.0] * (4 - real)
            assert batch.timestep[row].tolist() == [*range(t, t + real), *[0] * (4 - real)]
            rest = [table["rewards"][row + k : start + length].sum() for k in range(real)]
            assert batch.return_to_go[row].tolist() == pytest.approx([*rest, *[0.0] * (4 - real)])
            for name, found in (("observations", batch.observation), ("actions", batch.action)):
                expected = [*table[name][row : row + real, 0], *[0.0] * (4 - real)]
                assert found[row, :, 0].tolist() == pytest.approx(expected)
        start += length
    assert data.trajectories().longest == 7
    assert data.trajectories().largest_return == max(np.add.reduceat(table["rewards"], np.cumsum((0, *LENGTHS[:-1]))))


def test_a_step_that_ends_the_task_ends_the_trajectory_and_the_next_one_begins_behind_it():
    """As in D4RL's AntMaze, whose recordings go on behind the goal."""
    found = module(terminated=[2, 8]).trajectories()
    assert found.first.tolist() == [0] * 3 + [3] * 2 + [5] + [6] * 3 + [9] * 7
    rewards = arrays()["rewards"]
    assert found.return_to_go[[0, 3]].tolist() == [rewards[:3].sum(), rewards[3:5].sum()]


def test_trajectories_are_drawn_by_their_length_with_a_uniform_start():
    data = module()
    loader = TransitionLoader(data.table, 4000, 10, seed=1, gather=data.trajectories().windows(3))
    batch = loader.batch(0)
    assert isinstance(batch, WindowBatch)
    first = torch.bincount(((batch.action[:, 0, 0] + 0.9) / 1.8 * 15).round().long(), minlength=16)
    assert first.min() > 190  # 250 expected of each row, standard deviation 15
    assert first.max() < 310


def test_two_ranks_and_a_resumed_run_see_what_one_run_sees():
    data = module()
    gather = data.trajectories().windows(3)
    whole = TransitionLoader(data.table, 8, 10, seed=0, gather=gather)
    parts = [TransitionLoader(data.table, 4, 10, seed=0, position=2, rank=r, world_size=2, gather=gather) for r in range(2)]
    expected = whole.batch(2)
    halves = [next(iter(part)) for part in parts]
    for name, column in expected._asdict().items():
        assert torch.equal(torch.stack([getattr(h, name) for h in halves], 1).flatten(0, 1), column), name


def test_windows_travel_to_the_device_they_are_wanted_on():
    data = module()
    batch = data.trajectories().windows(3)(torch.arange(4), torch.device("meta"))
    assert {column.device.type for column in batch} == {"meta"}
    assert batch.observation.shape == (4, 3, 1)


def test_sums_of_a_long_table_stay_exact():
    rows, episode = 200_000, 100
    reward = torch.full((rows,), 1e4)
    reward[-episode:] = 0.1
    zeros = torch.zeros(rows, 1)
    table = TransitionTable.from_batch(Batch(zeros, zeros, reward, zeros, zeros[:, 0], zeros[:, 0] + 1))
    found = Trajectories(table, [episode] * (rows // episode))
    assert found.return_to_go[-episode:].tolist() == pytest.approx([0.1 * k for k in range(episode, 0, -1)], rel=1e-5)
    assert found.return_to_go.untyped_storage().data_ptr() != table.rows.untyped_storage().data_ptr()


def test_windows_are_read_from_the_one_cached_table(random_set, tmp_path):
    found = []
    for _ in range(2):
        data = OfflineDataModule(random_set)
        data.setup("fit")
        found.append(data.trajectories().windows(2)(torch.arange(12)))
        assert data.trajectories().first.tolist() == [0] * 4 + [4] * 3 + [7] * 5
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))
    assert len(list((tmp_path / "cache" / "tables").glob("*.table"))) == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_step": 3}, "data.n_step 1; got 3"),
        ({"n_step": 2, "action_chunk": 2}, "data.action_chunk 1; got 2"),
        ({"reward_transform": "standardize"}, "data.reward_transform none; got standardize"),
    ],
)
def test_rows_that_are_no_single_steps_are_refused(options, message):
    with pytest.raises(UserError, match=message):
        module(options).trajectories()


def test_a_mixture_is_refused(random_set):
    data = OfflineDataModule(random_set, mixture={random_set.replace("random", "other"): 0.5})
    with pytest.raises(UserError, match=r"leave data\.mixture out"):
        data.trajectories()
