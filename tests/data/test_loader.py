import itertools

import torch

from benchmarks.operators import Operators
from edp_lightning.data.loader import TransitionLoader
from edp_lightning.data.tables.table import TransitionTable
from edp_lightning.data.transitions import Batch


def table(rows=50):
    i = torch.arange(rows, dtype=torch.float32)
    return TransitionTable.from_batch(
        Batch(
            i[:, None].repeat(1, 3),
            -i[:, None],
            i,
            i[:, None].repeat(1, 3) + 1,
            i * 0,
            i * 0 + 1,
        )
    )


def take(loader, count):
    return list(itertools.islice(iter(loader), count))


def test_rows_stay_together():
    (batch,) = take(TransitionLoader(table(), 16, 10, seed=0), 1)
    assert batch.observation.shape == (16, 3)
    assert batch.reward.shape == (16,)
    torch.testing.assert_close(batch.next_observation, batch.observation + 1)
    torch.testing.assert_close(batch.action[:, 0], -batch.reward)


def test_ranks_share_out_the_global_batch():
    whole = take(TransitionLoader(table(), 8, 10, seed=0), 3)
    parts = [take(TransitionLoader(table(), 4, 10, seed=0, rank=r, world_size=2), 3) for r in range(2)]
    for k in range(3):
        merged = torch.stack([parts[0][k].reward, parts[1][k].reward], dim=1).flatten()
        torch.testing.assert_close(merged, whole[k].reward)


def test_position_is_the_whole_state():
    straight = TransitionLoader(table(), 8, 10, seed=0)
    expected = take(straight, 5)
    resumed = TransitionLoader(table(), 8, 10, seed=0, position=3)
    for a, b in zip(take(resumed, 2), expected[3:], strict=True):
        torch.testing.assert_close(a.reward, b.reward)
    assert resumed.position == straight.position == 5


def test_seeds_differ_and_draws_are_uniform():
    a, b = (torch.cat([x.reward for x in take(TransitionLoader(table(), 500, 10, seed=s), 20)]) for s in (0, 1))
    assert not torch.equal(a, b)
    counts = torch.bincount(a.long(), minlength=50)
    assert counts.min() > 140  # 200 expected each, standard deviation 14
    assert counts.max() < 260


def test_rows_of_a_table_that_stays_behind_travel_in_one_piece():
    """As those of a table that is too large for the GPU."""
    loader = TransitionLoader(table(), 16, 10, seed=0, device=torch.device("meta"))
    with Operators() as operators:
        (batch,) = take(loader, 1)
    assert [name for name, device, _ in operators.results if device == "meta" and "copy" in name] == ["_to_copy"]
    assert {column.device.type for column in batch} == {"meta"}
    assert batch.observation.shape == (16, 3)
