"""Several sources in one table, drawn from by weight."""

import gymnasium as gym
import numpy as np
import pytest
import torch

from edp_lightning.data.datamodule import OfflineDataModule
from edp_lightning.errors import UserError
from tests.conftest import make_buffer, make_set
from tests.data.sources.test_arrays import log


@pytest.fixture
def large_set(random_set):
    """A second set with far more rows; its observations are above 10,000."""
    buffers = [make_buffer(i, np.full((21, 2), 10_000.0 + i), np.zeros((20, 1)), np.ones(20)) for i in range(20)]
    return make_set("tests/large-v0", buffers)


def module(dataset, **options):
    data = OfflineDataModule(dataset, cache=False, batch_size=256, **options)
    data.prepare_data()
    data.setup("validate")
    return data


def test_batches_hold_the_sources_in_the_chosen_proportion(random_set, large_set):
    data = module(random_set, mixture={large_set: 0.3})
    loader = data.train_dataloader()
    rows = torch.cat([loader.batch(k).observation[:, 0] for k in range(40)])
    share = float((rows >= 10_000).float().mean())
    assert share == pytest.approx(0.3, abs=0.02)  # 400 of 412 rows; the standard deviation is 0.0045
    values, counts = torch.unique(rows[rows < 10_000], return_counts=True)
    assert len(values) == 12  # every row of the small set, equally often
    assert counts.min() > 0.8 * counts.float().mean()
    assert data.facts.parts == (12, 400)
    assert "30% of a batch from 400 rows" in dict(data.card.facts)["mixture"]


def test_ranks_share_out_the_mixed_batch_and_a_position_is_the_whole_state(random_set, large_set):
    from edp_lightning.data.loader import TransitionLoader

    data = module(random_set, mixture={large_set: 0.5})
    parts = [(12, 0.5), (400, 0.5)]
    whole = TransitionLoader(data.table, 8, 10, seed=0, parts=parts).batch(7)
    halves = [TransitionLoader(data.table, 4, 10, seed=0, rank=r, world_size=2, parts=parts).batch(7) for r in range(2)]
    torch.testing.assert_close(torch.stack([h.observation for h in halves], dim=1).flatten(0, 1), whole.observation)
    again = TransitionLoader(data.table, 8, 10, seed=0, position=7, parts=parts)
    torch.testing.assert_close(next(iter(again)).observation, whole.observation)


def test_rewards_are_transformed_over_all_sources_together(random_set, large_set):
    data = module(random_set, mixture={large_set: 0.5}, reward_transform="standardize")
    reward = data.transitions.reward.double()
    assert float(reward.mean()) == pytest.approx(0, abs=1e-5)
    assert float(reward.std(unbiased=False)) == pytest.approx(1, abs=1e-5)


def test_arrays_and_sets_mix(random_set):
    arrays = log() | {"observations": np.zeros((7, 2)), "next_observations": np.zeros((7, 2))}
    data = OfflineDataModule.from_arrays(arrays, cache=False, mixture={random_set: 0.5})
    data.setup("validate")
    assert data.facts.parts == (7, 12)


@pytest.mark.parametrize(
    ("mixture", "message"),
    [
        ({"tests/large-v0": 1.5}, "between 0 and 1; got 1.5"),
        ({"tests/large-v0": 0.5, "tests/other-v0": 0.5}, "leaves nothing for tests/random-v0"),
        ({"a/b-v0": 0.7, "a/c-v0": 0.2, "a/d-v0": 0.1}, "add up to 1, which leaves nothing"),  # 1 - sum is 1e-16
        ({"tests/random-v0": 0.5}, r"is data\.dataset already"),
    ],
)
def test_wrong_probabilities_are_named(mixture, message):
    with pytest.raises(UserError, match=message):
        OfflineDataModule("tests/random-v0", mixture=mixture)


def test_sources_of_different_tasks_are_refused(random_set):
    wide = make_set("tests/wide-v0", [make_buffer(0, np.zeros((3, 4)), np.zeros((2, 1)), [0.0, 0.0])], _box(4))
    with pytest.raises(UserError, match=r"tests/wide-v0 has observations and actions of widths \(4, 1\)"):
        module(random_set, mixture={wide: 0.5})
    arms = make_set("tests/arms-v0", [make_buffer(0, np.zeros((3, 2)), np.zeros((2, 2)), [0.0, 0.0])], None, _box(2, 1.0))
    with pytest.raises(UserError, match="different action boxes"):
        module(random_set, mixture={arms: 0.5})
    with pytest.raises(UserError, match="tests/none-v0 is not on this machine"):
        module(random_set, mixture={"tests/none-v0": 0.5})


def _box(width, bound=np.inf):
    import gymnasium as gym

    return gym.spaces.Box(-bound, bound, (width,))


def test_a_run_on_a_mixture(random_set, large_set, command):
    folder = command("fit", "--trainer.max_steps=5", f'--data.mixture={{"{large_set}": 0.25}}', dataset=random_set)
    assert (folder / "checkpoints" / "last.ckpt").is_file()
    assert f"{large_set}: 0.25" in (folder / "config.yaml").read_text()


def test_one_bound_that_is_given_says_nothing_about_the_other(random_set, minari_root):
    wide = make_set(
        "tests/wide-box-v0", [make_buffer(0, np.zeros((3, 2)), np.zeros((2, 1)), [0.0, 0.0])], _box(2),
        gym.spaces.Box(-1.0, 2.0, (1,)),
    )  # fmt: skip
    with pytest.raises(UserError, match="have different action boxes"):
        module(random_set, mixture={wide: 0.5}, action_low=-1.0)
    module(random_set, mixture={wide: 0.5}, action_low=-1.0, action_high=2.0)
