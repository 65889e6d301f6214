import pytest
import torch

from edp_lightning.acceleration.critic_passes import CriticPasses, chunk_sizes, with_action_gradient
from edp_lightning.networks.ensemble import QEnsemble

CPU = torch.device("cpu")


@pytest.mark.parametrize("num_critics", [1, 2, 7, 10, 64, 65])
@pytest.mark.parametrize("rows", [1, 256, 2560])
def test_chunks_cover_all_critics_and_fit_the_cache(num_critics, rows):
    sizes = chunk_sizes(num_critics, rows, 256, torch.float32, CPU)
    assert sum(sizes) == num_critics
    assert max(sizes) - min(sizes) <= 1  # two shapes at most: each is compiled once
    assert max(sizes) == 1 or max(sizes) * rows * 256 * 4 <= 1 << 20


def test_other_devices_take_all_critics_at_once():
    assert chunk_sizes(64, 2560, 256, torch.float32, torch.device("cuda")) == [64]


@pytest.mark.parametrize("hidden_dims", [(32,), (32, 16), (8, 16, 24, 8)])
def test_passes_equal_autograd_for_any_depth(hidden_dims):
    torch.manual_seed(0)
    critic = QEnsemble(5, 3, 4, hidden_dims)
    passes = CriticPasses(lambda function: function)
    observation, action = torch.randn(7, 5), torch.rand(7, 3, requires_grad=True)
    inputs = torch.cat([observation, action.detach()], dim=1)
    q = critic(observation, action)
    torch.testing.assert_close(passes.values(critic, inputs), q.detach())
    target = torch.randn(4, 7)
    loss = (q - target).square().mean()
    expected = torch.autograd.grad(loss, list(critic.parameters()), retain_graph=True)
    ours = passes.td_gradients(critic, inputs, target)
    torch.testing.assert_close(ours.loss, loss.detach())
    for a, b in zip(ours.gradients, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-7)
    values, derivative = passes.action_values(critic, inputs, 3)
    (expected_action,) = torch.autograd.grad(q.square().sum(), action)  # any function of q will do
    attached = with_action_gradient(values, derivative, action)
    torch.testing.assert_close(attached, q)
    (ours_action,) = torch.autograd.grad(attached.square().sum(), action)
    torch.testing.assert_close(ours_action, expected_action, rtol=1e-5, atol=1e-7)
