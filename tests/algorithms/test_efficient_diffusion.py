"""IQL+EDP against an independent calculation, and at temperature 0."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from edp_lightning.algorithms.efficient_diffusion import EfficientDiffusionIQL
from edp_lightning.errors import UserError
from tests.algorithms.bare import BareSteps, built, rows
from tests.algorithms.plain import assert_gradients, flat, gradients_of, linear, plain
from tests.algorithms.test_diffusion_ql import ensemble

SMALL = {"hidden_dims": [16, 16], "num_diffusion_steps": 40, "num_candidates": 3}
KEPT = np.cumprod(1 - np.linspace(0.1 / 40, 20 / 40, 40))


class PlainNoise(nn.Module):
    """The noise network written anew, float64: frequencies 10000^(-j/8)."""

    def __init__(self, network):
        super().__init__()
        first, second = network.time_embedding.hidden, network.time_embedding.output
        self.time = nn.Sequential(linear(first.weight, first.bias), nn.Mish(), linear(second.weight, second.bias))
        layers = []
        for layer in network.hidden:
            layers += [linear(layer.weight, layer.bias), nn.Mish()]
        self.trunk = nn.Sequential(*layers, linear(network.output.weight, network.output.bias))

    def forward(self, noisy, i, observation):
        angle = i.double()[:, None] * 10000 ** (-torch.arange(8, dtype=torch.float64) / 8)
        return self.trunk(torch.cat([noisy, self.time(torch.cat([angle.sin(), angle.cos()], 1)), observation], 1))


@pytest.mark.parametrize("temperature", [3.0, 0.0])
def test_one_step_equals_an_independent_calculation(temperature):
    module = built(EfficientDiffusionIQL, **SMALL, inverse_temperature=temperature, max_weight=2.0)
    with torch.no_grad():
        for parameter in module.target_critic.parameters():
            parameter.mul_(1.3)
    network, value = PlainNoise(module.actor.network), plain(module.value, activation=nn.Mish)
    q, q_bar = ensemble(module.critic), ensemble(module.target_critic)
    steps, batch = BareSteps(module), rows()
    time, noise = module.draw_noise(0, 16)
    o, a, r, o2, d, k = (field.double() for field in batch)

    with torch.no_grad():
        best = torch.minimum(*[c(torch.cat([o, a], 1))[:, 0] for c in q_bar])
    u = best - value(o)[:, 0]
    (torch.where(u > 0, 0.7, 0.3) * u**2).mean().backward()
    value_gradient = flat(p.grad for p in value.parameters())
    torch.optim.Adam(value.parameters(), lr=3e-4).step()
    with torch.no_grad():
        advantage, y = best - value(o)[:, 0], r + 0.99**k * (1 - d) * value(o2)[:, 0]
    i, eps = time - 1, noise.double()
    kept = torch.tensor(KEPT)[i][:, None]
    noisy = kept.sqrt() * a + (1 - kept).sqrt() * eps
    predicted = network(noisy, i, o)
    clean = ((noisy - (1 - kept).sqrt() * predicted) / kept.sqrt()).clamp(-1, 1)
    matching = ((predicted - eps) ** 2).mean()
    if temperature == 0:  # diffusion behaviour cloning plus 0.5 |a - x0|^2
        actor_loss = matching + 0.5 * ((a - clean) ** 2).sum(1).mean() + math.log(2 * math.pi)
    else:
        weight = torch.exp(temperature * advantage).clamp(max=2.0)
        actor_loss = matching - (weight * torch.distributions.Normal(clean, 1.0).log_prob(a).sum(1)).mean()
    actor_loss.backward()
    sum(((c(torch.cat([o, a], 1))[:, 0] - y) ** 2).mean() for c in q).backward()

    outputs = steps.step(batch)
    assert_gradients(module.value, value_gradient)
    assert_gradients(module.actor, flat(p.grad for p in network.parameters()), 2e-5)
    assert_gradients(module.critic, gradients_of(q))
    assert outputs["watched"]["actor/loss"].item() == pytest.approx(actor_loss.item(), rel=1e-5)


@pytest.mark.parametrize("sampler", ["ddpm", "dpm_solver"])
def test_it_acts_by_either_sampler(sampler):
    module = built(EfficientDiffusionIQL, **SMALL, sampler=sampler, solver_passes=6)
    calls = []
    module.actor.network.register_forward_hook(lambda *_: calls.append(1))
    with torch.no_grad():
        assert module.actor.sample(torch.zeros(2, 3), torch.randn(module.actor.num_draws, 2, 2)).abs().max() <= 1
    assert len(calls) == (40 if sampler == "ddpm" else 6)
    assert module.decision_facts()["sampler"] == sampler


def test_the_critics_under_training_choose():
    module = built(EfficientDiffusionIQL, **SMALL, candidate_temperature=0.0)
    observation = torch.randn(1, 3)
    noise = torch.randn(40, 3, 2, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        module.target_critic.output.weight.fill_(torch.nan)
        candidates = module.actor.sample(observation.expand(3, -1), noise)
        best = module.critic(observation.expand(3, -1), candidates).amin(0).argmax()
    acted = module.act(observation, [torch.Generator().manual_seed(0)])
    torch.testing.assert_close(acted[0], candidates[best], rtol=0, atol=1e-6)


def test_too_few_steps_for_its_noise_are_refused():
    with pytest.raises(UserError, match="more than 20"):
        EfficientDiffusionIQL(num_diffusion_steps=5)


def test_initial_weights_are_flax_ones():
    module = built(EfficientDiffusionIQL, hidden_dims=[64, 64])
    weight = module.critic.hidden[1].weight
    assert weight.var().item() == pytest.approx(1 / 64, rel=0.1)
    assert module.value.hidden[0].bias.abs().max() == 0
    assert module.actor.network.hidden[1].weight.var().item() == pytest.approx(1 / 64, rel=0.1)
