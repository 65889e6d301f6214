"""Adam's state between devices and forms. There is no GPU here: its form is put on by hand."""

import copy

import pytest
import torch
from torch import nn

from edp_lightning.algorithms.adam import PortableAdam
from edp_lightning.algorithms.optimization import set_learning_rate
from tests.dispatch import fake_gpu


def stepped(count, lr=1e-2):
    torch.manual_seed(0)
    parameter = nn.Parameter(torch.randn(5))
    optimizer = PortableAdam([parameter], lr)
    for step in range(count):
        parameter.grad = torch.linspace(-1, 1, 5) * (step + 1)
        optimizer.step()
    return parameter, optimizer


def as_on_a_gpu(optimizer):
    """Put on the form of a graph, which this torch would refuse to step."""
    optimizer.make_capturable()
    assert optimizer.param_groups[0]["capturable"] is True
    assert isinstance(optimizer.param_groups[0]["lr"], torch.Tensor)
    return optimizer


def test_it_is_adam():
    (ours, optimizer), (theirs, _) = stepped(3), stepped(0)
    expected = torch.optim.Adam([theirs], 1e-2, fused=True)
    for step in range(3):
        theirs.grad = torch.linspace(-1, 1, 5) * (step + 1)
        expected.step()
    assert torch.equal(ours, theirs)
    assert str(optimizer.state_dict()) == str(expected.state_dict())  # present checkpoints look the same


def test_a_file_of_a_graphed_run_goes_on_without_a_graph():
    parameter, optimizer = stepped(3)
    saved = copy.deepcopy(as_on_a_gpu(optimizer).state_dict())
    assert saved["param_groups"][0]["capturable"] is False
    assert saved["param_groups"][0]["lr"] == pytest.approx(1e-2) and isinstance(saved["param_groups"][0]["lr"], float)
    other, resumed = stepped(0, lr=5.0)
    other.data.copy_(parameter)
    resumed.load_state_dict(saved)
    other.grad = torch.ones(5)
    resumed.step()
    straight, plain = stepped(3)
    straight.grad = torch.ones(5)
    plain.step()
    torch.testing.assert_close(other, straight, rtol=0, atol=1e-7)  # the rate was a float32 tensor


@pytest.mark.parametrize("foreign", [False, True], ids=["usual", "with a graph's groups in it"])
def test_a_file_of_a_usual_run_goes_on_under_a_graph(foreign):
    _, optimizer = stepped(3)
    saved = optimizer.state_dict()
    if foreign:  # as torch's own Adam would have written them
        saved["param_groups"][0] |= {"capturable": True, "lr": torch.tensor(1e-2)}
    graphed = as_on_a_gpu(stepped(0, lr=5.0)[1])
    rate = graphed.param_groups[0]["lr"]
    graphed.load_state_dict(saved)
    (group,) = graphed.param_groups
    assert group["lr"] is rate  # the very tensor that a graph reads
    assert rate.item() == pytest.approx(1e-2)
    assert group["capturable"] is True
    set_learning_rate(graphed, 3e-3)
    assert rate.item() == pytest.approx(3e-3)
    plain = stepped(0)[1]
    plain.load_state_dict(saved)
    assert plain.param_groups[0]["capturable"] is False and plain.param_groups[0]["lr"] == pytest.approx(1e-2)


def test_counters_of_steps_follow_the_parameters_to_the_gpu():
    _, optimizer = stepped(3)
    saved = optimizer.state_dict()
    with fake_gpu():
        parameter = nn.Parameter(torch.zeros(5, device="cuda:0"), requires_grad=False)
        graphed = PortableAdam([parameter], 1e-2)
        graphed.make_capturable()
        state = {0: {name: torch.zeros(value.shape) for name, value in saved["state"][0].items()}}  # the file, on the CPU
        graphed.load_state_dict({"state": state, "param_groups": saved["param_groups"]})
        assert {value.device.type for value in graphed.state[parameter].values()} == {"cuda"}


def test_another_function_takes_the_step_once():
    parameter, optimizer = stepped(1)
    before, calls = parameter.detach().clone(), []
    optimizer.step_by(lambda: calls.append("stand-in"), lambda: optimizer.step(closure=lambda: calls.append("closure")))
    assert calls == ["closure", "stand-in"]
    assert torch.equal(parameter, before)
    optimizer.step()
    assert not torch.equal(parameter, before)
