"""Held-out data: transformed as training's were, and refused where they do not fit."""

import numpy as np
import pytest

from edp_lightning.data.datamodule import OfflineDataModule
from edp_lightning.errors import UserError


def save(path, rewards, width=2):
    rng = np.random.default_rng(len(rewards))
    steps = len(rewards)
    ends = np.zeros(steps, dtype=bool)
    ends[-1] = True
    np.savez(
        path, observations=rng.normal(size=(steps, width)), actions=rng.uniform(-1, 1, (steps, 1)), rewards=rewards,
        terminated=ends, truncated=np.zeros(steps, dtype=bool),
    )  # fmt: skip
    return f"npz:{path}"


@pytest.mark.parametrize(
    ("transform", "expected"),
    [
        ("none", lambda r, t: r),
        ("standardize", lambda r, t: (r - t.mean()) / t.std()),
        ("min_max", lambda r, t: 2 * (r - t.min()) / (t.max() - t.min()) - 1),
    ],
)
def test_rewards_are_transformed_by_the_statistics_of_training(transform, expected, tmp_path):
    training, held_out = np.array([0.0, 1.0, 5.0, 2.0]), np.array([10.0, -3.0, 4.0])
    names = [save(tmp_path / f"{i}.npz", rewards) for i, rewards in enumerate((training, held_out))]
    data = OfflineDataModule(names[0], validation=names[1], reward_transform=transform)
    data.prepare_data()
    data.setup("fit")
    found = data.validation_table.columns.reward.numpy()
    np.testing.assert_allclose(found, expected(held_out, training), rtol=1e-5, atol=1e-6)
    assert len(data.table) == 4


def test_other_widths_are_refused(tmp_path):
    names = [save(tmp_path / f"{width}.npz", np.arange(4.0), width) for width in (2, 3)]
    data = OfflineDataModule(names[0], validation=names[1])
    data.prepare_data()
    with pytest.raises(UserError, match=r"data\.validation: .* widths \(3, 1\), training's set of \(2, 1\)"):
        data.setup("fit")


def test_another_action_box_is_refused_unless_one_is_given_for_both(tmp_path):
    names = [save(tmp_path / f"{i}.npz", np.arange(4.0 + i)) for i in range(2)]
    wide = dict(np.load(tmp_path / "1.npz")) | {"action_low": np.array([-2.0]), "action_high": np.array([2.0])}
    np.savez(tmp_path / "1.npz", **wide)
    with pytest.raises(UserError, match=r"1\.npz has another action box than training's set"):
        OfflineDataModule(names[0], validation=names[1]).setup("fit")
    OfflineDataModule(names[0], validation=names[1], action_low=-2.0, action_high=2.0).setup("fit")
    np.savez(tmp_path / "1.npz", **wide | {"actions": np.full((5, 1), 1.9)})
    with pytest.raises(UserError, match="5 actions lie outside"):  # they were clipped without a word
        OfflineDataModule(names[0], validation=names[1], action_low=-1.0, action_high=1.0).setup("fit")
