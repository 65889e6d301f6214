"""Flow Q-learning against an independent calculation."""

import pytest
import torch
from torch import nn

from edp_lightning.algorithms.fql import FQL
from edp_lightning.networks.initialization import XAVIER
from edp_lightning.networks.perceptron import Perceptron
from edp_lightning.policies.flow import FlowPolicy
from tests.algorithms.bare import BareSteps, built, rows
from tests.algorithms.plain import assert_gradients, critics, flat, gradients_of, ordered, plain

SMALL = {"hidden_dims": [16, 16], "num_flow_steps": 3}


@pytest.mark.parametrize("options", [{}, {"q_aggregation": "min", "normalize_q": True, "actor_layer_norm": True}])
def test_one_step_equals_an_independent_calculation(options):
    module = built(FQL, **SMALL, alpha=4.0, **options)
    with torch.no_grad():
        for parameter in [*module.target_critic.parameters()]:
            parameter.mul_(1.1)
    steps, batch = BareSteps(module), rows()
    x2, x0, t, z = (tensor.double() for tensor in module.draw_noise(0, 16))

    def gelu():
        return nn.GELU(approximate="tanh")

    q, q_bar = critics(module.critic, activation=gelu), critics(module.target_critic, activation=gelu)
    policy, flow = plain(module.actor.network, activation=gelu), plain(module.flow.network, activation=gelu)
    o, a, r, o2, d, k = (field.double() for field in batch)
    with torch.no_grad():
        a2 = policy(torch.cat([o2, x2], 1)).clamp(-1, 1)
        values = torch.stack([c(torch.cat([o2, a2], 1))[:, 0] for c in q_bar])
        value = values.min(0).values if options.get("q_aggregation") == "min" else values.mean(0)
        y = r + 0.99**k * (1 - d) * value
        point = z
        for i in range(3):
            point = point + flow(torch.cat([o, point, torch.full((16, 1), i / 3, dtype=torch.float64)], 1)) / 3
        cloned = point.clamp(-1, 1)
    velocity = flow(torch.cat([o, (1 - t) * x0 + t * a, t], 1))
    ((velocity - (a - x0)) ** 2).mean().backward()
    mine = policy(torch.cat([o, z], 1))
    value = torch.stack([c(torch.cat([o, mine.clamp(-1, 1)], 1))[:, 0] for c in q]).mean(0)
    scale = 1 / value.abs().mean().detach() if options.get("normalize_q") else 1.0
    loss = 4.0 * ((mine - cloned) ** 2).mean() - scale * value.mean()
    gradient = torch.autograd.grad(loss, ordered(policy))
    (sum(((c(torch.cat([o, a], 1))[:, 0] - y) ** 2).mean() for c in q) / 2).backward()

    outputs = steps.step(batch)
    assert_gradients(module.critic, gradients_of(q))
    assert_gradients(module.flow, flat(p.grad for p in ordered(flow)))
    assert_gradients(module.actor, flat(gradient))
    assert outputs["watched"]["actor/loss"].item() == pytest.approx(loss.item(), rel=1e-5)


def test_a_constant_velocity_carries_noise_to_where_it_points():
    network = Perceptron(3 + 2 + 1, [4], 2, init=XAVIER)
    with torch.no_grad():
        network.output.weight.zero_()
        network.output.bias.copy_(torch.tensor([0.25, 3.0]))
    action = FlowPolicy(network, num_steps=7).sample(torch.zeros(1, 3), torch.tensor([[0.5, 0.0]]))
    torch.testing.assert_close(action, torch.tensor([[0.75, 1.0]]))


def test_initial_weights_are_those_of_the_reference():
    module = built(FQL, hidden_dims=[32, 32])
    for layer in (module.flow.network.hidden[1], module.actor.network.hidden[1]):
        bound = (6 / 64) ** 0.5
        assert 0.9 * bound < layer.weight.abs().max() <= bound
        assert layer.bias.abs().max() == 0
    assert module.actor.network.norms is None
    assert len(module.critic.body.norms) == 2
