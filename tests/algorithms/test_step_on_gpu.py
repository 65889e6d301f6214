"""What a gradient step would do on a GPU, read off tensors that claim to be on one; nothing here is measured on a GPU."""

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from benchmarks.operators import Operators
from edp_lightning.algorithms.entropy_diffusion import EntropyDiffusionPolicy
from edp_lightning.algorithms.noise import StepNoise
from edp_lightning.data.transitions import Batch
from tests.dispatch import fake_gpu

ROWS, BACKUP = 256, 10
WRITTEN = {"float32": 3.0e9, "bfloat16": 2.0e9}
"""Bytes that a step may write before autograd's part; the passes for CPUs write 6.4e9 and 7.0e9 there."""


def to_fake_gpu(module: nn.Module) -> None:
    """Make a module claim to be on the GPU; call it inside ``fake_gpu``."""
    mode = torch._C._get_dispatch_mode(torch._C._TorchDispatchModeKey.FAKE)
    assert isinstance(mode, FakeTensorMode)
    for part in module.modules():
        for name, parameter in part._parameters.items():
            part._parameters[name] = nn.Parameter(mode.from_tensor(parameter).detach().to("cuda:0"), requires_grad=False)
        for name, buffer in part._buffers.items():
            part._buffers[name] = mode.from_tensor(buffer).to("cuda:0")
    module._device = torch.device("cuda:0")


def critic_step(precision: str) -> Operators:
    """Take the critics' gradient of 64 critics with max-Q, eagerly."""
    module = EntropyDiffusionPolicy(29, 8, max_q_backup=True, hidden_precision=precision)
    module.configure_model()
    with fake_gpu() as operators:
        to_fake_gpu(module)
        module.prepare_step(compiled=False)
        shapes = [(ROWS, 29), (ROWS, 8), (ROWS,), (ROWS, 29), (ROWS,), (ROWS,)]
        batch = Batch(*(torch.zeros(shape, device="cuda:0") for shape in shapes))
        noise = StepNoise(
            torch.zeros(5, ROWS * BACKUP, 8, device="cuda:0"),
            torch.ones(ROWS, dtype=torch.long, device="cuda:0"),
            torch.zeros(ROWS, 8, device="cuda:0"),
            torch.zeros(1, ROWS, 8, device="cuda:0"),
        )
        operators.counts.clear()
        operators.results.clear()
        operators.written = 0
        terms = module.objectives.critic_terms(batch, noise)
        module.objectives.actor_terms(batch, noise)
    assert {gradient.device.type for gradient in terms.gradients} == {"cuda"}
    return operators


@pytest.mark.filterwarnings("ignore:model.hidden_precision bfloat16 is slow")
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_everything_of_a_step_stays_on_the_device(precision):
    operators = critic_step(precision)
    assert operators.on("cpu") == set()
    assert operators.synchronisations == 0
    assert torch.float64 not in {dtype for _, dtype in operators.on("cuda")}
    assert operators.written < WRITTEN[precision]
