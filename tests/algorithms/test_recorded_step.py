"""A gradient step between fixed addresses is the gradient step; what a GPU would record of it, on a CPU."""

from types import SimpleNamespace

import pytest
import torch

from benchmarks.operators import Operators
from edp_lightning.algorithms.adam import PortableAdam
from edp_lightning.algorithms.entropy_diffusion import EntropyDiffusionPolicy
from edp_lightning.algorithms.offline_algorithm import OfflineAlgorithm
from edp_lightning.algorithms.recorded_step import RecordedStep, StepOutputs, why_not_recorded
from edp_lightning.data.transitions import Batch
from edp_lightning.errors import UserError
from tests.algorithms.bare import BareSteps, built
from tests.algorithms.tiny import ALGORITHMS, batch_for, tiny_options
from tests.probes import CrashError
from tests.test_resume import SETTINGS, assert_same_run

CRASH = [
    "--trainer.callbacks=tests.probes.CrashAt",
    "--trainer.callbacks.hook=on_train_batch_end",
    "--trainer.callbacks.step=6",
]
CPU, GPU = torch.device("cpu"), torch.device("cuda", 0)


@pytest.mark.parametrize("option", ["--model.reverse_variance=matched", "--entropy_tuning.mode=state"])
def test_it_takes_the_same_steps_bit_for_bit_and_goes_on_from_the_usual_form(option, toy_set, command, monkeypatch):
    """Also where the learning rate changes, and where numbers are logged in some steps only."""
    options = [*SETTINGS, option, "--model.lr_schedule=cosine", "--trainer.log_every_n_steps=3", "--model.max_q_backup=true"]
    usual = command("fit", "--trainer.max_steps=14", *options, run_name="usual")
    with pytest.raises(CrashError):
        command("fit", "--trainer.max_steps=14", *CRASH, *options, run_name="recorded")
    taken, step = [], RecordedStep.step
    monkeypatch.setattr(OfflineAlgorithm, "why_not_recorded", lambda self, optimizers: "")
    monkeypatch.setattr(RecordedStep, "step", lambda self, *args: taken.append(1) or step(self, *args))
    assert_same_run(command("fit", "--trainer.max_steps=14", "--ckpt_path=last", *options, run_name="recorded"), usual)
    assert len(taken) == 9  # all but the five of the usual form


@pytest.fixture
def recorded():
    torch.manual_seed(0)
    module = EntropyDiffusionPolicy(3, 2, [16], 4, max_q_backup=True, reverse_variance="matched")
    module.configure_model()
    module._trainer = SimpleNamespace(
        global_step=0, world_size=1, global_rank=0, log_every_n_steps=100, max_steps=-1, optimizers=[], loggers=[]
    )
    optimizers = module.configure_optimizers()
    module.optimizers = lambda use_pl_optimizer=True: optimizers
    module.why_not_recorded = lambda optimizers: ""
    module.set_scales(-1.0, 1.0)
    module.on_fit_start()
    return module, optimizers


def batch(step):
    generator = torch.Generator().manual_seed(step)
    shapes = [(16, 3), (16, 2), (16,), (16, 3), (16,), (16,)]
    return Batch(*(torch.rand(shape, generator=generator) for shape in shapes))


def addresses(module, optimizers):
    found = {name: value.data_ptr() for name, value in module.state_dict().items()}
    for number, optimizer in enumerate(optimizers):
        for index, values in enumerate(optimizer.state.values()):
            found |= {f"{number}/{index}/{name}": value.data_ptr() for name, value in values.items()}
    return found


def test_nothing_moves_from_step_to_step(recorded):
    """A graph reads and writes the addresses that it saw."""
    module, optimizers = recorded
    first = module.training_step(batch(0), 0)
    before, values = addresses(module, optimizers), {name: float(v) for name, v in first["watched"].items()}
    for step in range(1, 4):
        module._trainer.global_step = step
        outputs = module.training_step(batch(step), step)
    assert addresses(module, optimizers) == before
    for name, value in outputs["watched"].items():
        assert value is first["watched"][name]
        assert float(value) != values[name]
    assert outputs["q"] is first["q"] and outputs["gradient_norms"]["actor"] is first["gradient_norms"]["actor"]


def test_what_is_recorded_draws_nothing_and_waits_for_nothing(recorded):
    module, _ = recorded
    data, noise = batch(0), module.draw_noise(0, 16)
    module.training_step(data, 0)
    module._optimizers_now = dict(zip(module._learners, recorded[1], strict=True))
    with Operators() as operators:
        module._step_on(data, noise)
    assert operators.synchronisations == 0
    assert not {"randn", "rand", "randint", "normal_", "uniform_", "random_"} & set(operators.counts)


RECORDABLE = [name for name in ALGORITHMS if ALGORITHMS[name].gradient_step is OfflineAlgorithm.gradient_step]


@pytest.mark.parametrize("name", RECORDABLE)
def test_every_step_that_is_recorded_draws_nothing_and_waits_for_nothing(name):
    module = built(ALGORITHMS[name], **tiny_options(name))
    steps, data = BareSteps(module), batch_for(module)
    steps.step(data)
    noise = module.draw_noise(1, len(data.action))
    module._optimizers_now = dict(zip(module._learners, steps.optimizers, strict=True))
    with Operators() as operators:
        module._step_on(data, noise)
    assert operators.synchronisations == 0
    assert not {"randn", "rand", "randint", "normal_", "uniform_", "random_", "bernoulli_"} & set(operators.counts)


def test_an_algorithm_with_a_gradient_step_of_its_own_is_not_recorded(recorded):
    class Mine(EntropyDiffusionPolicy):
        def gradient_step(self, batch, step):
            return super().gradient_step(batch, step)

    module, optimizers = recorded
    module.compiled = True
    module._trainer.strategy = SimpleNamespace(root_device=GPU)
    asked = OfflineAlgorithm.why_not_recorded
    ours = Mine(3, 2, [16], 4)
    ours._trainer, ours.compiled = module._trainer, True
    for algorithm in (module, ours):
        algorithm.__dict__["_device"] = GPU
    assert asked(module, optimizers) == ""
    assert asked(ours, optimizers) == "the algorithm has a gradient_step of its own"


def test_a_batch_of_another_size_is_refused_in_words():
    recorded = RecordedStep(lambda inputs: StepOutputs({"loss": inputs.sum()}, {}, {}, None, None), [SimpleNamespace()], CPU)
    recorded._place((torch.zeros(4),))
    with pytest.raises(UserError, match="drop_last=True"):
        recorded._place((torch.zeros(3),))


def test_a_recording_that_fails_goes_on_without_after_one_warning(monkeypatch):
    """With a stand-in for the GPU's part of torch, on tensors of the CPU."""
    parameter = torch.nn.Parameter(torch.zeros(2))
    optimizer = PortableAdam([parameter], 0.1)
    monkeypatch.setattr(PortableAdam, "make_capturable", lambda self: None)
    stream = SimpleNamespace(wait_stream=lambda other: None)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda: stream)
    monkeypatch.setattr(torch.cuda, "Stream", lambda: stream)
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: torch.enable_grad())
    monkeypatch.setattr(torch.cuda, "CUDAGraph", lambda: None)

    def refuse(graph, capture_error_mode):
        raise RuntimeError("operation not permitted when stream is capturing")

    monkeypatch.setattr(torch.cuda, "graph", refuse)

    def take(inputs):
        parameter.grad = inputs.clone()
        optimizer.step()
        return StepOutputs({"loss": inputs.sum()}, {}, {}, None, None)

    recorded = RecordedStep(take, [optimizer], GPU)
    for step in range(3):
        recorded.step(optimizer.step, torch.full((2,), step + 1.0))
    with pytest.warns(UserWarning, match="runs without, slower: operation not permitted"):
        assert recorded.step(optimizer.step, torch.full((2,), 4.0)).watched["loss"] == 8
    assert recorded.step(optimizer.step, torch.full((2,), 5.0)).watched["loss"] == 10
    assert optimizer.state[parameter]["step"] == 5


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({}, ""),
        ({"device": CPU}, "not on a GPU"),
        ({"compiled": False}, "model.compile is false"),
        ({"ranks": 2}, "several ranks"),
        ({"recordable": False}, "gradient_step of its own"),
        ({"optimizers": [torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))])]}, "Adam"),
    ],
)
def test_when_a_step_is_recorded(change, reason):
    found = why_not_recorded(**{"compiled": True, "recordable": True, "ranks": 1, "optimizers": [], "device": GPU, **change})
    assert (found == "") == (reason == "") and reason in found
