"""Diffusion-QL against an independent calculation, and where it meets the entropy-regularised policy."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from edp_lightning.algorithms.diffusion_ql import DiffusionQL
from edp_lightning.algorithms.entropy_diffusion import EntropyDiffusionPolicy
from edp_lightning.diffusion import DDPM
from tests.algorithms.bare import BareSteps, built, rows
from tests.algorithms.plain import assert_gradients, flat, gradients_of, linear

SMALL = {"hidden_dims": [16, 16]}


def ensemble(critic):
    """The critics one by one, float64."""
    found = []
    for member in range(critic.num_critics):
        layers = []
        for layer in [*critic.hidden, critic.output]:
            layers += [linear(layer.weight[member].detach().T, layer.bias[member, 0].detach()), nn.Mish()]
        found.append(nn.Sequential(*layers[:-1]))
    return found


class PlainNoise(nn.Module):
    """The noise network written anew, float64; index i = t - 1."""

    def __init__(self, network):
        super().__init__()
        first, second = network.time_embedding.hidden, network.time_embedding.output
        self.time = nn.Sequential(linear(first.weight, first.bias), nn.Mish(), linear(second.weight, second.bias))
        layers = []
        for layer in network.hidden:
            layers += [linear(layer.weight, layer.bias), nn.Mish()]
        self.trunk = nn.Sequential(*layers, linear(network.output.weight, network.output.bias))

    def forward(self, noisy, i, observation):
        angle = i.double()[:, None] * torch.exp(-math.log(10000) / 7 * torch.arange(8, dtype=torch.float64))
        time = self.time(torch.cat([angle.sin(), angle.cos()], 1))
        return self.trunk(torch.cat([noisy, time, observation], 1))


T = 5
BETA = 1 - np.exp(-0.1 / T - 0.5 * 9.9 * (2 * np.arange(1, T + 1) - 1) / T**2)
KEPT = np.cumprod(1 - BETA)


def sample(network, observation, noise):
    """Ancestral sampling with clipped predictions, from x_T to x_0."""
    x = noise[0]
    for i in reversed(range(T)):
        kept, before = KEPT[i], KEPT[i - 1] if i else 1.0
        eps = network(x, torch.full((len(x),), i), observation)
        start = ((x - math.sqrt(1 - kept) * eps) / math.sqrt(kept)).clamp(-1, 1)
        mean = BETA[i] * math.sqrt(before) / (1 - kept) * start + (1 - before) * math.sqrt(1 - BETA[i]) / (1 - kept) * x
        x = mean + math.sqrt(BETA[i] * (1 - before) / (1 - kept)) * noise[T - i] if i else mean
    return x.clamp(-1, 1)


@pytest.mark.parametrize("options", [{}, {"max_q_backup": True, "num_backup_actions": 3, "eta": 2.5}])
def test_one_step_equals_an_independent_calculation(options):
    module = built(DiffusionQL, **SMALL, **options)
    with torch.no_grad():
        for parameter in [*module.target_critic.parameters(), *module.ema_actor.parameters()]:
            parameter.mul_(1.1)
    actor, ema = PlainNoise(module.actor.network), PlainNoise(module.ema_actor.network)
    q, q_bar = ensemble(module.critic), ensemble(module.target_critic)
    steps, batch = BareSteps(module), rows()
    noise = module.draw_noise(0, 16)
    o, a, r, o2, d, k = (field.double() for field in batch)
    count = options.get("num_backup_actions", 1)

    with torch.no_grad():
        several = o2.repeat_interleave(count, 0)
        inputs = torch.cat([several, sample(ema, several, noise.next_action.double())], 1)
        best = [c(inputs)[:, 0].view(-1, count).max(1).values for c in q_bar]
        y = r + 0.99**k * (1 - d) * torch.minimum(*best)
    (((q[0](torch.cat([o, a], 1))[:, 0] - y) ** 2).mean() + ((q[1](torch.cat([o, a], 1))[:, 0] - y) ** 2).mean()).backward()
    critic_gradient = gradients_of(q)
    optimizer = torch.optim.Adam([p for c in q for p in c.parameters()], lr=3e-4)
    optimizer.step()

    i, eps = noise.time - 1, noise.action.double()
    kept = torch.tensor(KEPT)[i][:, None]
    bc_loss = ((actor(kept.sqrt() * a + (1 - kept).sqrt() * eps, i, o) - eps) ** 2).mean()
    new = torch.cat([o, sample(actor, o, noise.new_action.double())], 1)
    values = [c(new)[:, 0] for c in q]
    chosen = int(noise.improving)
    q_loss = -values[chosen].mean() / values[1 - chosen].abs().mean().detach()
    loss = bc_loss + options.get("eta", 1.0) * q_loss
    loss.backward()

    outputs = steps.step(batch)
    assert_gradients(module.critic, critic_gradient)
    assert_gradients(module.actor, flat(p.grad for p in actor.parameters()))
    assert outputs["watched"]["actor/loss"].item() == pytest.approx(loss.item(), rel=1e-5)


def test_either_critic_is_improved_on_and_the_draw_is_the_same_on_every_rank():
    module = built(DiffusionQL, **SMALL)
    BareSteps(module)
    drawn = [int(module.draw_noise(step, 4).improving) for step in range(20)]
    assert set(drawn) == {0, 1}
    module._trainer.world_size, module._trainer.global_rank = 2, 1
    assert [int(module.draw_noise(step, 2).improving) for step in range(20)] == drawn


def test_without_a_q_term_it_is_the_entropy_free_policy_with_the_same_process():
    """baselines: eta 0, no entropy, DDPM: the same behaviour loss and gradient on the same noise."""
    module = built(DiffusionQL, **SMALL, eta=0.0)
    ours = built(EntropyDiffusionPolicy, **SMALL, eta=0.0, entropy="none", num_critics=2, q_aggregation="min")
    ours.actor.sde = DDPM(5)
    ours.actor.network.load_state_dict(module.actor.network.state_dict())
    steps, others, batch = BareSteps(module), BareSteps(ours), rows()
    noise = module.draw_noise(0, 16)

    class Source:
        def draw(self, *args):
            from edp_lightning.algorithms.noise import StepNoise

            return StepNoise(noise.next_action, noise.time, noise.action, torch.zeros(0, 16, 2))

    ours._noise = Source()
    theirs = others.step(batch)["watched"]
    mine = steps.step(batch)["watched"]
    assert mine["actor/loss"].item() == theirs["actor/loss"].item()
    assert torch.equal(flat(module.actor.parameters()), flat(ours.actor.parameters()))


def test_no_gradient_where_the_chain_is_clipped():
    module = built(DiffusionQL, **SMALL)
    with torch.no_grad():
        module.actor.network.output.bias.fill_(-100.0)  # every prediction lies far outside the box
    BareSteps(module)
    noise = module.draw_noise(0, 8)
    loss = module.q_loss(torch.randn(8, 3), noise)
    gradients = torch.autograd.grad(loss, list(module.actor.parameters()))
    assert all(float(g.abs().max()) == 0 for g in gradients)


def test_actions_lie_in_the_box_and_facts_say_how_they_were_chosen():
    module = built(DiffusionQL, **SMALL, num_candidates=4)
    generators = [torch.Generator().manual_seed(i) for i in range(3)]
    together = module.act(torch.ones(3, 3), generators)
    alone = module.act(torch.ones(1, 3), [torch.Generator().manual_seed(2)])
    torch.testing.assert_close(together[2:], alone)
    assert together.abs().max() <= 1
    assert module.decision_facts() == {"candidates": 4, "candidate_temperature": 1.0}
    assert module.critic.output.weight.abs().max() > 3e-3  # PyTorch's start, not the ensemble's
