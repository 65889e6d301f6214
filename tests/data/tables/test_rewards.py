import numpy as np
import pytest

from edp_lightning.data.tables.rewards import fit_reward_map
from edp_lightning.errors import UserError

REWARDS = [np.array([0.0, 1.0], dtype=np.float32), np.array([1.0, 1.0, 4.0], dtype=np.float32)]


def flat(*args, **kwargs):
    reward_map = fit_reward_map(REWARDS, *args, **kwargs)
    return np.concatenate([reward_map(reward) for reward in REWARDS])


def test_none_leaves_rewards_alone():
    np.testing.assert_array_equal(flat("none"), np.concatenate(REWARDS))


def test_affine_covers_the_conventions_of_the_field():
    np.testing.assert_allclose(flat("affine", -0.5, 4.0)[:2], [-2, 2])  # CQL, the released code
    np.testing.assert_allclose(flat("affine", -1.0, 1.0)[:2], [-1, 0])  # IQL


def test_standardize_and_min_max():
    assert flat("standardize").mean() == pytest.approx(0, abs=1e-6)
    assert flat("standardize").std() == pytest.approx(1, abs=1e-6)
    assert (flat("min_max").min(), flat("min_max").max()) == (-1, 1)


def test_return_range_uses_episode_returns():
    np.testing.assert_allclose(flat("return_range"), np.array([0, 1, 1, 1, 4]) * 1000 / (6 - 1), rtol=1e-6)


@pytest.mark.parametrize("transform", ["standardize", "min_max", "return_range"])
def test_a_constant_reward_cannot_be_divided_by_its_range(transform):
    with pytest.raises(UserError, match="which is 0"):
        fit_reward_map([np.zeros(3, dtype=np.float32)], transform)
