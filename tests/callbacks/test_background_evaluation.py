"""Evaluations beside training: the same numbers at the same steps, none lost."""

import os
import signal
from types import SimpleNamespace

import pytest
import torch

from edp_lightning.algorithms.entropy_diffusion import EntropyDiffusionPolicy
from edp_lightning.callbacks import EnvironmentEvaluation
from edp_lightning.errors import UserError
from edp_lightning.evaluation import background
from edp_lightning.evaluation.background import BackgroundRollout
from edp_lightning.runs.checkpoint_io import read_checkpoint
from tests.conftest import scalars

BACKGROUND = "--evaluation.background=true"
STEPS = "--trainer.max_steps=12"  # evaluations after 5 and 10 steps


def judged(folder):
    """Return everything that was measured on evaluations, by name and step; a step that is logged twice is an error."""
    found = {}
    for name, values in scalars(folder).items():
        if name.startswith(("evaluation/", "q_diagnostics/")):
            assert len(dict(values)) == len(values), name
            found[name] = dict(sorted(values))
    return found


def assert_same(found, expected):
    assert found.keys() == expected.keys()
    for name, values in expected.items():
        assert found[name] == pytest.approx(values, abs=1e-5), name


@pytest.fixture
def foreground(toy_set, command):
    return command("fit", STEPS, run_name="foreground")


def test_scores_steps_and_best_checkpoint_are_those_of_the_foreground(foreground, command):
    folder = command("fit", STEPS, BACKGROUND, run_name="background")
    assert list(judged(foreground)["evaluation/score"]) == [4, 9]
    assert_same(judged(folder), judged(foreground))
    best, expected = (read_checkpoint(f / "checkpoints" / "best.ckpt") for f in (folder, foreground))
    assert best["global_step"] == expected["global_step"]
    torch.testing.assert_close(best["state_dict"], expected["state_dict"])
    assert sorted(file.name for file in (folder / "checkpoints").iterdir()) == ["best.ckpt", "last.ckpt"]
    states = best["callbacks"], expected["callbacks"]
    known, wanted = (state["EnvironmentEvaluation"]["history"] for state in states)
    assert known == wanted  # the evaluation that chose it, too
    assert float(states[0]["BestCheckpoint"]["best_model_score"]) == float(states[1]["BestCheckpoint"]["best_model_score"])
    score = read_checkpoint(folder / "checkpoints" / "last.ckpt")["callbacks"]["BestCheckpoint"]["best_model_score"]
    assert float(score) == pytest.approx(max(judged(foreground)["evaluation/score"].values()))


@pytest.mark.slow
def test_a_signal_to_all_processes_of_a_run_does_not_reach_it(foreground, command, monkeypatch):
    start = BackgroundRollout.__init__

    def start_and_signal(self, *arguments):
        start(self, *arguments)
        for number in (signal.SIGTERM, signal.SIGINT):
            os.kill(self._process.pid, number)

    monkeypatch.setattr(BackgroundRollout, "__init__", start_and_signal)
    found = judged(command("fit", "--trainer.max_steps=7", BACKGROUND, run_name="background"))
    assert_same(found, {name: {4: values[4]} for name, values in judged(foreground).items()})


def test_an_interrupted_evaluation_is_made_up_for(foreground, command, monkeypatch):
    def stop(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(BackgroundRollout, "ready", lambda self: False)
        patch.setattr(EnvironmentEvaluation, "_finish", stop)  # where the next one would wait for it
        with pytest.raises((KeyboardInterrupt, SystemExit)):
            command("fit", STEPS, BACKGROUND, run_name="background")
    folder = command("fit", STEPS, BACKGROUND, "--ckpt_path=last", run_name="background")
    assert_same(judged(folder), judged(foreground))


@pytest.mark.parametrize("which", [1, pytest.param(2, marks=pytest.mark.slow)], ids=["the next is due", "the run is over"])
def test_a_signal_while_training_waits_for_it_leaves_it_to_the_resumed_run(which, foreground, command, monkeypatch):
    waits = []

    def wait(self):
        waits.append(self)
        if len(waits) == which:
            signal.raise_signal(signal.SIGTERM)
            raise AssertionError("training waits on")

    with monkeypatch.context() as patch:
        patch.setattr(BackgroundRollout, "ready", lambda self: False)
        patch.setattr(BackgroundRollout, "wait", wait)
        with pytest.raises(SystemExit) as stop:
            command("fit", STEPS, BACKGROUND, run_name="background")
    assert stop.value.code == 143
    folder = command("fit", STEPS, BACKGROUND, "--ckpt_path=last", run_name="background")
    assert_same(judged(folder), judged(foreground))
    assert not (folder / "checkpoints" / "evaluating.ckpt").exists()


def test_a_run_that_gives_it_up_drops_what_was_pending(foreground, command):
    pending = foreground / "checkpoints" / "evaluating.ckpt"
    pending.write_bytes((foreground / "checkpoints" / "last.ckpt").read_bytes())
    command("fit", "--trainer.max_steps=20", "--ckpt_path=last", run_name="foreground")
    assert not pending.exists()


def test_a_process_that_dies_costs_one_evaluation(toy_set, command, monkeypatch):
    start = BackgroundRollout.__init__

    def start_and_kill(self, *arguments):
        start(self, *arguments)
        self._process.kill()

    monkeypatch.setattr(BackgroundRollout, "__init__", start_and_kill)
    with pytest.warns(UserWarning, match=r"evaluation at step 5 failed, training goes on.*died"):
        folder = command("fit", "--trainer.max_steps=10", BACKGROUND)
    found = judged(folder)
    assert found["evaluation/failed"] == {4: 1.0}
    assert list(found["evaluation/score"]) == [9]  # the last step is evaluated in the foreground


def test_several_ranks_share_out_episodes_instead():
    with pytest.raises(UserError, match="one device"):
        EnvironmentEvaluation(background=True).setup(SimpleNamespace(world_size=2), None, "fit")


def test_a_gpu_that_cannot_be_shared_leaves_it_to_the_cpu_in_its_own_precision(toy_set, command, monkeypatch, tmp_path):
    """The checkpoint says bfloat16, which was fast where it trained."""
    command("fit", "--trainer.max_steps=2", "--model.hidden_precision=bfloat16")
    (checkpoint,) = (tmp_path / "runs").glob("*/*/checkpoints/last.ckpt")
    monkeypatch.setattr("edp_lightning.acceleration.precision.bfloat16_speedup", lambda device: 0.02)
    monkeypatch.setattr(background, "usable", lambda device: device.type == "cpu")
    played = []
    monkeypatch.setattr(background, "rollout", lambda envs, policy, seeds, **_: played.append(policy) or [])
    environment = SimpleNamespace(make=lambda: None)
    pipe = SimpleNamespace(send=lambda answer: played.append(answer))
    threads = torch.get_num_threads()
    monkeypatch.setattr(background, "LocalEnvironments", lambda envs: SimpleNamespace(close=lambda: None))
    for device in ("cuda:0", "cpu"):
        arguments = EntropyDiffusionPolicy, str(checkpoint), environment, [0], 1, False, torch.device(device), "highest"
        background._play(pipe, *arguments)
    torch.set_num_threads(threads)
    assert [answer for answer in played if not isinstance(answer, EntropyDiffusionPolicy)] == [[], []]
    on_cpu, same_device = (policy for policy in played if isinstance(policy, EntropyDiffusionPolicy))
    assert (on_cpu.device.type, on_cpu.hidden_dtype) == ("cpu", torch.float32)
    assert same_device.hidden_dtype == torch.bfloat16  # a run on a CPU plays with what it trains with
