"""Rows of collected episodes: those a dataset of the same episodes has, in the order of time, drawn with a share of a batch."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from edp_lightning.data.collected import CollectedEpisode, pack, unpack
from edp_lightning.data.loader import TransitionLoader
from edp_lightning.data.replay import ReplayBuffer, ReplayLoader
from edp_lightning.data.tables.build import build_table
from edp_lightning.data.tables.cache import table_in_memory
from edp_lightning.data.tables.recipe import TableRecipe
from edp_lightning.data.tables.rewards import RewardMap
from edp_lightning.data.tables.table import TransitionTable
from edp_lightning.data.transitions import Batch

RECIPE = TableRecipe(
    low=(-2.0, -2.0), high=(2.0, 2.0), reward_transform="affine", reward_shift=-1.0, reward_scale=3.0, n_step=3, discount=0.9
)
REWARD_MAP = RewardMap(-1.0, 3.0)


def play(lengths, recipe=RECIPE, **options):
    """Play episodes of given lengths in two environments; yields (buffer, episodes so far) after each step of both."""
    rng = np.random.default_rng(0)
    waiting, episodes, time = list(lengths), [], 0
    buffer = ReplayBuffer(recipe, REWARD_MAP, 3, 2 * recipe.action_chunk, sum(lengths), **options)

    def start(slot):
        episodes.append(CollectedEpisode(len(episodes), slot, time, [rng.normal(size=3).astype(np.float32)]))
        return episodes[-1], waiting.pop(0)

    running = [start(0), start(1)]
    while any(running):
        time += 1
        for slot, (episode, length) in [(slot, now) for slot, now in enumerate(running) if now]:
            over = len(episode) + 1 == length
            end = bool(over and length % 2)
            episode.add(rng.uniform(-2, 2, 2).astype(np.float32), rng.normal(size=3).astype(np.float32), rng.normal(), end)
            episode.over = over
            buffer.observe(episode)
            if over:
                running[slot] = start(slot) if waiting else None
        yield buffer, episodes


def rows_of(buffer):
    return buffer._rows[: buffer.added].numpy()


@pytest.mark.parametrize(
    "options", [{}, {"n_step": 1}, {"action_chunk": 2}, {"terminals": "reward"}, {"action_clip_eps": 0.1}], ids=str
)
def test_rows_are_those_of_a_dataset_of_the_same_episodes(options):
    recipe = replace(RECIPE, **options)
    *_, (buffer, episodes) = play([7, 4, 1, 12, 5, 2], recipe)
    table, _ = table_in_memory(lambda sink: build_table([e.episode() for e in episodes], recipe, sink))
    assert len(buffer) == len(table) > 15
    found, wanted = (set(map(bytes, rows)) for rows in (rows_of(buffer), table.rows.numpy()))
    assert found == wanted


def test_next_actions_are_those_of_a_dataset_of_the_same_episodes():
    *_, (buffer, episodes) = play([7, 4, 1, 12, 5, 2], successors=True)
    table, _ = table_in_memory(lambda sink: build_table([e.episode() for e in episodes], RECIPE, sink))
    wanted = table.gather_with_successors(torch.arange(len(table)))
    assert 5 < wanted.next_action_known.sum() < len(table)
    drawn = buffer.draw(500, torch.Generator().manual_seed(0), None)
    keys = {bytes(row): number for number, row in enumerate(table.rows.numpy())}
    where = torch.tensor([keys[bytes(row)] for row in TransitionTable.from_batch(Batch(*drawn[:6])).rows.numpy()])
    torch.testing.assert_close(drawn.next_action, wanted.next_action[where])
    torch.testing.assert_close(drawn.next_action_known, wanted.next_action_known[where])


@pytest.mark.parametrize("chunk", [1, 2])
def test_a_buffer_that_is_rebuilt_has_the_same_rows_in_the_same_places(chunk):
    """At every moment, so a resumed run draws what an uninterrupted one draws."""
    recipe = replace(RECIPE, action_chunk=chunk)
    seen = 0
    for buffer, episodes in play([9, 4, 1, 12, 5, 2], recipe, successors=True):
        again = ReplayBuffer(recipe, REWARD_MAP, 3, 2 * chunk, 50, successors=True)
        again.rebuild(unpack(pack(episodes)))
        np.testing.assert_array_equal(rows_of(again), rows_of(buffer))
        torch.testing.assert_close(again._following[: again.added], buffer._following[: buffer.added], rtol=0, atol=0)
        seen = max(seen, buffer.added)
    assert seen > 15


def test_a_step_is_drawn_from_as_soon_as_it_is_known():
    """n_step 3: the row of step t needs steps t to t + 2, and the action after them."""
    added = [buffer.added for buffer, _ in play([8, 8])]
    assert added == [0, 0, 0, 2, 4, 6, 8, 16]


def test_the_newest_rows_are_drawn_evenly():
    *_, (buffer, _) = play([20, 20], capacity=10)
    assert (buffer.added, len(buffer)) == (40, 10)
    drawn = buffer.draw(5000, torch.Generator().manual_seed(1), None).observation.numpy()
    newest = rows_of(buffer)[-10:, :3]
    counts = [(drawn == row).all(axis=1).sum() for row in newest]
    assert sum(counts) == 5000
    assert np.abs(np.array(counts) - 500).max() < 4 * np.sqrt(500)


def test_batches_are_the_datasets_first_rows_completed_from_the_buffer():
    rows = torch.randn(30, 3 + 2 + 1 + 3 + 1 + 1)
    table = TransitionTable(rows, 3, 2)
    steps = play([30, 30])
    buffer, _ = next(steps)
    plain, loader = TransitionLoader(table, 8, 5, 0), ReplayLoader(table, 8, 5, 0, buffer=buffer, buffer_rows=3)
    assert_same(loader.batch(0), plain.batch(0))  # nothing is known yet
    for _ in range(10):
        next(steps)
    early = loader.batch(1)
    assert_same(Batch(*(column[:5] for column in early)), Batch(*(column[:5] for column in plain.batch(1))))
    known = set(map(bytes, rows_of(buffer)[:, :3]))
    assert all(bytes(row) in known for row in early.observation[5:].numpy())
    for _ in steps:
        pass
    assert_same(loader.batch(1), early)  # a bad batch is looked at later
    assert_same(loader.batch(0), plain.batch(0))


def assert_same(a, b):
    for ours, theirs in zip(a, b, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=0)


def test_episodes_come_back_from_a_checkpoint(tmp_path):
    for _, now in play([7, 4, 1, 12]):
        episodes = now
    episodes[0].success = True
    torch.save(pack(episodes), tmp_path / "packed.pt")
    again = unpack(torch.load(tmp_path / "packed.pt", weights_only=True))
    assert [(e.seed, e.slot, e.begin, e.over, e.success, e.reward, e.terminated) for e in again] == [
        (e.seed, e.slot, e.begin, e.over, e.success, e.reward, e.terminated) for e in episodes
    ]
    for ours, theirs in zip(again, episodes, strict=True):
        np.testing.assert_array_equal(ours.observation, theirs.observation)
        np.testing.assert_array_equal(ours.action, theirs.action)
