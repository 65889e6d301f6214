import math

import pytest
import torch

from edp_lightning.diffusion import MeanRevertingSDE, bridge_entropy, gaussian_entropy, path_entropy, reference_entropy

ROWS = 200_000


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


def perfect_prediction(sde, means, spread):
    """Return E[a^0 | a^t] for equal Gaussians of this standard deviation around ``means``: the perfect score, one dimension."""
    means = torch.tensor(means)

    def predict_clean(noisy, t):
        decay, noise_variance = sde.decay[t].unsqueeze(1), sde.std[t].unsqueeze(1) ** 2
        variance = decay**2 * spread**2 + noise_variance
        share = torch.softmax(-((noisy - decay * means) ** 2) / (2 * variance), dim=1)  # (batch, modes)
        of_mode = means + decay * spread**2 / variance * (noisy - decay * means)
        return (share * of_mode).sum(1, keepdim=True)

    return predict_clean


def gaussian_bound_and_entropy(sde, spread):
    """Return the bound's expectation and the entropy of the policy's own a^1 for actions N(0, spread^2), in closed form.

    The prediction is linear, so the chain is Gaussian: its moments and all expected log densities follow by arithmetic.
    """
    variance, bound = 1.0, gaussian_entropy(1.0)
    for t in range(sde.num_steps, 1, -1):
        decay, noise_variance = float(sde.decay[t]), float(sde.std[t]) ** 2
        gain = decay * spread**2 / (decay**2 * spread**2 + noise_variance)
        slope = float(sde.posterior_noisy_coef[t]) + float(sde.posterior_clean_coef[t]) * gain
        reverse_variance = float(sde.posterior_std[t]) ** 2
        previous = slope**2 * variance + reverse_variance
        kept = math.exp(-float(sde.step[t]))
        residual = variance - 2 * kept * slope * variance + kept**2 * previous  # E (a^t - kept a^{t-1})^2
        forward_variance = 1 - kept**2
        bound += gaussian_entropy(reverse_variance)
        bound -= 0.5 * (math.log(2 * math.pi * forward_variance) + residual / forward_variance)
        variance = previous
    return bound, gaussian_entropy(variance)


@pytest.mark.parametrize("num_steps", [2, 3, 5, 10, 20])
@pytest.mark.parametrize("spread", [0.05, 0.2, 0.5])
def test_path_bound_of_a_gaussian_law_has_its_closed_form(num_steps, spread):
    torch.manual_seed(0)
    sde = MeanRevertingSDE(num_steps)
    estimate = path_entropy(sde, perfect_prediction(sde, [0.0], spread), torch.randn(num_steps, ROWS, 1)).mean().item()
    bound, entropy = gaussian_bound_and_entropy(sde, spread)
    assert estimate == pytest.approx(bound, abs=0.005)
    assert bound <= entropy + 1e-6
    if num_steps <= 5:
        assert estimate == pytest.approx(entropy, abs=0.02)


def entropy_on_a_grid(sde, predict_clean):
    """Return the entropy of the policy's own one-dimensional a^1: its density carried through the chain on a grid."""
    grid = torch.linspace(-6, 6, 2401)
    width = grid[1] - grid[0]
    density = torch.exp(-0.5 * grid**2) / math.sqrt(2 * math.pi)
    for time in range(sde.num_steps, 1, -1):
        t = torch.full((len(grid),), time)
        reverse = sde.posterior(grid.unsqueeze(1), t, predict_clean(grid.unsqueeze(1), t))
        kernel = torch.exp(-((grid - reverse.mean) ** 2) / (2 * reverse.variance)) / (2 * math.pi * reverse.variance).sqrt()
        density = (density.unsqueeze(1) * kernel).sum(0) * width
    assert density.sum().item() * width.item() == pytest.approx(1, abs=1e-3)
    return -torch.special.xlogy(density, density).sum().item() * width.item()


@pytest.mark.parametrize("num_steps", [2, 5, 10, 20])
@pytest.mark.parametrize(("means", "spread"), [([-0.6, 0.6], 0.05), ([-0.7, 0.0, 0.7], 0.15), ([-0.8, -0.3, 0.1, 0.8], 0.02)])
def test_path_bound_of_mixtures_is_never_above_the_entropy(num_steps, means, spread):
    torch.manual_seed(0)
    sde = MeanRevertingSDE(num_steps)
    predict_clean = perfect_prediction(sde, means, spread)
    rows = path_entropy(sde, predict_clean, torch.randn(num_steps, ROWS, 1))
    entropy = entropy_on_a_grid(sde, predict_clean)
    error = rows.std().item() / ROWS**0.5
    assert error < 0.003
    assert rows.mean().item() <= entropy + 4 * error
    if num_steps <= 5:
        assert rows.mean().item() >= entropy - 0.06


def test_path_bound_pushes_a_collapsed_policy_apart():
    torch.manual_seed(0)
    sde = MeanRevertingSDE(5)
    scale = torch.tensor(0.2, requires_grad=True)
    entropy = path_entropy(sde, lambda noisy, t: scale * noisy, torch.randn(5, 4096, 2)).mean()
    (gradient,) = torch.autograd.grad(entropy, scale)
    assert gradient.item() > 0


@pytest.mark.parametrize("num_steps", [2, 20])
def test_path_bound_is_differentiable_at_few_and_many_steps(num_steps):
    torch.manual_seed(0)
    sde = MeanRevertingSDE(num_steps)
    scale = torch.tensor(0.2, requires_grad=True)
    noise = torch.randn(num_steps, 256, 1)

    def bound(factor):
        return path_entropy(sde, lambda noisy, t: torch.tanh(factor * noisy), noise).mean()

    (gradient,) = torch.autograd.grad(bound(scale), scale)
    with torch.no_grad():
        difference = (bound(scale + 0.01) - bound(scale - 0.01)) / 0.02
    assert gradient.item() == pytest.approx(difference.item(), rel=0.02)
