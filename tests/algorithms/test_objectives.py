"""The losses of a step and their gradients, against calculations of their own."""

import pytest
import torch

from edp_lightning.acceleration import critic_passes
from edp_lightning.acceleration.native.perceptrons import instruction_sets
from edp_lightning.algorithms.losses import advantage_weights, max_over_actions, normalized, q_time_weights, td_target
from edp_lightning.algorithms.optimization import loss_gradients
from edp_lightning.errors import UserError
from edp_lightning.networks.coefficient import CoefficientNetwork
from edp_lightning.networks.ensemble import aggregate_q
from tests.algorithms.entropy_diffusion_steps import batch, build, noise, relative_error


def autograd_terms(module, data, draws):
    """The same losses the plain way: whole ensemble, autograd through everything, in the order they are stepped."""
    n = module.num_backup_actions
    with torch.no_grad():
        following = module.normalizer(data.next_observation).repeat_interleave(n, dim=0)
        values = module.target_critic(following, module.ema_actor.sample(following, draws.next_action))
        target = td_target(data.reward, data.terminated, data.steps, max_over_actions(values, n), module.hparams["discount"])
    q = module.critic(module.normalizer(data.observation), data.action)
    critic_loss = (q - target).square().mean()
    _, clean, observation = module.objectives.predict_clean(data, draws)
    q = module.critic(observation, clean.clamp(-1.0, 1.0))
    value = aggregate_q(q, module.q_aggregation, module.lcb_coef)
    if module.hparams["q_time_weight"] == "signal":
        ratio = ((-2 * module.actor.sde.cumulative).exp() / -torch.expm1(-2 * module.actor.sde.cumulative))[draws.time]
        value = (
            value * ratio / ((-2 * module.actor.sde.cumulative[1]).exp() / -torch.expm1(-2 * module.actor.sde.cumulative[1]))
        )
    return critic_loss, normalized(value.mean(), q.abs().mean())


ERRORS = {"float32": (1e-6, 2e-6, 2e-6), "bfloat16": (5e-3, 1e-2, 5e-2)}
"""Relative errors: of the losses, of the critics' gradient, of the actor's, where a0hat may cross the action box's edge."""


@pytest.mark.parametrize(
    ("precision", "way", "aggregation", "norm"),
    [
        ("float32", "eager", "lcb", "none"),
        ("float32", "eager", "min", "layer"),
        ("bfloat16", "eager", "lcb", "none"),
        ("float32", "compiled", "lcb", "none"),
        pytest.param("float32", "compiled", "lcb", "layer", marks=pytest.mark.slow),
        pytest.param("bfloat16", "compiled", "lcb", "none", marks=pytest.mark.slow),
        pytest.param(
            "bfloat16",
            "fused",
            "lcb",
            "none",
            marks=pytest.mark.skipif(not instruction_sets(), reason="needs a processor with bfloat16"),
        ),
    ],
)
def test_gradients_of_a_step_equal_autograd(monkeypatch, precision, way, aggregation, norm):
    loss_error, critic_error, actor_error = ERRORS[precision]
    monkeypatch.setattr(critic_passes, "CHUNK_BYTES", 256 * 32 * 4)  # two chunks in bfloat16, four in float32
    options = {"entropy": "none", "max_q_backup": True, "num_backup_actions": 3, "q_aggregation": aggregation}
    options |= {"critic_norm": norm, "q_time_weight": "signal" if norm == "layer" else "uniform"}
    exact, module = build(**options), build(hidden_precision=precision, **options)
    module.load_state_dict(exact.state_dict())
    if way == "compiled":
        monkeypatch.setattr("edp_lightning.algorithms.offline_algorithm.fused_perceptrons", lambda: None)
    elif way == "fused":  # nothing else is compiled
        monkeypatch.setattr("edp_lightning.algorithms.offline_algorithm.compile_or_eager", lambda function, *_: function)
    module.prepare_step(compiled=way != "eager")
    data, draws = batch(256), noise(module, 256)
    critic_loss, value_loss = autograd_terms(exact, data, draws)
    critic = module.objectives.critic_terms(data, draws)
    assert critic.loss.item() == pytest.approx(critic_loss.item(), rel=loss_error)
    assert relative_error(critic.gradients, loss_gradients(critic_loss, exact.critic)) < critic_error
    terms = module.objectives.actor_terms(data, draws)
    ours = normalized(terms.value, terms.value_scale)
    assert ours.item() == pytest.approx(value_loss.item(), rel=loss_error)
    assert relative_error(loss_gradients(ours, module.actor), loss_gradients(value_loss, exact.actor)) < actor_error


@pytest.mark.parametrize("entropy", ["none", "reference", "bridge", "path"])
def test_actor_loss_gives_the_critics_no_gradient_and_targets_are_constants(entropy):
    module = build(entropy=entropy)
    draws = {"none": 0, "reference": 1, "bridge": 2, "path": 5}[entropy]
    module.actor_loss(module.objectives.actor_terms(batch(), noise(module, draws=draws))).backward()
    assert all(p.grad is None for p in [*module.critic.parameters(), *module.target_critic.parameters()])
    assert all(p.grad is not None for p in module.actor.parameters())
    module.zero_grad()
    terms = module.objectives.critic_terms(batch(), noise(module, draws=draws))
    assert not terms.target.requires_grad
    assert [g.shape for g in terms.gradients] == [p.shape for p in module.critic.parameters()]
    assert all(p.grad is None for p in [*module.actor.parameters(), *module.ema_actor.parameters()])


def test_both_actors_sample_with_the_error_of_the_trained_one():
    """The errors of a step are those of the clipped predictions on its own batch."""
    module = build(reverse_variance="matched")
    data, draws = batch(), noise(module)
    terms = module.objectives.actor_terms(data, draws)
    module.actor.prediction_error.update(terms.squared_errors)
    noisy = module.actor.sde.diffuse(data.action, draws.time, draws.action)
    predicted = module.actor.network(noisy, draws.time, data.observation)
    error = (module.actor.predict_clean(noisy, draws.time, predicted) - data.action).square()
    for t in range(1, 6):
        if (draws.time == t).any():
            torch.testing.assert_close(module.ema_actor.prediction_error()[t], error[draws.time == t].mean(0).detach())
    assert build().objectives.actor_terms(data, draws).squared_errors is None


@pytest.mark.parametrize("choice", ["critic", "ensemble"])
@pytest.mark.parametrize("reverse_variance", ["posterior", "matched"])
def test_target_by_an_independent_calculation(reverse_variance, choice):
    options = {"reverse_variance": reverse_variance, "backup_choice": choice, "lcb_coef": 2.0}
    module = build(max_q_backup=True, num_backup_actions=3, discount=0.9, **options)
    ends, steps = torch.tensor([0.0, 1.0] + [0.0] * 6), torch.tensor([1.0, 2.0, 3.0, 2.0, 1.0, 3.0, 1.0, 2.0])
    data, draws = batch(8)._replace(terminated=ends, steps=steps), noise(module, 8)
    _, q, target, _ = module.objectives.critic_terms(data, draws)
    together = 0
    for row in range(8):
        actions = module.ema_actor.sample(data.next_observation[row].expand(3, 3), draws.next_action[:, 3 * row : 3 * row + 3])
        values = module.target_critic(data.next_observation[row].expand(3, 3), actions)
        best = (values.mean(dim=0) - 2.0 * values.std(dim=0)).argmax()
        together += int((values.argmax(dim=1) != best).any())
        for critic in range(4):
            value = values[critic].max() if choice == "critic" else values[critic, best]
            expected = data.reward[row] + (1 - ends[row]) * 0.9 ** steps[row] * value
            torch.testing.assert_close(target[critic, row], expected)
    assert together > 0  # in some rows a critic by itself would choose otherwise
    torch.testing.assert_close(q, module.critic(data.observation, data.action))


@pytest.mark.parametrize("eta", [0.0, 3.0])
def test_relative_q_term_by_autograd_through_everything(eta):
    module = build(eta=eta, q_scale="state", q_time_weight="signal")
    data, draws = batch(), noise(module)
    magnitude = torch.tensor(0.8)
    terms = module.objectives.actor_terms(data, draws, mean_magnitude=magnitude)
    _, clean, observation = module.objectives.predict_clean(data, draws)
    q = module.critic(observation, clean.clamp(-1.0, 1.0))
    scale = q.abs().mean(dim=0).detach().clamp(min=0.08)
    value = (aggregate_q(q, "lcb", 4.0) * q_time_weights(module.actor.sde, draws.time, "signal") / scale).mean()
    expected = terms.bc_loss.detach() - eta * value
    loss = module.actor_loss(terms)
    torch.testing.assert_close(loss, expected.to(loss.dtype))
    if eta:
        ours, exact = (loss_gradients(x, module.actor) for x in (terms.value, value))
        assert relative_error(ours, exact) < 1e-6


def test_rows_that_gained_more_than_expected_are_cloned_more():
    """The behaviour loss of a step by hand: each row's squared error of noise, weighted by its TD error over all critics."""
    module = build(eta=0.0, bc_inverse_temperature=2.0)
    data, draws = batch(), noise(module)
    critic = module.objectives.critic_terms(data, draws)
    loss = module.objectives.actor_terms(data, draws, module.behavior_weights(critic)).bc_loss
    noisy = module.actor.sde.diffuse(data.action, draws.time, draws.action)
    errors = (module.actor.network(noisy, draws.time, data.observation) - draws.action).square().mean(dim=1)
    following = module.ema_actor.sample(data.next_observation, draws.next_action)
    gained = data.reward + module.hparams["discount"] * module.target_critic(data.next_observation, following)
    advantage = (gained - module.critic(data.observation, data.action)).mean(dim=0)
    weight = (2.0 * advantage / advantage.abs().mean()).exp().clamp(max=20.0)
    torch.testing.assert_close(loss, (weight * errors).sum() / weight.sum())
    assert build().behavior_weights(critic) is None


def test_collected_rows_may_be_left_out_of_the_behaviour_loss():
    module = build(eta=0.0)
    data, draws = batch(), noise(module)
    module.cloned_rows = 5
    critic = module.objectives.critic_terms(data, draws)
    loss = module.objectives.actor_terms(data, draws, module.behavior_weights(critic)).bc_loss
    noisy = module.actor.sde.diffuse(data.action, draws.time, draws.action)
    errors = (module.actor.network(noisy, draws.time, data.observation) - draws.action).square()
    torch.testing.assert_close(loss, errors[:5].mean())


def test_weights_of_two_ranks_are_those_of_one_process():
    module = build(bc_inverse_temperature=2.0)
    critic = module.objectives.critic_terms(batch(), noise(module))
    whole = module.behavior_weights(critic)
    halves = [
        critic._replace(target=target, q=q) for target, q in zip(critic.target.split(8, 1), critic.q.split(8, 1), strict=True)
    ]
    scale = (critic.target - critic.q).mean(dim=0).abs().mean()
    raw = advantage_weights((critic.target - critic.q).mean(dim=0), scale, 2.0).mean()
    for half, expected in zip(halves, whole.split(8), strict=True):
        means = iter([scale, raw])  # what the ranks agree on, in the order they are asked
        module.mean_over_ranks = lambda value, means=means: next(means)
        torch.testing.assert_close(module.behavior_weights(half), expected)


def test_terminated_rows_do_not_bootstrap():
    module = build()
    data = batch()._replace(terminated=torch.ones(16))
    torch.testing.assert_close(module.objectives.critic_terms(data, noise(module)).target, data.reward.expand(4, 16))


def test_targets_stay_within_what_rewards_allow():
    free, bounded = build(), build(target_bounds=[-0.1, 0.2])
    bounded.load_state_dict(free.state_dict())
    data, draws = batch(), noise(free)
    target = free.objectives.critic_terms(data, draws).target
    assert target.min() < -0.1 and target.max() > 0.2
    critic = bounded.objectives.critic_terms(data, draws)
    torch.testing.assert_close(critic.target, target.clip(-0.1, 0.2))
    torch.testing.assert_close(critic.loss, ((critic.q - target.clip(-0.1, 0.2)) ** 2).mean().to(critic.loss.dtype))


@pytest.mark.parametrize("bounds", [[1.0, 1.0], [1.0], [0.0, float("inf")], [2.0, 1.0]])
def test_bounds_that_bound_nothing_are_refused(bounds):
    with pytest.raises(UserError, match=r"target_bounds must be (a least and a greater|a finite) number"):
        build(target_bounds=bounds)


def test_one_nat_of_path_entropy_is_worth_the_coefficient():
    module = build(entropy="path", entropy_coef=0.3)
    terms = module.objectives.actor_terms(batch(), noise(module, draws=5))
    without = terms._replace(entropy_coef=torch.zeros(()))
    more = terms._replace(entropy=terms.entropy + 1)
    torch.testing.assert_close(module.actor_loss(terms) - module.actor_loss(more), torch.tensor(0.3))
    torch.testing.assert_close(module.actor_loss(without) - module.actor_loss(terms), 0.3 * terms.entropy.mean())


@pytest.mark.parametrize("entropy", ["reference", "bridge"])
def test_other_estimates_are_weighed_against_their_magnitude(entropy):
    module = build(entropy=entropy, entropy_coef=0.3)
    terms = module.objectives.actor_terms(batch(), noise(module, draws=2))
    bonus = 0.3 * terms.entropy.mean() / terms.entropy.abs().mean()
    without = terms._replace(entropy_coef=torch.zeros(()))
    torch.testing.assert_close(module.actor_loss(without) - module.actor_loss(terms), bonus)


def test_each_state_weighs_its_own_entropy():
    module = build(entropy="path")
    module.entropy_coef_of_state = lambda observation: observation[:, 0] ** 2
    data, draws = batch(), noise(module, draws=5)
    terms = module.objectives.actor_terms(data, draws)
    bonus = (data.observation[:, 0] ** 2 * terms.entropy).mean()
    without = terms._replace(entropy_coef=torch.zeros(()))
    torch.testing.assert_close(module.actor_loss(without) - module.actor_loss(terms), bonus)


def test_a_compiled_step_sees_changes_of_the_coefficient():
    module = build(entropy="path", eta=0.0)
    network = CoefficientNetwork(3, 0.01)
    module.entropy_coef_of_state = network.forward
    data, draws = batch(), noise(module, draws=5)
    eager = module.objectives.actor_terms(data, draws)
    module.prepare_step(compiled=True)
    torch.testing.assert_close(module.objectives.actor_terms(data, draws), eager, atol=1e-4, rtol=1e-4)
    torch.nn.init.ones_(network.output.bias)
    terms = module.objectives.actor_terms(data, draws)
    torch.testing.assert_close(terms.entropy_coef, module.entropy_coef(data.observation))
