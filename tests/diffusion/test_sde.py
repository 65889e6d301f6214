import pytest
import torch
from torch.distributions import Independent, Normal

from benchmarks.operators import Operators
from edp_lightning.diffusion import MeanRevertingSDE
from edp_lightning.diffusion.process import Gaussian
from tests.dispatch import default_device


@pytest.fixture
def sde():
    return MeanRevertingSDE(5)


def times(value, rows=1):
    return torch.full((rows,), value, dtype=torch.long)


def test_check_values_at_five_steps(sde):
    torch.testing.assert_close(sde.decay[1:], torch.tensor([0.8208, 0.4060, 0.1015, 0.0129, 0.0010]), atol=6e-5, rtol=0)
    torch.testing.assert_close(sde.std[1:], torch.tensor([0.5712, 0.9139, 0.9948, 0.9999, 1.0]), atol=6e-5, rtol=0)
    variance = torch.tensor([0.0, 0.2951, 0.7911, 0.9739, 0.9938])
    torch.testing.assert_close(sde.posterior_std[1:] ** 2, variance, atol=6e-5, rtol=0)


def test_marginal_equals_simulated_transitions(sde):
    torch.manual_seed(0)
    current = torch.full((200_000, 1), 0.7)
    for t in range(1, 4):
        step = sde.transition(current, times(t, len(current)))
        current = step.mean + step.variance.sqrt() * torch.randn_like(current)
    marginal = sde.marginal(torch.tensor([[0.7]]), times(3))
    assert current.mean().item() == pytest.approx(marginal.mean.item(), abs=0.01)
    assert current.var().item() == pytest.approx(marginal.variance.item(), abs=0.01)


@pytest.mark.parametrize("t", [2, 3, 5])
def test_posterior_is_bayes_rule(sde, t):
    # q(a^{t-1} | a^t, a^0) must be proportional to q(a^t | a^{t-1}) q(a^{t-1} | a^0): compare log densities up to a constant.
    clean, noisy = torch.tensor([[0.4]]), torch.tensor([[-0.3]])
    values = torch.linspace(-1, 1, 9).unsqueeze(1)
    rows = len(values)
    posterior = sde.posterior(noisy.expand(rows, 1), times(t, rows), clean.expand(rows, 1)).log_prob(values)
    joint = sde.transition(values, times(t, rows)).log_prob(noisy.expand(rows, 1))
    joint = joint + sde.marginal(clean.expand(rows, 1), times(t - 1, rows)).log_prob(values)
    difference = posterior - joint
    torch.testing.assert_close(difference, difference[:1].expand(rows), atol=1e-4, rtol=1e-4)


def test_first_step_is_certain_and_returns_the_clean_action(sde):
    posterior = sde.posterior(torch.randn(4, 2), times(1, 4), torch.full((4, 2), 0.25))
    assert (posterior.variance == 0).all()
    torch.testing.assert_close(posterior.mean, torch.full((4, 2), 0.25))


def test_true_noise_recovers_the_clean_action_at_every_time(sde):
    torch.manual_seed(0)
    clean, noise = torch.rand(5, 3) * 2 - 1, torch.randn(5, 3)
    t = torch.arange(1, 6)
    noisy = sde.diffuse(clean, t, noise)
    torch.testing.assert_close(sde.predict_clean(noisy, t, noise), clean, atol=2e-3, rtol=0)


def test_log_density_equals_torch_distributions():
    torch.manual_seed(0)
    mean, value, variance = torch.randn(6, 3), torch.randn(6, 3), torch.rand(6, 1) + 0.1
    expected = Independent(Normal(mean, variance.sqrt().expand(6, 3)), 1).log_prob(value)
    torch.testing.assert_close(Gaussian(mean, variance).log_prob(value), expected)


def test_bridge_composes_the_remaining_steps(sde):
    torch.manual_seed(0)
    first = torch.full((200_000, 1), 0.5)
    current = first
    for t in (3, 4, 5):
        step = sde.transition(current, times(t, len(current)))
        current = step.mean + step.variance.sqrt() * torch.randn_like(current)
    grid = torch.tensor([[0.0], [1.0]])
    log_density = sde.bridge(first[:2], times(2, 2), grid)
    for value, expected in zip(grid, log_density, strict=True):
        estimate = ((current - value).abs() < 0.05).float().mean() / 0.1
        assert estimate.item() == pytest.approx(expected.exp().item(), rel=0.05)


def test_tables_are_computed_on_the_cpu_whatever_the_default_device(sde):
    """Floating-point cumsum is not deterministic on CUDA, float64 does not exist on MPS; bits must not depend on either."""
    with default_device("meta"), Operators() as operators:
        elsewhere = MeanRevertingSDE(5)
    assert {buffer.device.type for buffer in elsewhere.buffers()} == {"meta"}
    assert elsewhere.dt == sde.dt
    assert {dtype for _, dtype in operators.on("meta")} == {torch.float32}
    assert {name for name, _ in operators.on("meta")} <= {"_to_copy", "empty", "lift_fresh"}  # copies, no arithmetic
