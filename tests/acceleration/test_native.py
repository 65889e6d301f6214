"""The fused passes against the same arithmetic in float64, and what happens where they cannot be built."""

import copy
import ctypes
import os
import shutil
import subprocess
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from edp_lightning.acceleration.fused_networks import FusedCriticPasses
from edp_lightning.acceleration.native import perceptrons
from edp_lightning.acceleration.native.library import BuildError, load_library
from edp_lightning.acceleration.native.perceptrons import FLAGS, fused_perceptrons, instruction_sets, load_passes
from edp_lightning.algorithms.entropy_diffusion import EntropyDiffusionPolicy
from edp_lightning.diffusion import MeanRevertingSDE
from edp_lightning.networks.ensemble import QEnsemble
from edp_lightning.networks.noise_network import NoiseNetwork
from edp_lightning.policies.acting import ActionChooser, Choice
from edp_lightning.policies.diffusion import DiffusionPolicy


@pytest.fixture(params=list(FLAGS))
def fused(request):
    if request.param not in instruction_sets():
        pytest.skip(f"needs a processor with {request.param}")
    return load_passes(request.param)


def layers(members, widths):
    weights = [torch.randn(members, a, b) / a**0.5 for a, b in pairwise(widths)]
    return weights, [torch.randn(members, 1, b) for b in widths[1:]]


def exact(rows, weights, biases):
    """Return (outputs in float64, sum of the absolute products in the output layer): the scale of rounding errors."""
    x = rows.double().expand(len(weights[0]), -1, -1)
    for weight, bias in zip(weights[:-1], biases[:-1], strict=True):
        x = F.mish(x @ weight.double() + bias.double())
    return x @ weights[-1].double() + biases[-1].double(), x.abs() @ weights[-1].double().abs()


@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize(
    ("members", "rows", "widths"),
    [
        (10, 50, [37, 256, 256, 256, 1]),
        (1, 130, [53, 256, 256, 256, 8]),
        (3, 33, [5, 16, 16, 1]),
        (2, 1, [1, 1, 1]),
        (5, 300, [40, 33, 70, 15, 17]),
        (1, 7, [64, 32, 40]),
        (2, 0, [3, 16, 1]),
    ],
)
def test_it_is_the_network_up_to_bfloat16(fused, members, rows, widths, threads):
    torch.manual_seed(0)
    torch.set_num_threads(threads)
    weights, biases = layers(members, widths)
    inputs = torch.randn(rows, widths[0])
    found = fused.forward(inputs, weights, biases)
    expected, scale = exact(inputs, weights, biases)
    assert found.shape == (members, rows, widths[-1])
    assert ((found - expected).abs() <= 0.02 * scale + 1e-6).all()
    torch.set_num_threads(1)
    assert torch.equal(found, fused.forward(inputs, weights, biases))  # threads do not change a bit


def test_mish_is_accurate_over_its_whole_range(fused):
    values = torch.cat([torch.linspace(-90, 90, 4001), torch.tensor([-1e25, -1e4, 1e4, 1e30])]).bfloat16().float()
    one = [torch.ones(1, 1, 1)] * 2  # one unit that passes its input on
    found = fused.forward(values[:, None], one, [torch.zeros(1, 1, 1)] * 2).flatten()
    torch.testing.assert_close(found.double(), F.mish(values.double()), rtol=1e-5, atol=1e-9)


def test_a_row_does_not_depend_on_the_others(fused):
    torch.manual_seed(0)
    weights, biases = layers(3, [5, 40, 40, 1])
    inputs = torch.randn(200, 5)
    together = fused.forward(inputs, weights, biases)
    assert torch.equal(together[:, 77:131], fused.forward(inputs[77:131], weights, biases))


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_what_is_not_finite_stays_so(fused, bad):
    weights, biases = layers(2, [5, 40, 40, 1])
    inputs = torch.randn(40, 5)
    weights[1][1, 3, 7] = bad
    found = fused.forward(inputs, weights, biases)
    assert found[0].isfinite().all()
    assert not found[1].isfinite().any()


def test_other_tensors_are_refused(fused):
    weights, biases = layers(1, [3, 16, 1])
    with pytest.raises(TypeError, match=r"float32 tensors on a CPU, not torch.float64"):
        fused.forward(torch.zeros(2, 3, dtype=torch.float64), weights, biases)


def relative(found, expected):
    return ((found - expected).norm() / expected.norm()).item()


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize(
    ("critics", "rows", "hidden_dims", "observation_dim", "action_dim"),
    [
        (4, 256, [256, 256, 256], 29, 8),
        (3, 7, [16, 16], 3, 2),
        (5, 300, [40, 33, 70], 70, 40),  # more than one part of rows, more than one block of actions, odd widths
        (2, 600, [64], 29, 3),
        (3, 1, [96, 64], 60, 1),
    ],
)
def test_gradients_are_those_of_autograd_up_to_bfloat16(
    fused, critics, rows, hidden_dims, observation_dim, action_dim, threads
):
    torch.manual_seed(0)
    torch.set_num_threads(threads)
    critic = QEnsemble(observation_dim, action_dim, critics, hidden_dims)
    passes = FusedCriticPasses(fused)
    inputs = torch.randn(rows, observation_dim + action_dim)
    target = torch.randn(critics, rows)
    exactly = copy.deepcopy(critic).double()
    action = inputs[:, observation_dim:].double().requires_grad_()
    q = exactly(inputs[:, :observation_dim].double(), action)
    loss = (q - target.double()).square().mean()
    expected = torch.autograd.grad(loss, list(exactly.parameters()), retain_graph=True)

    found = passes.td_gradients(critic, inputs, target)
    assert relative(found.loss, loss) < 1e-4
    assert relative(found.q, q) < 1e-2
    for ours, theirs in zip(found.gradients, expected, strict=True):
        assert relative(ours, theirs) < 2e-2
    for parameter, gradient in zip(critic.parameters(), found.gradients, strict=True):
        parameter.grad = gradient
    again = passes.td_gradients(critic, inputs, target)  # overwrites, does not add up
    assert all(a is b.grad for a, b in zip(again.gradients, critic.parameters(), strict=True))
    for ours, theirs in zip(again.gradients, expected, strict=True):
        assert relative(ours, theirs) < 2e-2

    values, derivative = passes.action_values(critic, inputs, action_dim)
    assert torch.equal(values, found.q)
    weights = torch.rand(critics, rows, dtype=torch.float64)  # each critic for itself: one row of a Jacobian each
    (by_action,) = torch.autograd.grad((q * weights).sum(), action)
    assert relative((derivative * weights.float().unsqueeze(-1)).sum(0), by_action) < 2e-2


def test_actions_are_chosen_with_it(fused):
    torch.manual_seed(0)
    actor = DiffusionPolicy(NoiseNetwork(3, 2, [16, 16], torch.bfloat16), MeanRevertingSDE(4))
    critic = QEnsemble(3, 2, 5, [16, 16], torch.bfloat16)
    for parameter in critic.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    arguments = actor, critic, torch.randn(100, 3), torch.randn(4, 100, 6, 2), torch.rand(100, 6), Choice(6, 0.0, "lcb", 1.0)
    found = ActionChooser(never, fused).choose(*arguments)
    usual = ActionChooser(lambda function: function).choose(*arguments)
    close = (found - usual).abs().amax(-1) < 0.02
    assert close.float().mean() > 0.9  # where two candidates are nearly equal, rounding decides


def test_networks_that_moved_to_another_device_do_without():
    actor = DiffusionPolicy(NoiseNetwork(3, 2, [16]), MeanRevertingSDE(4)).to("meta")
    critic = QEnsemble(3, 2, 5, [16]).to("meta")
    arguments = (torch.zeros(size, device="meta") for size in ((10, 3), (4, 10, 6, 2), (10, 6)))
    cpu_only: Any = object()  # fails at any use
    chooser = ActionChooser(lambda function: function, cpu_only)
    assert chooser.choose(actor, critic, *arguments, Choice(6, 0.0, "lcb", 1.0)).shape == (10, 2)


def never(function):
    """Return a function that must not be called: a fused pass compiles nothing."""

    def call(*_):
        raise AssertionError(function)

    return call


def test_only_compiled_bfloat16_asks_for_it(monkeypatch):
    asked = []
    monkeypatch.setattr("edp_lightning.algorithms.offline_algorithm.fused_perceptrons", lambda: asked.append(True))
    for compiled, precision in ((False, "bfloat16"), (True, "float32"), (True, "bfloat16")):
        module = EntropyDiffusionPolicy(3, 2, num_critics=2, hidden_dims=[8], hidden_precision=precision, compile=compiled)
        module.configure_model()
        assert bool(asked) == (compiled and precision == "bfloat16")


@pytest.fixture
def source(tmp_path) -> Path:
    if shutil.which(os.environ.get("CXX") or "g++") is None:
        pytest.skip("needs a C++ compiler")
    path = tmp_path / "seven.cpp"
    path.write_text('extern "C" int seven() { return SEVEN; }\n')
    return path


def test_a_library_is_built_once_and_again_when_anything_changes(source, tmp_path, monkeypatch):
    folder = tmp_path / "cache"
    assert load_library(source, ["-DSEVEN=7"], folder).seven() == 7
    monkeypatch.setattr(subprocess, "run", None)
    assert load_library(source, ["-DSEVEN=7"], folder).seven() == 7
    monkeypatch.undo()
    assert load_library(source, ["-DSEVEN=8"], folder).seven() == 8
    assert sorted(path.suffix for path in folder.iterdir()) == [".so", ".so"]


def test_a_library_that_cannot_be_built_says_why(source, tmp_path, monkeypatch):
    folder = tmp_path / "cache"
    with pytest.raises(BuildError, match=r"error: .*SEVEN"):
        load_library(source, [], folder)
    assert not list(folder.iterdir())
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(BuildError, match="no C\\+\\+ compiler 'no-such-compiler'"):
        load_library(source, ["-DSEVEN=7"], folder)
    monkeypatch.undo()
    folder.rmdir()
    folder.write_text("a file where the folder should be")
    with pytest.raises(BuildError, match="cache"):
        load_library(source, ["-DSEVEN=7"], folder)


@pytest.fixture
def forgotten():
    """Nothing is remembered of passes that were loaded before, nor afterwards of those of a test."""
    load_passes.cache_clear()
    yield
    load_passes.cache_clear()


@pytest.mark.usefixtures("forgotten")
def test_without_a_library_torch_does_it_after_one_warning(monkeypatch):
    def refuse(*_: object) -> ctypes.CDLL:
        raise BuildError("there is no C++ compiler 'g++'")

    monkeypatch.setattr(perceptrons, "instruction_sets", lambda: ("avx512_bf16",))
    monkeypatch.setattr(perceptrons, "load_library", refuse)
    with pytest.warns(UserWarning, match=r"there is no C\+\+ compiler.*Install g\+\+"):
        assert fused_perceptrons() is None
    assert fused_perceptrons() is None  # and silently from now on


@pytest.mark.usefixtures("forgotten")
def test_what_the_system_forbids_is_not_used(monkeypatch):
    class Forbidden:
        edp_forward = edp_gradients = SimpleNamespace()

        def __init__(self, flags):
            self.allowed = "-mamx-tile" not in flags

        def edp_enable(self):
            return self.allowed

    monkeypatch.setattr(perceptrons, "instruction_sets", lambda: tuple(FLAGS))
    monkeypatch.setattr(perceptrons, "load_library", lambda source, flags, folder: Forbidden(flags))
    assert fused_perceptrons() is load_passes("avx512_bf16")


def test_other_processors_build_nothing(monkeypatch):
    monkeypatch.setattr(perceptrons, "instruction_sets", lambda: ())
    monkeypatch.setattr(perceptrons, "load_library", None)
    assert fused_perceptrons() is None
