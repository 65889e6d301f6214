import pytest
import torch
from torch import nn

from edp_lightning.callbacks import TargetNetworkUpdate
from edp_lightning.callbacks.target_update import move_towards
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
