"""The table in one pass: equal to an independent construction, whatever it is written to."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from edp_lightning.data.card import make_card
from edp_lightning.data.tables.build import build_table
from edp_lightning.data.tables.cache import table_in_memory
from edp_lightning.data.tables.normalize import observation_statistics
from edp_lightning.data.tables.recipe import TableRecipe
from edp_lightning.data.tables.row_sinks import FileRows
from edp_lightning.data.transitions import Episode
from edp_lightning.errors import UserError


def random_episodes(lengths=(7, 1, 12, 5)):
    rng = np.random.default_rng(3)
    episodes = []
    for steps in lengths:
        truncated = np.zeros(steps, dtype=bool)
        truncated[-1] = True
        episodes.append(
            Episode(
                observation=rng.normal(50.0, 3.0, (steps + 1, 3)).astype(np.float32),
                action=rng.uniform(-2, 2, (steps, 2)).astype(np.float32),
                reward=rng.normal(size=steps).astype(np.float32),
                terminated=rng.random(steps) < 0.2,
                truncated=truncated,
            )
        )
    return episodes


RECIPE = TableRecipe(low=(-2.0, -2.0), high=(2.0, 2.0), reward_transform="standardize", n_step=3, discount=0.9)


def test_rows_equal_a_loop_over_episodes():
    episodes = random_episodes()
    rows = table_in_memory(lambda sink: build_table(episodes, RECIPE, sink))[0].columns
    every = np.concatenate([e.reward for e in episodes]).astype(np.float64)
    row = 0
    for e in episodes:
        for t in range(len(e)):
            k, total, ended = 0, 0.0, False
            while k < 3 and t + k < len(e) and not ended:
                total += 0.9**k * (float(e.reward[t + k]) - every.mean()) / every.std()
                ended = bool(e.terminated[t + k])
                k += 1
            np.testing.assert_array_equal(rows.observation[row], e.observation[t])
            np.testing.assert_array_equal(rows.next_observation[row], e.observation[t + k])
            np.testing.assert_allclose(rows.action[row], e.action[t] / 2, atol=1e-6)
            assert rows.reward[row].item() == pytest.approx(total, abs=1e-5)
            assert (rows.terminated[row].item(), rows.steps[row].item()) == (ended, k)
            row += 1
    assert row == len(rows.reward)


def test_chunks_of_actions_equal_a_loop_over_episodes():
    episodes = random_episodes()
    recipe = replace(RECIPE, action_chunk=2, action_clip_eps=0.1)
    table, facts = table_in_memory(lambda sink: build_table(episodes, recipe, sink))
    plain = table_in_memory(lambda sink: build_table(episodes, replace(recipe, action_chunk=1), sink))[0]
    rows, row, first = table.columns, 0, 0
    for e in episodes:
        scaled = np.clip(e.action / 2, -0.9, 0.9)
        for t in range(len(e)):
            if t + 1 == len(e) and not e.terminated[t]:
                continue  # cut: what would have been done next is not known
            if not e.terminated[t]:
                np.testing.assert_allclose(rows.action[row, 2:], scaled[t + 1], atol=1e-6)
            np.testing.assert_allclose(rows.action[row, :2], scaled[t], atol=1e-6)
            for name in ("observation", "next_observation", "reward", "terminated", "steps"):
                torch.testing.assert_close(getattr(rows, name)[row], getattr(plain.columns, name)[first + t])
            assert rows.steps[row] >= 2 or rows.terminated[row]
            row += 1
        first += len(e)
    assert row == len(table) == facts.rows == sum(facts.parts) < first
    assert table.action_dim == facts.action_dim == 4


def test_chunks_that_fit_into_no_episode_are_refused():
    episodes = [replace(e, terminated=np.zeros(len(e), dtype=bool)) for e in random_episodes((2, 1))]
    with pytest.raises(UserError, match=r"source 1 of 1 is shorter than data\.action_chunk 3"):
        table_in_memory(lambda sink: build_table(episodes, replace(RECIPE, action_chunk=3), sink))


def test_a_file_gets_the_same_rows_as_memory(tmp_path, monkeypatch):
    monkeypatch.setattr("edp_lightning.data.tables.build.CHUNK_BYTES", 200)  # several chunks, the last one short
    episodes = random_episodes()
    table, facts = table_in_memory(lambda sink: build_table(episodes, RECIPE, sink))
    with (tmp_path / "rows").open("w+b") as file:
        assert build_table(episodes, RECIPE, FileRows(file)) == facts
    assert (tmp_path / "rows").read_bytes() == table.rows.numpy().tobytes()


def test_facts_are_those_of_the_episodes(monkeypatch):
    monkeypatch.setattr("edp_lightning.data.tables.build.CHUNK_BYTES", 200)
    episodes = random_episodes()
    table, facts = table_in_memory(lambda sink: build_table(episodes, TableRecipe(low=(-2.0, -2.0), high=(2.0, 2.0)), sink))
    observation = table.columns.observation.double()
    np.testing.assert_allclose(facts.observation_mean, observation.mean(dim=0), rtol=1e-12)
    np.testing.assert_allclose(facts.observation_std, observation.std(dim=0), rtol=1e-9)
    assert facts.entry_mean == pytest.approx(observation.mean().item(), rel=1e-12)
    assert facts.entry_std == pytest.approx(observation.std().item(), rel=1e-9)
    assert (facts.rows, facts.episodes) == (25, 4)
    assert (facts.length.low, facts.length.high) == (1, 12)
    returns = [float(e.reward.sum(dtype=np.float64)) for e in episodes]
    assert facts.episode_return.mean == pytest.approx(np.mean(returns))
    assert facts.terminated_steps == sum(int(e.terminated.sum()) for e in episodes)
    assert facts.stored_reward.high == facts.reward.high == max(float(e.reward.max()) for e in episodes)
    assert "25" in dict(make_card("a/b-v0", "here", "box", facts, -2.0, 2.0).facts)["steps"]


@pytest.mark.parametrize("kind", ["none", "standard", "scalar"])
def test_normalisation_comes_from_the_facts(kind):
    table, facts = table_in_memory(lambda sink: build_table(random_episodes(), RECIPE, sink))
    mean, std = observation_statistics(facts, kind)
    normalised = (table.columns.observation - mean) / std
    if kind == "none":
        assert torch.equal(normalised, table.columns.observation)
    elif kind == "standard":
        torch.testing.assert_close(normalised.mean(dim=0), torch.zeros(3), atol=1e-4, rtol=0)
        torch.testing.assert_close(normalised.std(dim=0), torch.ones(3), atol=1e-3, rtol=0)
    else:
        assert mean.unique().numel() == 1
        assert normalised.std().item() == pytest.approx(1, abs=1e-4)
