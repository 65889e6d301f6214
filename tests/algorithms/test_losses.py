import math

import pytest
import torch

from edp_lightning.algorithms.losses import (
    advantage_weights,
    best_of_actions,
    max_over_actions,
    normalized,
    q_time_weights,
    state_scales,
    td_target,
)
from edp_lightning.diffusion import MeanRevertingSDE
from edp_lightning.networks.ensemble import aggregate_q


def test_td_target_by_hand():
    reward, next_q = torch.tensor([1.0, 2.0, 3.0]), torch.tensor([[10.0, 20.0, 30.0], [-10.0, -20.0, -30.0]])
    terminated, steps = torch.tensor([0.0, 1.0, 0.0]), torch.tensor([1.0, 1.0, 2.0])
    target = td_target(reward, terminated, steps, next_q, discount=0.5)
    torch.testing.assert_close(target, torch.tensor([[6.0, 2.0, 10.5], [-4.0, 2.0, -4.5]]))


def test_each_critic_bootstraps_from_its_own_target():
    next_q = torch.tensor([[1.0], [100.0]])
    target = td_target(torch.zeros(1), torch.zeros(1), torch.ones(1), next_q, 1.0)
    torch.testing.assert_close(target, next_q)


def test_max_over_actions_takes_each_critics_own_maximum():
    q = torch.tensor([[1.0, 5.0, 2.0, 0.0], [9.0, 3.0, -1.0, -2.0]])  # two states, two actions each
    torch.testing.assert_close(max_over_actions(q, 2), torch.tensor([[5.0, 2.0], [9.0, -1.0]]))


def test_best_of_actions_evaluates_one_common_action_with_every_critic():
    q = torch.tensor([[1.0, 5.0, 2.0, 0.0], [9.0, 3.0, -1.0, -2.0]])  # two states, two actions each
    # pessimistic values with beta 1: 5 - 5.66 and 4 - 1.41, then 0.5 - 2.12 and -1 - 1.41
    torch.testing.assert_close(best_of_actions(q, 2, "lcb", 1.0), torch.tensor([[5.0, 2.0], [3.0, -1.0]]))
    torch.testing.assert_close(best_of_actions(q, 2, "min", 0.0), torch.tensor([[5.0, 2.0], [3.0, -1.0]]))
    torch.testing.assert_close(best_of_actions(q, 1, "lcb", 4.0), q)


def test_lcb_uses_the_unbiased_spread():
    q = torch.tensor([[1.0, 2.0], [3.0, 2.0]])
    torch.testing.assert_close(aggregate_q(q, "lcb", 2.0), torch.tensor([2.0 - 2 * 2**0.5, 2.0]))


def test_min_ignores_the_coefficient():
    q = torch.tensor([[1.0, 5.0], [3.0, 2.0]])
    torch.testing.assert_close(aggregate_q(q, "min", 100.0), torch.tensor([1.0, 2.0]))


def test_normaliser_is_a_constant():
    value = torch.tensor(3.0, requires_grad=True)
    (gradient,) = torch.autograd.grad(normalized(value, value.abs() * 2), value)
    assert gradient.item() == pytest.approx(-1 / 6)


def test_q_weights_are_those_of_the_behaviour_loss_on_the_same_prediction():
    """Noise of a^t off by d moves a0hat by d std / decay: a squared error of a0hat counts (decay / std)^2 of it in noise."""
    sde = MeanRevertingSDE(5)
    t = torch.tensor([1, 2, 5, 1])
    noisy, noise = torch.randn(4, 3), torch.randn(4, 3)
    moved = sde.predict_clean(noisy, t, noise + 0.1) - sde.predict_clean(noisy, t, noise)
    per_clean = 0.1**2 / moved.square().mean(dim=1)
    weights = q_time_weights(sde, t, "signal")
    torch.testing.assert_close(weights, per_clean / per_clean[0], rtol=1e-4, atol=0)
    assert weights[0] == weights[3] == 1
    assert weights[1] < 0.2
    assert q_time_weights(sde, t, "uniform") is None


def test_advantage_weights_have_no_unit_and_a_bound():
    advantage = torch.tensor([-1.0, 0.0, 0.5, 2.5, 100.0])
    weights = advantage_weights(advantage, torch.tensor(0.5), 1.5)
    torch.testing.assert_close(weights, torch.tensor([math.exp(-3), 1.0, math.exp(1.5), 20.0, 20.0]))
    torch.testing.assert_close(advantage_weights(1000 * advantage, torch.tensor(500.0), 1.5), weights)
    assert advantage_weights(advantage, torch.tensor(0.5), 0.0).tolist() == [1.0] * 5
    assert advantage_weights(torch.zeros(2), torch.tensor(0.0), 1.5).tolist() == [1.0, 1.0]


def test_advantage_weights_shift_normal_advantages_as_documented():
    advantage = torch.randn(1_000_000, generator=torch.Generator().manual_seed(0))
    weights = advantage_weights(advantage, advantage.abs().mean(), 1.0)
    assert (weights * advantage).sum() / weights.sum() == pytest.approx(1.15, abs=0.01)


def test_relative_values_of_a_discounted_reward_fall_alike_at_every_distance():
    """The gradient of Q / |Q| by the distance is log(discount) wherever the robot is; close to 0 the scale has a floor."""
    distance = torch.tensor([1.0, 100.0, 300.0], requires_grad=True)
    q = (100 * 0.99**distance).expand(2, 3)
    scales = state_scales(q, torch.tensor(1.0))
    (slope,) = torch.autograd.grad((q.mean(dim=0) / scales).sum(), distance)
    torch.testing.assert_close(slope, torch.full((3,), math.log(0.99)))
    assert state_scales(torch.tensor([[0.0, -0.5, -3.0], [0.2, 0.5, 3.0]]), torch.tensor(4.0)).tolist() == pytest.approx(
        [0.4, 0.5, 3]
    )
