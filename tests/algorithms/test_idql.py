"""IDQL against an independent calculation, and what is left of it with one candidate."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from edp_lightning.algorithms.idql import IDQL
from tests.algorithms.bare import BareSteps, built, rows
from tests.algorithms.plain import assert_gradients, flat, gradients_of, linear, norm, plain
from tests.algorithms.test_msg import relu_critics

SMALL = {
    "hidden_dims": [16, 16],
    "width": 8,
    "num_blocks": 2,
    "time_features": 6,
    "time_hidden_dims": [8, 8],
    "actor_dropout": 0.2,
}
T = 5
BETA = 1 - np.exp(-0.1 / T - 0.5 * 9.9 * (2 * np.arange(1, T + 1) - 1) / T**2)
KEPT = np.cumprod(1 - BETA)


class PlainNetwork(nn.Module):
    """The residual network written anew, float64, its parameters in the order of the module's."""

    def __init__(self, network):
        super().__init__()
        self.w = nn.Parameter(network.time.frequencies.detach().double())
        self.time = nn.ModuleList(linear(layer.weight, layer.bias) for layer in network.time.layers)
        self.first = linear(network.input.weight, network.input.bias)
        self.blocks = nn.ModuleList(
            nn.ModuleList(
                [norm(b.norm.weight, b.norm.bias), linear(b.wide.weight, b.wide.bias), linear(b.narrow.weight, b.narrow.bias)]
            )
            for b in network.blocks
        )
        self.last = linear(network.output.weight, network.output.bias)

    def forward(self, noisy, i, observation, kept=None):
        silu = nn.functional.silu
        f = 2 * math.pi * i.double()[:, None] @ self.w[None]
        time = self.time[1](silu(self.time[0](torch.cat([f.cos(), f.sin()], 1))))
        x = self.first(torch.cat([noisy, observation, time], 1))
        for index, (layer_norm, wide, narrow) in enumerate(self.blocks):
            dropped = x if kept is None else x * kept[index].double()
            x = x + narrow(silu(wide(layer_norm(dropped))))
        return self.last(silu(x))


@pytest.mark.parametrize("value_input_norm", [True, False])
def test_one_step_equals_an_independent_calculation(value_input_norm):
    module = built(IDQL, **SMALL, value_input_norm=value_input_norm)
    with torch.no_grad():
        for parameter in module.target_critic.parameters():
            parameter.mul_(1.1)
    network = PlainNetwork(module.actor.network)
    if value_input_norm:
        value = nn.Sequential(norm(module.value[0].weight, module.value[0].bias), plain(module.value[1]))
    else:
        value = plain(module.value)
    q, q_bar = relu_critics(module.critic), relu_critics(module.target_critic)
    steps, batch = BareSteps(module), rows()
    noise = module.draw_noise(0, 16)
    o, a, r, o2, d, k = (field.double() for field in batch)

    i, eps = noise.time - 1, noise.action.double()
    kept = torch.tensor(KEPT)[i][:, None]
    assert len(noise.kept) == 2
    actor_loss = ((network(kept.sqrt() * a + (1 - kept).sqrt() * eps, i, o, noise.kept) - eps) ** 2).sum(1).mean()
    actor_loss.backward()
    with torch.no_grad():
        best = torch.minimum(*[c(torch.cat([o, a], 1))[:, 0] for c in q_bar])
    u = best - value(o)[:, 0]
    (torch.where(u > 0, 0.7, 0.3) * u**2).mean().backward()
    value_gradient = flat(p.grad for p in value.parameters())
    torch.optim.Adam(value.parameters(), lr=3e-4).step()
    with torch.no_grad():
        y = r + 0.99**k * (1 - d) * value(o2)[:, 0]
    torch.stack([(c(torch.cat([o, a], 1))[:, 0] - y) ** 2 for c in q]).mean().backward()

    outputs = steps.step(batch)
    assert_gradients(module.actor, flat(p.grad for p in network.parameters()))
    assert_gradients(module.value, value_gradient)
    assert_gradients(module.critic, gradients_of(q))
    assert outputs["watched"]["actor/loss"].item() == pytest.approx(actor_loss.item(), rel=1e-5)


def test_the_actor_decays_its_weights_and_follows_a_cosine():
    module = built(IDQL, **SMALL)
    steps = BareSteps(module, max_steps=10)
    actor, value = steps.optimizers[0], steps.optimizers[1]
    assert isinstance(actor, torch.optim.AdamW)
    assert actor.param_groups[0]["weight_decay"] == 1e-4
    for _ in range(6):
        steps.step(rows())
    assert actor.param_groups[0]["lr"] == pytest.approx(3e-4 * 0.5)
    assert value.param_groups[0]["lr"] == 3e-4


def reference_actions(network, observation, noise):
    """DDPM sampling with variance beta, clipped after every step."""
    x = noise[0]
    for i in reversed(range(T)):
        eps = network(x, torch.full((len(x),), i), observation)
        x = (x - BETA[i] / math.sqrt(1 - KEPT[i]) * eps) / math.sqrt(1 - BETA[i])
        if i:
            x = x + math.sqrt(BETA[i]) * noise[T - i]
        x = x.clamp(-1, 1)
    return x


def test_with_one_candidate_it_is_diffusion_behaviour_cloning():
    """baselines: nobody asks the critics, and the action is the averaged actor's draw."""
    module = built(IDQL, **SMALL, num_candidates=1)
    with torch.no_grad():
        for parameter in module.ema_actor.parameters():
            parameter.mul_(1.2)
        module.target_critic.output.weight.fill_(torch.nan)
    observation = torch.randn(3, 3)
    acted = module.act(observation, [torch.Generator().manual_seed(i) for i in range(3)])
    noise = torch.stack([torch.randn(T, 1, 2, generator=torch.Generator().manual_seed(i)) for i in range(3)], 1)[:, :, 0]
    expected = reference_actions(PlainNetwork(module.ema_actor.network), observation.double(), noise.double())
    torch.testing.assert_close(acted.double(), expected, rtol=0, atol=1e-5)
    assert not module.uses_values
    assert module.decision_facts()["candidates"] == 1


def test_among_several_the_target_critics_take_the_best():
    module = built(IDQL, **SMALL, num_candidates=6)
    observation = torch.randn(1, 3)
    noise = torch.randn(T, 6, 2, generator=torch.Generator().manual_seed(4))
    candidates = reference_actions(PlainNetwork(module.ema_actor.network), observation.double().expand(6, -1), noise.double())
    values = torch.stack(
        [c(torch.cat([observation.double().expand(6, -1), candidates], 1))[:, 0] for c in relu_critics(module.target_critic)]
    )
    acted = module.act(observation, [torch.Generator().manual_seed(4)])
    torch.testing.assert_close(acted[0].double(), candidates[values.min(0).values.argmax()], rtol=0, atol=1e-5)
