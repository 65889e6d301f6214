import pytest
import torch
from torch import nn

from edp_lightning.diffusion import MeanRevertingSDE, gaussian_entropy
from edp_lightning.networks.noise_network import NoiseNetwork
from edp_lightning.policies.diffusion import DiffusionPolicy, choose_candidate
from edp_lightning.policies.prediction_error import PredictionError, squared_error_sums


class GaussianNoise(nn.Module):
    """The optimal noise prediction for data N(mean, std^2), whatever the observation."""

    def __init__(self, sde, mean, std):
        super().__init__()
        self.sde, self.mean, self.std = sde, mean, std

    def forward(self, noisy, t, observation):
        decay, sigma = self.sde.decay[t].unsqueeze(1), self.sde.std[t].unsqueeze(1)
        variance = (decay * self.std) ** 2 + sigma**2
        return sigma * (noisy - decay * self.mean) / variance


def test_sampling_with_the_optimal_network_returns_the_data_distribution():
    torch.manual_seed(0)
    sde = MeanRevertingSDE(400)
    policy = DiffusionPolicy(GaussianNoise(sde, 0.3, 0.1), sde, clip_start=False)
    sample = policy.sample(torch.zeros(50_000, 1), torch.randn(400, 50_000, 1))
    assert sample.mean().item() == pytest.approx(0.3, abs=0.01)
    assert sample.std().item() == pytest.approx(0.1, rel=0.1)


def test_noise_matching_keeps_narrow_data_narrow_at_five_steps():
    torch.manual_seed(0)
    sde = MeanRevertingSDE(5)
    policy = DiffusionPolicy(GaussianNoise(sde, 0.0, 0.2), sde)
    sample = policy.sample(torch.zeros(50_000, 1), torch.randn(5, 50_000, 1))
    assert sample.std().item() < 0.2  # five steps shrink the spread (0.054 with a perfect fit) but never widen it


@pytest.mark.parametrize("num_steps", [2, 5, 20])
@pytest.mark.parametrize("std", [0.05, 0.2])
def test_a_chain_with_matched_variances_is_exact_for_gaussian_data(num_steps, std):
    """The prediction's error, measured on noised data as in training, restores what the posterior variance loses."""
    torch.manual_seed(0)
    sde = MeanRevertingSDE(num_steps)
    mean = torch.tensor([0.3, -0.1])
    error = PredictionError(num_steps, 2)
    policy = DiffusionPolicy(GaussianNoise(sde, mean, std), sde, clip_start=False, prediction_error=error)
    for _ in range(3):
        action = mean + std * torch.randn(50_000, 2)
        t, noise = torch.randint(1, num_steps + 1, (50_000,)), torch.randn(50_000, 2)
        noisy = sde.diffuse(action, t, noise)
        clean = sde.predict_clean(noisy, t, policy.network(noisy, t, action))
        error.update(squared_error_sums(clean, action, t, num_steps))
    assert policy.num_draws == num_steps + 1
    sample = policy.sample(torch.zeros(50_000, 1), torch.randn(num_steps + 1, 50_000, 2))
    torch.testing.assert_close(sample.mean(0), mean, atol=0.01, rtol=0)
    torch.testing.assert_close(sample.std(0), torch.full((2,), std), atol=0, rtol=0.03)


def test_prediction_errors_are_means_by_time_and_dimension_and_forget_slowly():
    error = PredictionError(3, 2, decay=0.5)
    clean, action = torch.tensor([[1.0, 2.0], [3.0, 0.0], [0.0, 1.0]]), torch.zeros(3, 2)
    sums = squared_error_sums(clean, action, torch.tensor([1, 1, 3]), 3)
    error.update(sums)
    torch.testing.assert_close(error(), torch.tensor([[0.0, 0.0], [5.0, 2.0], [0.0, 0.0], [0.0, 1.0]]))
    error.update(squared_error_sums(torch.zeros(3, 2), action, torch.tensor([1, 1, 3]), 3))
    torch.testing.assert_close(error()[1], torch.tensor([5.0, 2.0]) * 0.5 / 1.5)  # half the weight of the new rows


def test_rows_of_twice_the_weight_count_as_two_in_errors_and_behaviour_loss():
    policy = DiffusionPolicy(NoiseNetwork(1, 2, [8]), MeanRevertingSDE(5))
    t, weights = torch.tensor([1, 1, 3]), torch.tensor([0.75, 1.5, 0.75])
    clean, action, noise = (torch.randn(3, 2) for _ in range(3))
    twice = torch.tensor([0, 1, 1, 2])
    sums = squared_error_sums(clean, action, t, 5, weights)
    torch.testing.assert_close(sums, squared_error_sums(clean[twice], action[twice], t[twice], 5))
    noisy = policy.sde.diffuse(action, t, noise)
    predicted = policy.network(noisy, t, torch.randn(3, 1))
    for kind in ("noise_matching", "likelihood"):
        loss = policy.behavior_loss(action, noisy, t, noise, predicted, kind, weights)
        repeated = (rows[twice] for rows in (action, noisy, t, noise, predicted))
        torch.testing.assert_close(loss, policy.behavior_loss(*repeated, kind))


@pytest.mark.parametrize("clip_start", [True, False])
def test_samples_stay_in_the_box(clip_start):
    torch.manual_seed(0)
    sde = MeanRevertingSDE(5)
    policy = DiffusionPolicy(GaussianNoise(sde, 2.0, 0.5), sde, clip_start)
    assert policy.sample(torch.zeros(100, 1), torch.randn(5, 100, 2)).abs().max() <= 1


def test_perfect_predictions_have_zero_behaviour_loss_for_noise_matching_only():
    torch.manual_seed(0)
    sde = MeanRevertingSDE(5)
    policy = DiffusionPolicy(GaussianNoise(sde, 0.0, 1.0), sde)
    action, noise, t = torch.rand(5, 2), torch.randn(5, 2), torch.arange(1, 6)
    noisy = sde.diffuse(action, t, noise)
    assert policy.behavior_loss(action, noisy, t, noise, noise, "noise_matching").item() == 0
    # the Euler step of the likelihood loss is not the posterior mean: the true noise is not its optimum
    assert policy.behavior_loss(action, noisy, t, noise, noise, "likelihood").item() > 0


def test_path_entropy_is_that_of_the_chain_that_acts():
    # The network wants actions at 5. Clipped, every prediction is 1: a^1 is Gaussian with the noise's variance, and no
    # weight of the network could change that.
    torch.manual_seed(0)
    sde = MeanRevertingSDE(5)
    network = GaussianNoise(sde, torch.tensor(5.0, requires_grad=True), 0.2)
    clean, noise = torch.zeros(50_000, 1), torch.randn(5, 50_000, 1)
    for clip_start in (True, False):
        rows = DiffusionPolicy(network, sde, clip_start).entropy("path", clean, clean, noise)
        (gradient,) = torch.autograd.grad(rows.mean(), network.mean)
        if clip_start:
            assert rows.mean().item() == pytest.approx(gaussian_entropy(float(sde.std[1]) ** 2), abs=0.02)
            assert gradient.item() == 0
        else:
            assert gradient.item() != 0


def test_entropy_is_estimated_on_the_first_states():
    torch.manual_seed(0)
    policy = DiffusionPolicy(NoiseNetwork(2, 1, [8]), MeanRevertingSDE(5))
    clean, observation, noise = torch.randn(6, 1), torch.randn(6, 2), torch.randn(5, 6, 1)
    for estimator in ("reference", "bridge", "path"):
        whole = policy.entropy(estimator, clean, observation, noise)
        torch.testing.assert_close(policy.entropy(estimator, clean, observation, noise[:, :2]), whole[:2])


def test_zero_temperature_takes_the_best_candidate():
    scores = torch.tensor([[0.0, 2.0, 1.0], [5.0, 4.0, 3.0]])
    assert choose_candidate(scores, 0.0, torch.rand(2, 3)).tolist() == [1, 0]


def test_candidates_are_drawn_from_the_softmax():
    torch.manual_seed(0)
    scores = torch.tensor([0.0, 1.0, 3.0]).expand(200_000, 3)
    chosen = choose_candidate(scores, 2.0, torch.rand(200_000, 3))
    frequency = torch.bincount(chosen, minlength=3) / len(chosen)
    torch.testing.assert_close(frequency, torch.softmax(scores[0] / 2.0, dim=0), atol=0.005, rtol=0)
