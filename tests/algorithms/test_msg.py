"""MSG against an independent calculation, and where it meets SAC with clipped double Q."""

import math

import pytest
import torch
from torch import nn

from edp_lightning.algorithms.msg import MSG
from edp_lightning.errors import UserError
from edp_lightning.policies.tanh_normal import TanhNormalPolicy
from tests.algorithms.bare import BareSteps, built, rows
from tests.algorithms.plain import assert_gradients, flat, gradients_of, linear, plain

SMALL = {"hidden_dims": [16, 16], "num_critics": 3, "bc_steps": 0}


def relu_critics(critic):
    found = []
    for member in range(critic.num_critics):
        layers = []
        for layer in [*critic.hidden, critic.output]:
            layers += [linear(layer.weight[member].detach().T, layer.bias[member, 0].detach()), nn.ReLU()]
        found.append(nn.Sequential(*layers[:-1]))
    return found


def law(network, observation):
    mean, spread = network(observation).chunk(2, -1)
    return mean, torch.nn.functional.softplus(spread) + 0.01


def density(mean, std, before):
    """Log density of tanh(before), whose every entry lies inside the edge 0.999."""
    normal = torch.distributions.Normal(mean, std).log_prob(before)
    return (normal - torch.log(1 - torch.tanh(before) ** 2)).sum(-1)


@pytest.mark.parametrize(
    "options", [{}, {"critics_per_member": 2, "behavior_coef": 0.0, "random_weights": False, "lcb_coef": 2.0}]
)
def test_one_step_equals_an_independent_calculation(options):
    module = built(MSG, **SMALL, **options)
    with torch.no_grad():
        for parameter in module.target_critic.parameters():
            parameter.mul_(1.1)
        module.log_temperature.value.fill_(-0.7)
    actor, q, q_bar = plain(module.actor.network), relu_critics(module.critic), relu_critics(module.target_critic)
    steps, batch = BareSteps(module), rows()
    noise = module.draw_noise(0, 16)
    o, a, r, o2, d, k = (field.double() for field in batch)
    pair, alpha_b = options.get("critics_per_member", 1), options.get("behavior_coef", 0.1)

    with torch.no_grad():
        mean, std = law(actor, o2)
        here = law(actor, o)
    loss = 0.0
    for m in range(3):
        members = q[pair * m : pair * (m + 1)]
        with torch.no_grad():
            following = torch.cat([o2, torch.tanh(mean + std * noise.following[m].double())], 1)
            y = (
                r
                + 0.99**k * (1 - d) * torch.stack([c(following)[:, 0] for c in q_bar[pair * m : pair * (m + 1)]]).min(0).values
            )
        values = torch.stack([c(torch.cat([o, a], 1))[:, 0] for c in members])
        weights = torch.ones_like(values) if noise.weights is None else noise.weights[m].double()
        loss = loss + 0.5 * (weights * (values - y) ** 2).mean()
        if alpha_b:
            own = torch.cat([o, torch.tanh(here[0] + here[1] * noise.current[m].double())], 1)
            policy_values = torch.stack([c(own)[:, 0] for c in members])
            loss = loss + alpha_b * (policy_values.min(0).values - values.min(0).values).mean()
    loss.backward()
    critic_gradient = gradients_of(q)

    mean, std = law(actor, o)
    before = mean + std * noise.action.double()
    inputs = torch.cat([o, torch.tanh(before)], 1)
    members = torch.stack(
        [torch.stack([c(inputs)[:, 0] for c in q[pair * m : pair * (m + 1)]]).min(0).values for m in range(3)]
    )
    bound = members.mean(0) - options.get("lcb_coef", 8.0) * members.var(0, unbiased=False).sqrt()
    log_prob = density(mean, std, before)
    assert torch.tanh(before).detach().abs().max() < 0.999
    actor_loss = math.exp(-0.7) * log_prob.mean() - bound.mean()
    parameters = list(actor.parameters())
    actor_gradient = flat(torch.autograd.grad(actor_loss, parameters))
    temperature_gradient = math.exp(-0.7) * -log_prob.mean().item()

    outputs = steps.step(batch)
    assert_gradients(module.critic, critic_gradient)
    assert_gradients(module.actor, actor_gradient)
    assert module.log_temperature.value.grad.item() == pytest.approx(temperature_gradient, rel=1e-5)
    assert outputs["watched"]["critic/loss"].item() == pytest.approx(loss.item(), rel=1e-5)


def test_with_one_pair_it_is_sac_with_clipped_double_q_and_target_entropy_zero():
    options = {"num_critics": 1, "critics_per_member": 2, "behavior_coef": 0.0, "random_weights": False, "lcb_coef": 0.0}
    module = built(MSG, **(SMALL | options))
    actor, q, q_bar = plain(module.actor.network), relu_critics(module.critic), relu_critics(module.target_critic)
    steps, batch = BareSteps(module), rows()
    noise = module.draw_noise(0, 16)
    o, a, r, o2, d, k = (field.double() for field in batch)
    with torch.no_grad():
        mean, std = law(actor, o2)
        following = torch.cat([o2, torch.tanh(mean + std * noise.following[0].double())], 1)
        y = r + 0.99**k * (1 - d) * torch.minimum(q_bar[0](following), q_bar[1](following))[:, 0]  # no entropy in the backup
    inputs = torch.cat([o, a], 1)
    (0.25 * ((q[0](inputs)[:, 0] - y) ** 2 + (q[1](inputs)[:, 0] - y) ** 2).mean()).backward()
    critic_gradient = gradients_of(q)
    mean, std = law(actor, o)
    before = mean + std * noise.action.double()
    new = torch.cat([o, torch.tanh(before)], 1)
    log_prob = density(mean, std, before).mean()
    loss = log_prob - torch.minimum(q[0](new), q[1](new)).mean()  # alpha = exp(0)
    gradient = flat(torch.autograd.grad(loss, list(actor.parameters())))
    steps.step(batch)
    assert_gradients(module.critic, critic_gradient)
    assert_gradients(module.actor, gradient)
    assert module.log_temperature.value.grad.item() == pytest.approx(-log_prob.item(), rel=1e-5)


def test_at_first_the_actor_imitates_and_the_temperature_rests():
    module = built(MSG, **(SMALL | {"bc_steps": 1}))
    actor, batch = plain(module.actor.network), rows()
    steps = BareSteps(module)
    mean, std = law(actor, batch.observation.double())
    (-density(mean, std, batch.action.double().atanh()).mean()).backward()
    expected = flat(p.grad for p in actor.parameters())
    steps.step(batch)
    assert_gradients(module.actor, expected)
    assert module.log_temperature.value.item() == 0.0
    steps.step(batch)
    assert module.log_temperature.value.item() != 0.0


def test_members_differ_because_nothing_in_their_targets_is_shared():
    module = built(MSG, **SMALL)
    with torch.no_grad():  # equal members with equal targets: only their own actions and weights tell them apart
        for parameter in [*module.critic.parameters(), *module.target_critic.parameters()]:
            parameter.copy_(parameter[:1].expand_as(parameter))
    steps = BareSteps(module)
    noise = module.draw_noise(0, 16)
    assert not torch.equal(noise.following[0], noise.following[1])
    assert 0 <= noise.weights.min() < 1 < noise.weights.max() <= 2
    steps.step(rows())
    gradients = module.critic.output.weight.grad
    assert not torch.allclose(gradients[0], gradients[1])


def test_density_at_the_edge_is_the_mean_one_of_the_rest():
    policy = built(MSG, **SMALL).actor
    observation = torch.zeros(1, 3)
    with torch.no_grad():
        policy.network.output.bias[2:] += 3.0  # wide enough that float32 sees the rest
    mean, std = (tensor.detach().double() for tensor in policy(observation))
    bound = math.atanh(0.999)
    right = 1 - torch.distributions.Normal(mean[0], std[0]).cdf(torch.tensor(bound, dtype=torch.float64))
    left = torch.distributions.Normal(mean[0], std[0]).cdf(torch.tensor(-bound, dtype=torch.float64))
    with torch.no_grad():
        for action in (torch.ones(1, 2), torch.full((1, 2), 0.9995)):
            assert policy.log_prob(observation, action).item() == pytest.approx((right / 0.001).log().sum().item(), rel=1e-3)
        assert policy.log_prob(observation, -torch.ones(1, 2)).item() == pytest.approx(
            (left / 0.001).log().sum().item(), rel=1e-3
        )
    assert isinstance(policy, TanhNormalPolicy)


def test_a_spread_over_one_member_is_refused():
    with pytest.raises(UserError, match=r"at least 2 members but num_critics is 1"):
        MSG(num_critics=1)


def test_it_acts_by_a_draw_or_by_the_mode():
    drawn, mode = built(MSG, **SMALL), built(MSG, **SMALL, stochastic=False)
    observation = torch.ones(1, 3)
    first, second = (drawn.act(observation, [torch.Generator().manual_seed(seed)]) for seed in (0, 1))
    assert not torch.equal(first, second)
    mean, _ = law(plain(mode.actor.network), observation.double())
    torch.testing.assert_close(mode.act(observation, [torch.Generator()]).double(), mean.tanh(), rtol=0, atol=1e-6)
    assert drawn.decision_facts() == {"stochastic": True}
    weight = built(MSG, hidden_dims=[64, 64], num_critics=2).critic.hidden[1].weight
    assert weight.var().item() == pytest.approx(1 / 64, rel=0.1)
    assert weight.abs().max().item() < 2 / 8 / 0.8796 + 1e-6
