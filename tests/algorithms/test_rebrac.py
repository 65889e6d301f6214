"""ReBRAC against an independent calculation, its delayed actor, and the data's next actions."""

import copy
from types import SimpleNamespace

import pytest
import torch

from edp_lightning.algorithms.rebrac import ReBRAC
from edp_lightning.data.loader import TransitionLoader
from edp_lightning.data.tables.table import TransitionTable
from edp_lightning.data.transitions import Batch, SuccessorBatch
from edp_lightning.errors import UserError
from tests.algorithms.bare import BareSteps, built, rows
from tests.algorithms.plain import assert_gradients, critics, flat, gradients_of, ordered, plain

SMALL = {"hidden_dims": [16, 16]}


def successors(count=16, seed=1):
    generator = torch.Generator().manual_seed(7)
    action = torch.rand(count, 2, generator=generator) * 2 - 1
    return SuccessorBatch(*rows(count, seed), action, (torch.rand(count, generator=generator) < 0.7).float())


@pytest.mark.parametrize("options", [{}, {"normalize_q": False, "actor_layer_norm": True, "critic_layer_norm": False}])
def test_one_step_equals_an_independent_calculation(options):
    module = built(ReBRAC, **SMALL, actor_bc_coef=0.3, critic_bc_coef=0.2, critic_lr=1e-2, **options)
    with torch.no_grad():
        for parameter in [*module.target_critic.parameters(), *module.target_actor.parameters(), *module.critic.parameters()]:
            parameter.mul_(1.5).add_(0.01)
    steps, batch = BareSteps(module), successors()
    noise = module.row_noise(0).normal(16, 2).double()
    q, q_bar = critics(module.critic), critics(module.target_critic)
    actor, actor_bar = plain(module.actor.network), plain(module.target_actor.network)
    o, a, r, o2, d, k, a2, known = (field.double() for field in batch)
    with torch.no_grad():
        chosen = (torch.tanh(actor_bar(o2)) + (0.2 * noise).clamp(-0.5, 0.5)).clamp(-1, 1)
        value = torch.minimum(*(c(torch.cat([o2, chosen], 1))[:, 0] for c in q_bar))
        y = r + 0.99**k * (1 - d) * (value - 0.2 * known * ((chosen - a2) ** 2).sum(1))
    optimizer = torch.optim.Adam([p for c in q for p in c.parameters()], lr=1e-2)
    critic_loss = sum(((c(torch.cat([o, a], 1))[:, 0] - y) ** 2).mean() for c in q)
    critic_loss.backward()
    critic_gradient = gradients_of(q)
    optimizer.step()
    mine = torch.tanh(actor(o))
    value = torch.minimum(*(c(torch.cat([o, mine], 1))[:, 0] for c in q))
    scale = 1 if options.get("normalize_q") is False else 1 / value.abs().mean().detach()
    loss = (0.3 * ((mine - a) ** 2).sum(1) - scale * value).mean()
    gradient = torch.autograd.grad(loss, ordered(actor))

    outputs = steps.step(batch)
    assert outputs["watched"]["critic/loss"].item() == pytest.approx(critic_loss.item(), rel=1e-5)
    assert outputs["watched"]["actor/loss"].item() == pytest.approx(loss.item(), rel=1e-4)
    assert_gradients(module.critic, critic_gradient)
    assert_gradients(module.actor, flat(gradient), tolerance=1e-4)  # through critics after their step in float32


def test_the_actor_rests_every_other_step_and_so_do_the_targets():
    module, batch = built(ReBRAC, **SMALL), successors()
    steps = BareSteps(module)
    followed = []
    for _ in range(4):
        before = [flat(n.parameters()) for n in (module.actor, module.target_critic, module.target_actor, module.critic)]
        outputs = steps.step(batch)
        after = [flat(n.parameters()) for n in (module.actor, module.target_critic, module.target_actor, module.critic)]
        followed.append([not torch.equal(a, b) for a, b in zip(before, after, strict=True)])
        assert list(outputs["watched"]) == ["critic/loss", "critic/gradient_norm", "actor/loss", "actor/gradient_norm"]
        assert [len(norms) for norms in outputs["gradient_norms"].values()] == [
            len(list(module.critic.parameters())),
            len(list(module.actor.parameters())),
        ]
    assert followed == [[True] * 4, [False, False, False, True]] * 2


def test_what_the_actor_did_is_logged_though_it_rests_when_the_critics_are_logged():
    """With an even period all log steps are the actor's rests; its last step before them is logged instead."""
    module, batch = built(ReBRAC, **SMALL), successors()
    steps, logged = BareSteps(module), {}
    steps.trainer.log_every_n_steps = 4
    steps.trainer.loggers = [SimpleNamespace(log_metrics=lambda numbers, step: logged.update({step: numbers}))]
    module.log_dict = lambda *args, **kwargs: None
    outputs = [steps.step(batch) for _ in range(8)]
    assert list(logged) == [2, 3, 6, 7]
    assert set(logged[2]) == {"actor/loss", "actor/gradient_norm", "actor/bc_loss", "actor/value"}
    assert set(logged[3]) == {"critic/loss", "critic/gradient_norm", "critic/q_mean", "critic/target"}
    assert logged[6]["actor/loss"] == outputs[6]["watched"]["actor/loss"].item() != 0


def test_initial_weights_are_those_of_the_reference():
    module = built(ReBRAC, hidden_dims=[16, 16, 16])
    hidden = [*module.actor.network.hidden, *module.critic.body.hidden]
    assert all((layer.bias == 0.1).all() for layer in hidden)
    assert 0.2 < module.critic.body.hidden[1].weight.abs().max() <= 0.25
    for output, bound in ((module.actor.network.output, 1e-3), (module.critic.body.output, 3e-3)):
        assert 0.5 * bound < output.weight.abs().max() <= bound
        assert output.bias.abs().max() <= bound
    assert module.actor.network.norms is None
    assert len(module.critic.body.norms) == 3


def table():
    """Two episodes of three steps, cut by a time limit and by a termination, then rows that jump two steps."""
    observation = torch.tensor([0.0, 1, 2, 10, 11, 12, 20, 21, 22, 23]).unsqueeze(1)
    following = torch.tensor([1.0, 2, 3, 11, 12, 13, 22, 23, 24, 25]).unsqueeze(1)
    action = torch.arange(10.0).unsqueeze(1)
    steps = torch.tensor([1.0] * 6 + [2.0] * 4)
    return TransitionTable.from_batch(Batch(observation, action, torch.zeros(10), following, torch.zeros(10), steps))


def test_the_next_action_is_that_of_the_row_that_goes_on_and_unknown_where_none_does():
    batch = table().gather_with_successors(torch.arange(10))
    assert batch.next_action_known.tolist() == [1, 1, 0, 1, 1, 0, 1, 1, 0, 0]
    assert batch.next_action[:, 0].tolist() == [1, 2, 0, 4, 5, 0, 8, 9, 0, 0]
    assert all(torch.equal(a, b) for a, b in zip(batch[:6], table().gather(torch.arange(10)), strict=True))
    rows = table()
    plain_loader, loader = (TransitionLoader(rows, 4, 5, seed=3, gather=g) for g in (None, rows.gather_with_successors))
    with_actions = loader.batch(2)
    assert isinstance(with_actions, SuccessorBatch)
    assert torch.equal(with_actions.observation, plain_loader.batch(2).observation)  # the same rows


def test_batches_without_next_actions_are_refused_unless_nothing_needs_them():
    module = built(ReBRAC, **SMALL)
    assert module.uses_next_action
    with pytest.raises(UserError, match="critic_bc_coef"):
        BareSteps(module).step(rows())
    module = built(ReBRAC, **SMALL, critic_bc_coef=0.0)
    assert not module.uses_next_action
    assert torch.isfinite(BareSteps(module).step(rows())["watched"]["critic/loss"])


def test_an_unknown_next_action_costs_nothing():
    batch = successors()
    other = batch._replace(next_action=torch.where(batch.next_action_known[:, None] == 1, batch.next_action, 5.0))
    losses = [BareSteps(copy.deepcopy(built(ReBRAC, **SMALL))).step(b)["watched"]["critic/loss"].item() for b in (batch, other)]
    assert losses[0] == losses[1]
