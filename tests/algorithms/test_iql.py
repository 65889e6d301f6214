"""Implicit Q-learning against an independent calculation, and its limiting cases."""

import math

import pytest
import torch
from torch import nn

from edp_lightning.algorithms.iql import IQL, expectile_loss
from tests.algorithms.bare import BareSteps, built, rows
from tests.algorithms.plain import assert_gradients, critics, flat, gradients_of, plain

SMALL = {"hidden_dims": [16, 16]}


def double(batch):
    return type(batch)(*(field.double() for field in batch))


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"order": "together", "critic_reduction": "mean", "init": "torch", "policy": "deterministic", "log_std_min": -20.0},
        {"expectile": 0.9, "inverse_temperature": 10.0, "max_weight": 2.0, "num_critics": 3},
    ],
)
def test_one_step_equals_an_independent_calculation(options):
    module = built(IQL, **SMALL, **options)
    with torch.no_grad():
        for parameter in module.target_critic.parameters():
            parameter.mul_(1.1)
        if options.get("policy") != "deterministic":
            module.actor.log_std.copy_(torch.tensor([0.3, -0.7]))
    value, actor = plain(module.value), plain(module.actor.network)
    q, q_bar = critics(module.critic), critics(module.target_critic)
    log_std = nn.Parameter(torch.tensor([0.3, -0.7], dtype=torch.float32).double())
    o, a, r, o2, d, k = double(rows())
    tau, beta = module.hparams["expectile"], module.hparams["inverse_temperature"]

    with torch.no_grad():
        target_q = torch.stack([c(torch.cat([o, a], 1))[:, 0] for c in q_bar]).min(0).values
    u = target_q - value(o)[:, 0]
    optimizer = torch.optim.Adam(value.parameters(), lr=3e-4)
    old_next = value(o2)[:, 0].detach()
    torch.where(u < 0, (1 - tau) * u**2, tau * u**2).mean().backward()
    value_gradient = flat(p.grad for p in value.parameters())
    optimizer.step()
    with torch.no_grad():
        new = options.get("order") != "together"
        advantage = target_q - value(o)[:, 0] if new else u.detach()
        next_value = value(o2)[:, 0] if new else old_next
    weight = torch.exp(beta * advantage).clamp(max=module.hparams["max_weight"])
    mean = torch.tanh(actor(o))
    if options.get("policy") == "deterministic":
        error = ((mean - a) ** 2).sum(1)
        parameters = list(actor.parameters())
    else:
        error = -torch.distributions.Normal(mean, log_std.exp()).log_prob(a).sum(1)
        parameters = [log_std, *actor.parameters()]
    (weight * error).mean().backward()
    target = r + 0.99**k * (1 - d) * next_value
    losses = [((c(torch.cat([o, a], 1))[:, 0] - target) ** 2).mean() for c in q]
    (sum(losses) / (len(losses) if options.get("critic_reduction") == "mean" else 1)).backward()

    outputs = BareSteps(module).step(rows())
    assert_gradients(module.value, value_gradient)
    assert_gradients(module.actor, flat(p.grad for p in parameters))
    assert_gradients(module.critic, gradients_of(q))
    assert outputs["watched"]["actor/loss"].item() == pytest.approx((weight * error).mean().item(), rel=1e-5)
    torch.testing.assert_close(flat(module.value.parameters()), flat(value.parameters()), rtol=0, atol=1e-6)


def test_target_critics_follow_by_polyak_steps():
    module = built(IQL, **SMALL)
    before = flat(module.target_critic.parameters())
    assert torch.equal(before, flat(module.critic.parameters()))
    BareSteps(module, tau=0.25).step(rows())
    expected = 0.75 * before + 0.25 * flat(module.critic.parameters())
    torch.testing.assert_close(flat(module.target_critic.parameters()), expected, rtol=0, atol=1e-7)


def test_half_an_expectile_is_half_the_squared_error_and_its_minimum_the_mean():
    q = torch.tensor([1.0, 2.0, 6.0])
    level = torch.tensor(3.0, requires_grad=True)
    loss = expectile_loss(q - level, 0.5)
    assert loss.item() == pytest.approx(0.5 * (4 + 1 + 9) / 3)
    loss.backward()
    assert level.grad.item() == pytest.approx(0.0, abs=1e-6)


def test_without_temperature_the_actor_is_gaussian_behaviour_cloning():
    module, batch = built(IQL, **SMALL, inverse_temperature=0.0), rows()
    outputs = {}
    expected = -module.actor.log_prob(batch.observation, batch.action).mean().item()
    outputs = BareSteps(module).step(batch)
    assert outputs["watched"]["actor/loss"].item() == pytest.approx(expected, rel=1e-6)
    assert not module.uses_values


@pytest.mark.parametrize("expectile", [0.5, 0.99])
def test_in_a_bandit_the_value_lies_between_mean_and_best_reward(expectile):
    """Two arms with rewards 0 and 1, pulled equally often: the expectile of a two-point law is tau."""
    module = built(IQL, **SMALL, expectile=expectile, value_lr=1e-2, critic_lr=1e-2, actor_lr=1e-2)
    batch = rows(32)
    arm = torch.arange(32) % 2
    action = torch.where(arm == 1, 0.8, -0.8).unsqueeze(1).expand(-1, 2).contiguous()
    batch = batch._replace(
        observation=torch.zeros(32, 3),
        next_observation=torch.zeros(32, 3),
        action=action,
        reward=arm.float(),
        terminated=torch.ones(32),
    )
    steps = BareSteps(module, max_steps=1000, tau=0.1)
    for _ in range(250):
        steps.step(batch)
    assert module.value(torch.zeros(1, 3)).item() == pytest.approx(expectile, abs=0.05)
    if expectile > 0.9:  # weights of the better arm: exp(3 (1 - V)) against exp(-3 V)
        assert module.act(torch.zeros(1, 3), [torch.Generator()]).mean() > 0.5


def test_initial_weights_are_orthogonal_with_gain_sqrt_two_and_spread_one():
    module = built(IQL, hidden_dims=[8, 8])
    weight = module.critic.body.hidden[1].weight
    for member in weight:
        torch.testing.assert_close(member @ member.T, 2 * torch.eye(8), rtol=0, atol=1e-5)
    assert not torch.equal(weight[0], weight[1])
    assert module.value.output.weight.norm().item() == pytest.approx(math.sqrt(2), rel=1e-5)
    assert all(layer.bias.abs().max() == 0 for layer in [*module.value.hidden, module.critic.body.output])
    assert module.actor.log_std.tolist() == [0.0, 0.0]


def test_dropout_is_the_same_in_a_repeated_step_and_absent_when_acting():
    losses = []
    for _ in range(2):
        module = built(IQL, **SMALL, actor_dropout=0.5)
        losses.append(BareSteps(module).step(rows())["watched"]["actor/loss"].item())
    plain_loss = BareSteps(built(IQL, **SMALL)).step(rows())["watched"]["actor/loss"].item()
    assert losses[0] == losses[1] != plain_loss
    kept = built(IQL, **SMALL, actor_dropout=0.5)
    kept._trainer = None
    factors = BareSteps(kept).module.draw_noise(3, 4000)
    assert [tuple(f.shape) for f in factors] == [(4000, 16), (4000, 16)]
    assert set(factors[0].unique().tolist()) == {0.0, 2.0}
    assert factors[0].mean().item() == pytest.approx(1, abs=0.02)
    observation = torch.randn(4, 3)
    assert torch.equal(kept.act(observation, [torch.Generator()] * 4), kept.act(observation, [torch.Generator()] * 4))
