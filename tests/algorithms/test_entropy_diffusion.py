from types import SimpleNamespace

import pytest
import torch

from benchmarks.operators import Operators
from edp_lightning.algorithms.optimization import apply_gradients, loss_gradients
from edp_lightning.callbacks import NumericsGuard, TargetNetworkUpdate
from edp_lightning.data.transitions import Batch
from edp_lightning.errors import UserError
from tests.algorithms.entropy_diffusion_steps import batch, build, noise


@pytest.mark.parametrize("log_every_n_steps", [1, 100], ids=["a step that logs", "a usual step"])
@pytest.mark.parametrize("reverse_variance", ["posterior", "matched"])
def test_a_gradient_step_reads_no_number_from_the_device(reverse_variance, log_every_n_steps):
    """What is logged is read as one list, which costs one wait and is no such operator."""
    module = build(entropy="reference", max_q_backup=True, reverse_variance=reverse_variance)
    optimizers = module.configure_optimizers()
    guard, target_update = NumericsGuard(), TargetNetworkUpdate()
    logged = []
    trainer = SimpleNamespace(
        optimizers=optimizers,
        global_step=1,
        world_size=1,
        log_every_n_steps=log_every_n_steps,
        max_steps=-1,
        strategy=None,
        global_rank=0,
        loggers=[SimpleNamespace(log_metrics=lambda numbers, step: logged.append(numbers))],
    )
    module._trainer = trainer
    module.optimizers = lambda use_pl_optimizer=True: optimizers
    module.set_scales(-1.0, 1.0)
    module.log_dict = lambda *args, **kwargs: None
    module.on_fit_start()
    target_update.on_train_start(trainer, module)
    data = batch()
    with Operators() as operators:
        outputs = module.training_step(data, 0)
        for callback in (guard, target_update):
            callback.on_train_batch_end(trainer, module, outputs, data, 0)
    assert operators.synchronisations == 0
    assert [len(numbers) for numbers in logged] == [11] * (log_every_n_steps == 1)


def test_behaviour_cloning_learns_a_conditional_action():
    module = build(eta=0.0, num_candidates=1)
    optimizer = torch.optim.Adam(module.actor.parameters(), lr=3e-3)
    for step in range(400):
        generator = torch.Generator().manual_seed(step)
        observation = torch.randn(128, 3, generator=generator)
        action = torch.stack([torch.tanh(observation[:, 0]), -torch.tanh(observation[:, 1])], dim=1)
        data = Batch(observation, action, torch.zeros(128), observation, torch.zeros(128), torch.ones(128))
        loss = module.actor_loss(module.objectives.actor_terms(data, noise(module, 128, step=step)))
        apply_gradients(optimizer, module.actor, loss_gradients(loss, module.actor), None)
    generators = [torch.Generator().manual_seed(i) for i in range(64)]
    observation = torch.randn(64, 3, generator=torch.Generator().manual_seed(99))
    expected = torch.stack([torch.tanh(observation[:, 0]), -torch.tanh(observation[:, 1])], dim=1)
    assert (module.act(observation, generators) - expected).abs().mean() < 0.15


def test_candidates_choose_what_the_target_critics_prefer():
    module = build(num_candidates=200, candidate_temperature=0.0)

    with torch.no_grad():
        for parameter in module.target_critic.parameters():
            parameter.zero_()
        for layer, row in zip([*module.target_critic.hidden, module.target_critic.output], (3, 0, 0), strict=True):
            layer.bias.fill_(2.0)  # where Mish rises, so Q rises with the first action, which follows three observations
            layer.weight[:, row, 0] = 1.0
    generators = [torch.Generator().manual_seed(i) for i in range(8)]
    best = module.act(torch.randn(8, 3), generators)
    module.num_candidates = 1
    single = module.act(torch.randn(8, 3), generators)
    assert best[:, 0].mean() > single[:, 0].mean() + 0.3


def test_noise_at_execution_has_its_deviation_and_stays_in_the_box():
    observation = torch.randn(400, 3)
    quiet, noisy = build(num_candidates=2), build(num_candidates=2, execution_noise=0.1)
    of_quiet, of_noisy = (m.act(observation, [torch.Generator().manual_seed(i) for i in range(400)]) for m in (quiet, noisy))
    inside = of_quiet.abs() < 0.6  # further than four deviations from where actions are clipped
    assert inside.sum() > 50
    assert (of_noisy - of_quiet)[inside].std().item() == pytest.approx(0.1, rel=0.25)
    assert of_noisy.abs().max() <= 1
    assert noisy.decision_facts()["execution_noise"] == 0.1
    assert "execution_noise" not in quiet.decision_facts()


def test_actions_are_in_the_environments_units():
    module = build()
    module.action_scaler.set(torch.tensor([-2.0, 0.0]), torch.tensor([2.0, 10.0]))
    actions = module.act(torch.randn(50, 3), [torch.Generator().manual_seed(i) for i in range(50)])
    assert (actions >= torch.tensor([-2.0, 0.0])).all()
    assert (actions <= torch.tensor([2.0, 10.0])).all()
    assert actions[:, 1].mean() > 1


def test_normalised_observations_do_not_depend_on_units():
    module = build()
    raw = torch.randn(16, 3)
    module.normalizer.set(torch.full((3,), 5.0), torch.full((3,), 2.0))
    scaled = module.act(raw * 2 + 5, [torch.Generator().manual_seed(i) for i in range(16)])
    module.normalizer.set(torch.zeros(3), torch.ones(3))
    torch.testing.assert_close(module.act(raw, [torch.Generator().manual_seed(i) for i in range(16)]), scaled)


def test_clipping_bounds_the_joint_norm():
    module = build()
    optimizer = torch.optim.SGD(module.critic.parameters(), lr=1.0)
    before = [p.detach().clone() for p in module.critic.parameters()]
    gradients = [gradient * 1000 for gradient in module.objectives.critic_terms(batch(), noise(module)).gradients]
    norm = apply_gradients(optimizer, module.critic, gradients, 0.5).joint
    moved = torch.stack([(a - b).norm() for a, b in zip(module.critic.parameters(), before, strict=True)]).norm()
    assert norm > 0.5
    assert moved.item() == pytest.approx(0.5, rel=1e-4)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"num_critics": 1}, "num_critics"),
        ({"entropy_coef": 0.0}, "entropy: none"),
        ({"entropy_states": 0}, "entropy_states"),
        ({"entropy": "reference", "num_diffusion_steps": 2}, "num_diffusion_steps"),
        ({"entropy": "path", "reverse_variance": "matched"}, "reverse_variance"),
    ],
)
def test_impossible_settings_are_refused(wrong, message):
    with pytest.raises(UserError, match=message):
        build(**wrong)


@pytest.mark.parametrize("precision", ["16-mixed", "bf16-mixed", "bf16-true", "64-true"])
def test_the_trainers_precision_is_refused_in_favour_of_the_models(precision):
    module = build()
    module._trainer = SimpleNamespace(precision=precision)
    with pytest.raises(UserError, match="Use 32-true with model"):
        module.setup("fit")


def test_a_checkpoint_of_critics_of_another_kind_is_refused():
    module = build(critic_norm="layer")
    for saved in ({}, {"critic_norm": "none"}):  # older checkpoints do not say
        with pytest.raises(UserError, match="critic_norm none but this run has layer"):
            module.on_load_checkpoint({"hyper_parameters": saved})
    module.on_load_checkpoint({"hyper_parameters": {"critic_norm": "layer"}})


def test_one_critic_works_with_the_minimum():
    module = build(num_critics=1, q_aggregation="min")
    terms = module.objectives.actor_terms(batch(), noise(module))
    assert torch.isfinite(module.actor_loss(terms))
