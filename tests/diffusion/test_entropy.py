import math

import pytest
import torch

from edp_lightning.diffusion import MeanRevertingSDE, bridge_entropy, path_entropy, reference_entropy

ROWS = 400_000


@pytest.fixture
def sde():
    torch.manual_seed(0)
    return MeanRevertingSDE(5)


@pytest.mark.parametrize("action", [0.0, 0.7, 3.0])
def test_reference_estimate_is_a_bonus_on_the_squared_action(sde, action):
    clean = torch.full((ROWS, 1), action)
    estimate = reference_entropy(sde, clean, torch.randn_like(clean)).mean().item()
    assert estimate == pytest.approx(0.779 + 0.0628 * action**2, abs=0.01)


@pytest.mark.parametrize("action", [-0.9, 0.0, 0.5])
def test_bridge_estimate_does_not_depend_on_the_action(sde, action):
    clean = torch.full((ROWS, 1), action, requires_grad=True)
    estimate = bridge_entropy(sde, clean, torch.randn(ROWS, 1), torch.randn(ROWS, 1)).mean()
    # given a^0 the bridge is Gaussian: variance of a^1 given a^T and a^0, in closed form
    v1, decay = sde.std[1] ** 2, torch.exp(-(sde.cumulative[5] - sde.cumulative[1]))
    variance = v1 * (1 - decay**2) / (decay**2 * v1 + 1 - decay**2)
    assert estimate.item() == pytest.approx(0.5 * math.log(2 * math.pi * math.e * variance.item()), abs=0.01)
    (gradient,) = torch.autograd.grad(estimate, clean)
    assert abs(gradient.sum().item()) < 0.01


@pytest.mark.parametrize("spread", [0.05, 0.3])
def test_path_bound_of_a_gaussian_policy_is_close_to_and_below_its_entropy(spread):
    # For data N(0, spread^2) the optimal one-step prediction is linear, and a^1's law is known: N(0, spread^2 decay^2 + std^2).
    torch.manual_seed(0)
    sde = MeanRevertingSDE(5)

    def predict_clean(noisy, t):
        decay, variance = sde.decay[t].unsqueeze(1), sde.std[t].unsqueeze(1) ** 2
        return noisy * decay * spread**2 / (decay**2 * spread**2 + variance)

    bound = path_entropy(sde, predict_clean, torch.randn(5, ROWS, 1)).mean().item()
    # the model's own a^1: propagate the linear chain's variance
    variance = torch.ones(())
    for time in range(5, 1, -1):
        t = torch.tensor([time])
        unit = sde.posterior(torch.ones(1, 1), t, predict_clean(torch.ones(1, 1), t))
        variance = unit.mean.squeeze() ** 2 * variance + unit.variance.squeeze()
    entropy = 0.5 * math.log(2 * math.pi * math.e * float(variance))
    assert bound <= entropy + 0.005
    assert bound >= entropy - 0.1


def test_path_bound_pushes_a_collapsed_policy_apart():
    torch.manual_seed(0)
    sde = MeanRevertingSDE(5)
    scale = torch.tensor(0.2, requires_grad=True)
    entropy = path_entropy(sde, lambda noisy, t: scale * noisy, torch.randn(5, 4096, 2)).mean()
    (gradient,) = torch.autograd.grad(entropy, scale)
    assert gradient.item() > 0
