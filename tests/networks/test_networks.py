import pytest
import torch
import torch.nn.functional as F

from benchmarks.operators import Operators
from edp_lightning.networks.ensemble import QEnsemble
from edp_lightning.networks.mish import mish, mish_with_derivative
from edp_lightning.networks.noise_network import NoiseNetwork, TimeEmbedding
from edp_lightning.networks.scaling import ActionScaler
from tests.dispatch import default_device, fake_gpu


@pytest.fixture
def ensemble():
    torch.manual_seed(0)
    return QEnsemble(observation_dim=5, action_dim=3, num_critics=4, hidden_dims=(32, 16))


def test_ensemble_equals_a_loop_over_its_members(ensemble):
    observation, action = torch.randn(7, 5), torch.rand(7, 3)
    values = ensemble(observation, action)
    assert values.shape == (4, 7)
    for member in range(4):
        x = torch.cat([observation, action], dim=1)
        for layer in ensemble.hidden:
            x = F.mish(x @ layer.weight[member] + layer.bias[member])
        expected = x @ ensemble.output.weight[member] + ensemble.output.bias[member]
        torch.testing.assert_close(values[member], expected.squeeze(1))


def test_normalised_members_equal_a_loop_with_layer_norm_before_the_bias():
    torch.manual_seed(0)
    ensemble = QEnsemble(5, 3, 4, (32, 16), norm="layer")
    observation, action = torch.randn(7, 5), torch.rand(7, 3)
    values = ensemble(observation, action)
    for member in range(4):
        x = torch.cat([observation, action], dim=1)
        for layer in ensemble.hidden:
            products = x @ layer.weight[member]
            x = F.mish(F.layer_norm(products, (products.shape[1],)) + layer.bias[member])
        expected = x @ ensemble.output.weight[member] + ensemble.output.bias[member]
        torch.testing.assert_close(values[member], expected.squeeze(1))
    far = ensemble(1e6 * observation, action)  # what the normalisation is for
    assert far.abs().max() < 10 * values.abs().max()


def test_members_differ_and_start_near_zero(ensemble):
    values = ensemble(torch.randn(64, 5), torch.rand(64, 3))
    assert values.std(dim=0).mean() > 0
    assert values.abs().max() < 0.1
    assert all((layer.bias == 0.1).all() for layer in ensemble.hidden)
    assert ensemble.output.weight.abs().max() <= 3e-3


def test_a_members_gradient_stays_in_the_member(ensemble):
    ensemble(torch.randn(7, 5), torch.rand(7, 3))[2].sum().backward()
    for parameter in ensemble.parameters():
        touched = parameter.grad.flatten(1).abs().sum(dim=1) > 0
        assert touched.tolist() == [False, False, True, False]


def test_bfloat16_hidden_layers_keep_the_head_and_the_spread():
    torch.manual_seed(0)
    exact = QEnsemble(5, 3, 16)
    half = QEnsemble(5, 3, 16, hidden_dtype=torch.bfloat16)
    half.load_state_dict(exact.state_dict())
    for network in (exact, half):  # values of a sparse-reward task: a large common offset, a small spread
        network.output.bias.data -= 300
    observation, action = torch.randn(256, 5), torch.rand(256, 3)
    a, b = exact(observation, action), half(observation, action)
    assert b.dtype == torch.float32
    torch.testing.assert_close(b.std(dim=0).mean(), a.std(dim=0).mean(), rtol=0.05, atol=0)


def test_noise_network_depends_on_each_input_and_on_time():
    torch.manual_seed(0)
    network = NoiseNetwork(5, 3)
    noisy, t, observation = torch.randn(2, 3), torch.tensor([1, 4]), torch.randn(2, 5)
    base = network(noisy, t, observation)
    assert base.shape == (2, 3)
    for changed in ((noisy + 1, t, observation), (noisy, t % 5 + 1, observation), (noisy, t, observation + 1)):
        assert not torch.allclose(network(*changed), base)


def test_no_action_leaves_its_box_by_rounding():
    low, high = torch.meshgrid(torch.arange(-30, 30) / 10, torch.arange(-30, 30) / 10, indexing="ij")
    low, high = low[low < high], high[low < high]
    scaler = ActionScaler(len(low))
    scaler.set(low, high)
    for value in (-1.0, 1.0):
        action = scaler(torch.full_like(low, value))
        assert ((low <= action) & (action <= high)).all()
        torch.testing.assert_close(action, low if value < 0 else high)


def test_one_exponential_mish_is_mish():
    x = torch.linspace(-30, 40, 1001).requires_grad_()
    exact = x.detach().double().requires_grad_()
    ours, theirs = mish(x), F.mish(exact)
    torch.testing.assert_close(ours.double(), theirs, atol=1e-12, rtol=5e-7)  # relative: also where it is nearly 0
    (a,), (b,) = torch.autograd.grad(ours.sum(), x), torch.autograd.grad(theirs.sum(), exact)
    torch.testing.assert_close(a.double(), b, atol=5e-7, rtol=0)
    torch.testing.assert_close(mish_with_derivative(x.detach()), (ours.detach(), a))
    assert mish(x.bfloat16()).dtype == torch.bfloat16


def test_the_frequencies_of_times_are_computed_on_the_cpu():
    with default_device("meta"), Operators() as operators:
        embedding = TimeEmbedding()
    assert embedding.frequencies.device.type == "meta"
    assert "exp" not in {name for name, _ in operators.on("meta")}


def test_on_a_gpu_mish_is_one_kernel():
    with fake_gpu() as operators:
        x = torch.zeros(8, 4, device="cuda:0", dtype=torch.bfloat16)
        operators.counts.clear()
        assert mish(x).dtype == torch.bfloat16
    assert operators.counts == {"mish": 1}
