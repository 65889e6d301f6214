import functools
import math
from types import SimpleNamespace

import gymnasium as gym
import numpy as np
import pytest
import torch

from edp_lightning.algorithms.inspection import TunableEntropy
from edp_lightning.callbacks import EntropyCoefficientTuning
from edp_lightning.diffusion import MeanRevertingSDE
from edp_lightning.errors import UserError
from edp_lightning.networks.noise_network import NoiseNetwork
from edp_lightning.policies.diffusion import DiffusionPolicy
from tests.conftest import make_buffer, make_set, scalars

INITIAL = math.exp(-1.0)


def module(entropy="bridge"):
    log_coef = torch.tensor(-1.0)
    fake = SimpleNamespace(
        observation_dim=2,
        log_entropy_coef=log_coef,
        normalizer=lambda observation: observation,
        mean_over_ranks=lambda value: value,
        entropy_coef_of_state=None,
        device=torch.device("cpu"),
        seed=0,
    )
    use = functools.partial(setattr, fake, "entropy_coef_of_state")
    actor = DiffusionPolicy(NoiseNetwork(2, 3, [4]), MeanRevertingSDE(5))
    target = functools.partial(actor.default_target_entropy, entropy)
    fake.tunable_entropy = None if entropy == "none" else TunableEntropy(log_coef, INITIAL, target, use)
    return fake


def tuned(entropy, steps=5, **kwargs):
    callback, fake = EntropyCoefficientTuning(enabled=True, lr=0.1, **kwargs), module()
    callback.on_fit_start(None, fake)
    for _ in range(steps):
        callback.on_train_batch_end(None, fake, {"entropy": torch.tensor([entropy - 1, entropy + 1])}, None, 0)
    return fake.log_entropy_coef.item()


def test_coefficient_grows_below_the_target_and_shrinks_above():
    assert tuned(-4.0) > -1 > tuned(-2.0)  # the default target is -action_dim = -3
    assert tuned(-3.0) == -1
    assert tuned(0.0, target_entropy=1.0) > -1


def test_first_step_is_adams_step_on_the_objective():
    log_coef = torch.tensor(-1.0, requires_grad=True)
    adam = torch.optim.Adam([log_coef], lr=0.1)
    for _ in range(3):  # J = alpha (H - target), differentiated by torch
        adam.zero_grad()
        (log_coef.exp() * (-4.0 + 3.0)).backward()
        adam.step()
    assert tuned(-4.0, steps=3) == pytest.approx(log_coef.item())


def test_each_state_gets_its_own_coefficient():
    callback, fake = EntropyCoefficientTuning(enabled=True, mode="state", target_entropy=0.0, lr=0.03), module()
    callback.on_fit_start(None, fake)
    observation = torch.tensor([[1.0, 0.0], [-1.0, 0.0], [5.0, 5.0]])
    torch.testing.assert_close(fake.entropy_coef_of_state(observation), torch.full((3,), INITIAL))
    before = fake.entropy_coef_of_state(observation)
    for _ in range(50):  # the third row of the batch is beyond the states whose entropy was estimated
        outputs = {"entropy": torch.tensor([0.5, -0.5])}
        callback.on_train_batch_end(None, fake, outputs, SimpleNamespace(observation=observation), 0)
    after = fake.entropy_coef_of_state(observation)
    assert after[0] < before[0]
    assert after[1] > before[1]
    assert fake.log_entropy_coef.item() == -1


@pytest.mark.parametrize("then", [{"enabled": False}, {"enabled": True}])
def test_a_coefficient_per_state_ends_with_the_training_that_tuned_it(then):
    fake = module()
    EntropyCoefficientTuning(enabled=True, mode="state").on_fit_start(None, fake)
    assert fake.entropy_coef_of_state is not None
    EntropyCoefficientTuning(**then).on_fit_start(None, fake)
    assert fake.entropy_coef_of_state is None


def test_coefficient_network_starts_equal_on_all_ranks():
    weights = []
    for state in (1, 2):
        torch.manual_seed(state)  # ranks may have drawn different numbers before
        callback, fake = EntropyCoefficientTuning(enabled=True, mode="state"), module()
        callback.on_fit_start(None, fake)
        weights.append(torch.cat([p.flatten() for p in callback.network.parameters()]))
    assert torch.equal(*weights)


def test_off_leaves_the_coefficient_and_has_no_state():
    callback, fake = EntropyCoefficientTuning(enabled=False), module()
    callback.on_fit_start(None, fake)
    callback.on_train_batch_end(None, fake, {"entropy": torch.tensor([5.0])}, None, 0)
    assert fake.log_entropy_coef.item() == -1
    assert callback.state_dict() == {}


def test_tuning_without_an_estimator_is_refused():
    with pytest.raises(UserError, match=r"model\.entropy"):
        EntropyCoefficientTuning(enabled=True).setup(None, module("none"), "fit")


def test_a_checkpoint_of_the_other_mode_is_refused():
    saved = EntropyCoefficientTuning(enabled=True)
    saved.on_fit_start(None, module())
    resumed = EntropyCoefficientTuning(enabled=True, mode="state")
    resumed.load_state_dict(saved.state_dict())
    with pytest.raises(UserError, match=r"entropy_tuning\.mode"):
        resumed.on_fit_start(None, module())


@pytest.mark.parametrize("num_steps", [3, 5, 10])
def test_default_target_of_path_is_the_entropy_of_noisy_narrow_actions(num_steps):
    torch.manual_seed(0)
    sde = MeanRevertingSDE(num_steps)
    action_std = 0.08896  # a Gaussian of this standard deviation has -1 nat
    assert 0.5 * math.log(2 * math.pi * math.e * action_std**2) == pytest.approx(-1, abs=1e-3)
    noisy = sde.diffuse(action_std * torch.randn(400_000, 1), torch.ones(400_000, dtype=torch.long), torch.randn(400_000, 1))
    entropy = 0.5 * math.log(2 * math.pi * math.e * noisy.var().item())
    actor = DiffusionPolicy(NoiseNetwork(2, 3, [4]), sde)
    assert actor.default_target_entropy("path") == pytest.approx(3 * entropy, abs=0.02)


@pytest.mark.parametrize("mode", [pytest.param("scalar", marks=pytest.mark.slow), "state"])
def test_training_reaches_the_target_entropy(mode, command):
    # Data with one narrow action per state: untuned, a^1 keeps little more than the 0.86 nats of its noise.
    rng = np.random.default_rng(0)
    observation = rng.uniform(-1, 1, (401, 1))
    action = 0.3 * np.sin(3 * observation[:-1]) + 0.05 * rng.normal(size=(400, 1))
    dataset = make_set(
        "tests/narrow-v0", [make_buffer(0, observation, action, [1.0] * 400)], gym.spaces.Box(-np.inf, np.inf, (1,))
    )
    options = [
        "--trainer.max_steps=400",
        "--trainer.log_every_n_steps=5",
        "--data.steps_per_epoch=400",
        "--data.batch_size=64",
        "--model.hidden_dims=[32,32]",
        "--model.num_diffusion_steps=5",
        "--model.entropy=path",
        "--model.eta=0",
        "--model.actor_lr=0.003",
        "--last_checkpoint.every_n_steps=400",
    ]
    target = 1.02
    tuning = [f"--entropy_tuning.mode={mode}", f"--entropy_tuning.target_entropy={target}", "--entropy_tuning.lr=0.03"]
    for enabled in ("false", "true"):
        folder = command(
            "fit", *options, *tuning, f"--entropy_tuning.enabled={enabled}", dataset=dataset, run_name=f"{mode}-{enabled}"
        )
        last = [value for _, value in scalars(folder)["actor/entropy"]][-20:]
        reached = np.mean(last) == pytest.approx(target, abs=0.1)
        assert reached == (enabled == "true"), np.mean(last)
