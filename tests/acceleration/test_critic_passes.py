import pytest
import torch

from edp_lightning.acceleration.critic_passes import CPU_PASSES, CriticPasses, chunk_sizes, with_action_gradient
from edp_lightning.acceleration.gpu_passes import FLOAT32_PRODUCTS, GPU_PASSES
from edp_lightning.networks.ensemble import QEnsemble
from tests.dispatch import fake_gpu

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


def as_it_is(function):
    return function


@pytest.mark.parametrize("functions", [CPU_PASSES, GPU_PASSES], ids=["cpu", "gpu"])
@pytest.mark.parametrize("hidden_dims", [(32,), (32, 16), (8, 16, 24, 8)])
@pytest.mark.parametrize("norm", ["none", "layer"])
def test_passes_equal_autograd_for_any_depth(hidden_dims, functions, norm):
    torch.manual_seed(0)
    critic = QEnsemble(4, 3, 4, hidden_dims, norm=norm)
    passes = CriticPasses(as_it_is, functions)
    observation, action = torch.randn(7, 4), torch.rand(7, 3, requires_grad=True)
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


@pytest.mark.parametrize("norm", ["none", "layer"])
def test_passes_for_a_gpu_round_like_those_for_a_cpu(norm):
    torch.manual_seed(0)
    critic = QEnsemble(4, 3, 4, (32, 32), torch.bfloat16, norm=norm)
    torch.nn.init.normal_(critic.output.weight)
    exact = QEnsemble(4, 3, 4, (32, 32), norm=norm)
    exact.load_state_dict(critic.state_dict())
    inputs, target = torch.randn(256, 7), torch.randn(4, 256)
    expected = CriticPasses(as_it_is).td_gradients(exact, inputs, target).gradients
    for functions in (CPU_PASSES, GPU_PASSES):
        found = CriticPasses(as_it_is, functions).td_gradients(critic, inputs, target).gradients
        for ours, theirs in zip(found, expected, strict=True):
            assert (ours - theirs).norm() < 1e-2 * theirs.norm()


@pytest.mark.skipif(not FLOAT32_PRODUCTS, reason="this torch rounds products to the dtype of their factors")
def test_on_a_gpu_rows_are_aligned_and_gradients_of_weights_never_bfloat16():
    with fake_gpu() as operators, torch.device("cuda:0"):
        critic = QEnsemble(29, 8, 64, (256, 256), torch.bfloat16).requires_grad_(False)
        operators.counts.clear()
        found = CriticPasses(as_it_is, GPU_PASSES).td_gradients(critic, torch.zeros(256, 37), torch.zeros(64, 256))
    assert [(g.shape, g.dtype, g.is_contiguous()) for g in found.gradients] == [
        (p.shape, torch.float32, True) for p in critic.parameters()
    ]
    assert {(name, dtype) for name, dtype in operators.on("cuda") if name == "bmm"} >= {("bmm", torch.float32)}
    assert operators.on("cpu") == set()
    assert operators.counts["mish"] == 2
