import pytest
import torch
from torch import nn

from edp_lightning.callbacks import TargetNetworkUpdate
from edp_lightning.callbacks.target_update import horizon, move_towards, reach
from edp_lightning.errors import UserError


def test_target_moves_by_the_share():
    target, source = nn.Linear(3, 2), nn.Linear(3, 2)
    before = [p.detach().clone() for p in target.parameters()]
    move_towards(list(target.parameters()), list(source.parameters()), 0.25)
    for old, new, goal in zip(before, target.parameters(), source.parameters(), strict=True):
        torch.testing.assert_close(new, 0.75 * old + 0.25 * goal)


@pytest.mark.parametrize(
    ("before_start", "expected"), [("copy", [1, 1, 1, 0, 0.1, 0, 0.1]), ("frozen", [0, 0, 0, 0, 0.1, 0, 0.1])]
)
def test_ema_schedule(before_start, expected):
    callback = TargetNetworkUpdate(ema_decay=0.9, ema_every=2, ema_start=3, ema_before_start=before_start)
    assert [callback.ema_weight(step) for step in range(7)] == pytest.approx(expected)


@pytest.mark.parametrize("wrong", [{"tau": 0.0}, {"tau": 1.5}, {"ema_decay": 1.0}, {"ema_every": 0}])
def test_values_out_of_range_are_refused(wrong):
    with pytest.raises(UserError, match="target_update"):
        TargetNetworkUpdate(**wrong)


@pytest.mark.parametrize(("steps", "n_step", "discount"), [(10_000, 1, 0.99), (4_000, 1, 0.98), (2_000, 10, 0.99)])
def test_values_travel_as_far_as_announced(steps, n_step, discount):
    rewards = sum(discount**k for k in range(n_step))  # -1 per step, for ever
    target = 0.0
    for _ in range(steps):  # a critic that follows its target at once
        target += 0.005 * (-rewards + discount**n_step * target - target)
    announced = -(1 - discount ** reach(steps, 0.005, n_step)) / (1 - discount)
    assert target == pytest.approx(announced, rel=0.04)


def test_the_horizon_is_an_episode_or_where_rewards_hardly_count():
    assert horizon(100, 0.99) == 100
    assert horizon(1000, 0.99) == pytest.approx(300)
    assert horizon(50, 1.0) == 50


def test_a_run_too_short_for_its_critics_says_so(toy_set, command, caplog):
    with caplog.at_level("INFO"):
        command("fit", "--trainer.max_steps=4")
    assert "short run: in 4 gradient steps values travel over about 0 environment steps, of 2 that matter" in caplog.text
    assert "trainer.max_steps to 400 or" in caplog.text


@pytest.mark.parametrize(
    "enough", [["--target_update.tau=0.5"], ["--model.eta=0", "--model.num_candidates=1"]], ids=["fast targets", "cloning"]
)
def test_a_run_that_is_long_enough_or_ignores_its_critics_says_nothing(toy_set, command, caplog, enough):
    with caplog.at_level("INFO"):
        command("fit", "--trainer.max_steps=4", *enough)
    assert "short run" not in caplog.text
