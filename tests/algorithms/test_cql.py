"""Conservative Q-learning against an independent calculation, and what its terms mean."""

import pytest
import torch
from torch import nn
from torch.distributions import Normal, TanhTransform, TransformedDistribution

from edp_lightning.algorithms.cql import CQL
from edp_lightning.networks.perceptron import Perceptron
from edp_lightning.policies.gaussian import TanhGaussianPolicy
from tests.algorithms.bare import BareSteps, built, rows
from tests.algorithms.plain import assert_gradients, critics, flat, gradients_of, plain

SMALL = {"actor_hidden_dims": [16, 16], "critic_hidden_dims": [16, 16], "num_sampled_actions": 3, "num_backup_actions": 4}


def law(network, scale, offset, states):
    mean, log_std = network(states).chunk(2, dim=-1)
    return TransformedDistribution(Normal(mean, (scale * log_std + offset).clamp(-20, 2).exp()), TanhTransform(cache_size=1))


def draw(network, scale, offset, states, noise):
    """Return reparameterised actions with torch.distributions' log densities."""
    distribution = law(network, scale, offset, states)
    base = distribution.base_dist
    action = distribution.transforms[0](base.loc + base.scale * noise)  # cached: its inverse is exact
    return action, distribution.log_prob(action).sum(-1)


def judged(critic, states, actions):
    return critic(torch.cat([states, actions], -1))[..., 0]


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"lagrange_gap": 0.8, "max_q_backup": True, "conservative_min": 4.0, "conservative_weight": 5.0},
    ],
)
def test_one_step_equals_an_independent_calculation(options):
    module = built(CQL, **SMALL, **options)
    with torch.no_grad():
        for parameter in module.target_critic.parameters():
            parameter.mul_(1.1)
        module.critic.body.output.weight.mul_(30)  # otherwise all values are alike, and no bound is reached
        module.actor.log_std_multiplier.fill_(0.7)
        module.log_temperature.value.fill_(-0.5)
    steps = BareSteps(module)
    noise = [tensor.double() for tensor in module.draw_noise(0, 16)]
    fresh, backup, uniform, current, following = noise
    actor, q, q_bar = plain(module.actor.network), critics(module.critic), critics(module.target_critic)
    scale, offset = (nn.Parameter(torch.tensor(value, dtype=torch.float32).double()) for value in (0.7, -1.0))
    o, a, r, o2, d, k = (field.double() for field in rows())
    policy = (actor, scale, offset)

    action, log_prob = draw(*policy, o, fresh)
    temperature = torch.tensor(-0.5, dtype=torch.float64, requires_grad=True)
    (-temperature * (log_prob.detach() - 2.0)).mean().backward()  # target entropy: minus two dimensions
    actor_loss = (torch.exp(temperature.detach()) * log_prob - torch.minimum(*(judged(c, o, action) for c in q))).mean()
    actor_gradient = torch.autograd.grad(actor_loss, [scale, offset, *actor.parameters()])

    def several(states, normal):
        count = normal.shape[1]
        return draw(*policy, states[:, None].expand(-1, count, -1), normal)

    with torch.no_grad():
        next_action, _ = several(o2, backup)
        states = o2[:, None].expand_as(torch.empty(16, next_action.shape[1], 3))
        next_q = torch.minimum(*(judged(c, states, next_action) for c in q_bar)).max(-1).values
        y = r + 0.99**k * (1 - d) * next_q
        on_policy, on_density = several(o, current)
        off_policy, off_density = several(o2, following)
    lowest = options.get("conservative_min", -float("inf"))
    spread = o[:, None].expand(-1, 3, -1)
    terms, errors, clipped = [], [], 0
    for c in q:
        sampled = torch.cat(
            [
                judged(c, spread, uniform) - torch.log(torch.tensor(0.25, dtype=torch.float64)),
                judged(c, spread, on_policy) - on_density,
                judged(c, spread, off_policy) - off_density,
            ],
            dim=1,
        )
        difference = torch.logsumexp(sampled, 1) - judged(c, o, a)
        clipped += int((difference < lowest).sum())
        terms.append(difference.clamp(min=lowest).mean())
        errors.append(((judged(c, o, a) - y) ** 2).mean())
    assert (clipped > 0) == ("conservative_min" in options)
    multiplier = torch.tensor(1.0, dtype=torch.float64, requires_grad=True)
    weight = options.get("conservative_weight", 10.0)
    if "lagrange_gap" in options:
        factor = torch.exp(multiplier).clamp(0, 1e6)
        (-0.5 * sum(weight * factor * (term.detach() - 0.8) for term in terms)).backward()
        weight = weight * factor.detach()
    (sum(errors) + weight * sum(terms)).backward()

    outputs = steps.step(rows())
    assert_gradients(module.log_temperature, temperature.grad.reshape(1))
    assert_gradients(module.actor, flat([*actor_gradient]))
    for c in q:
        assert all(p.grad is not None for p in c.parameters())
    assert_gradients(module.critic, gradients_of(q))
    if "lagrange_gap" in options:
        assert_gradients(module.log_multiplier, multiplier.grad.reshape(1))
    assert outputs["watched"]["actor/loss"].item() == pytest.approx(actor_loss.item(), rel=1e-5)


def test_log_density_is_exact_where_tanh_rounds_to_one():
    policy = TanhGaussianPolicy(3, 2, [8])
    with torch.no_grad():
        policy.network.output.bias[:2] = torch.tensor([12.0, -12.0])
    action, log_prob = policy.sample(torch.zeros(1, 3), torch.zeros(1, 2))
    assert action.abs().min() == 1
    mean, log_std = (x.double() for x in policy(torch.zeros(1, 3)))
    squash = torch.log(4 * torch.exp(-2 * mean.abs()) / (1 + torch.exp(-2 * mean.abs())) ** 2)  # log(1 - tanh^2)
    expected = (-0.5 * torch.log(torch.tensor(2 * torch.pi)) - log_std - squash).sum()
    assert log_prob.item() == pytest.approx(expected.item(), rel=1e-5)


def test_without_weight_it_is_sac_without_entropy_in_the_targets():
    module = built(CQL, **SMALL, conservative_weight=0.0)
    steps, batch = BareSteps(module), rows()
    noise = module.draw_noise(0, 16)
    with torch.no_grad():
        action, _ = module.actor.sample(batch.next_observation, noise.backup[:, 0])
        value = module.target_critic(batch.next_observation, action).min(0).values
        target = batch.reward + 0.99**batch.steps * (1 - batch.terminated) * value
        expected = (module.critic(batch.observation, batch.action) - target).square().mean(1).sum()
    assert steps.step(batch)["watched"]["critic/loss"].item() == pytest.approx(expected.item(), rel=1e-5)


def test_a_larger_weight_pushes_values_of_unseen_actions_further_down():
    gaps = []
    for weight in (0.0, 1.0, 10.0):
        module = built(CQL, **SMALL, conservative_weight=weight, critic_lr=3e-3)
        steps = BareSteps(module)
        batch = rows(32)._replace(action=torch.full((32, 2), 0.8), terminated=torch.ones(32))
        for _ in range(60):
            steps.step(batch)
        with torch.no_grad():
            seen, unseen = (module.critic(batch.observation, sign * batch.action).mean() for sign in (1, -1))
        gaps.append((seen - unseen).item())
    assert gaps[0] < gaps[1] < gaps[2]


def test_initial_weights_are_those_of_the_reference():
    module = built(CQL, actor_hidden_dims=[8, 8], critic_hidden_dims=[8, 8, 8, 8])
    for member in module.critic.body.hidden[2].weight:
        torch.testing.assert_close(member.T @ member, 2 * torch.eye(8), rtol=0, atol=1e-5)
    assert module.critic.body.output.weight.norm(dim=(1, 2)).tolist() == pytest.approx([0.01, 0.01])
    last: Perceptron = module.actor.network
    bound = 1e-2 * (6 / (8 + 4)) ** 0.5
    assert 0.5 * bound < last.output.weight.abs().max() <= bound
    assert last.output.bias.abs().max() == 0 < last.hidden[0].bias.abs().max()
    assert len(module.critic.body.hidden) == 4  # both critics, unlike the reference
    assert module.log_temperature().item() == 0
    assert built(CQL, **SMALL, lagrange_gap=1.0).log_multiplier().item() == 1
