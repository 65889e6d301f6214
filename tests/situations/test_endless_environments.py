"""Evaluations that would not end: time limits, stop signals that are obeyed inside them, failures that repeat."""

import dataclasses
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from gymnasium.envs.registration import EnvSpec, registry

from edp_lightning.collect.toy import TwoStepEnv
from edp_lightning.data.datamodule import OfflineDataModule
from edp_lightning.environments.families import ObservationView
from edp_lightning.environments.recipe import evaluation_environment
from edp_lightning.environments.workers import LocalEnvironments
from edp_lightning.evaluation.foreground import ForegroundRollout, Outcome
from edp_lightning.evaluation.rollout import rollout
from edp_lightning.runs.checkpoint_io import read_checkpoint
from tests.conftest import TINY
from tests.situations.environments import HERE, robot_arrays
from tests.test_resume import assert_same_run

ENDLESS, LIMITED = f"{HERE}:tests/Endless-v0", f"{HERE}:tests/Limited-v0"


@pytest.fixture
def robot_log(tmp_path):
    """A file of three episodes of 5, 7 and 6 steps, 3 numbers observed, 2 actions."""
    np.savez(tmp_path / "log.npz", **robot_arrays())
    return f"npz:{tmp_path / 'log.npz'}"


@pytest.mark.parametrize(
    ("environment", "option", "steps", "said"),
    [
        (ENDLESS, None, 7, "Endless-v0, 7 steps (no limit: the data's longest episode)"),
        (ENDLESS, 2, 2, "Endless-v0, 2 steps (data.max_episode_steps)"),
        (LIMITED, None, 3, "Limited-v0, 3 steps, "),
        (LIMITED, 11, 11, "Limited-v0, 11 steps (data.max_episode_steps)"),
        (f"{HERE}:tests/Skipping-v0", 4, 4, "4 steps"),  # of the two-step actions the policy decides on
    ],
)
def test_every_evaluation_has_a_time_limit_and_the_card_says_which(environment, option, steps, said, act):
    module = OfflineDataModule.from_arrays(robot_arrays(), environment=environment, max_episode_steps=option)
    module.setup("fit")
    assert said in dict(module.card.facts)["evaluation"]
    assert module.environment.max_episode_steps == module.environment.describe()["max_episode_steps"] == steps
    (result,) = rollout(LocalEnvironments([module.environment.make()]), act, [1], record=True)
    assert result.length == steps
    assert not result.trajectory.terminated


def test_the_limit_is_the_longest_recording_whatever_of_it_becomes_rows():
    arrays = robot_arrays()
    del arrays["next_observations"]  # the last step of each recording has no successor
    arrays["rewards"] = np.ones_like(arrays["rewards"])  # and ends at its first step
    module = OfflineDataModule.from_arrays(arrays, environment=ENDLESS, terminals="first_success")
    module.setup("fit")
    assert module.facts.length.high == 1
    assert module.environment.max_episode_steps == 7


class ShellEnv(TwoStepEnv):
    """As defined in a cell of a notebook."""


@pytest.fixture
def shell(monkeypatch):
    """What ``__main__`` is in a notebook, with an environment of its own."""
    main = ModuleType("__main__")
    main.ShellEnv = ShellEnv
    monkeypatch.setattr(ShellEnv, "__module__", "__main__")
    monkeypatch.setitem(sys.modules, "__main__", main)
    spec = EnvSpec("Shell-v0", entry_point=ShellEnv, max_episode_steps=10**6)
    monkeypatch.setitem(registry, "Shell-v0", spec)
    return evaluation_environment("x", spec, None, ObservationView("box"))


def test_an_environment_of_a_notebook_is_played_in_its_own_process(shell, monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: 4)
    automatic = ForegroundRollout(num_envs=2, num_workers=None)
    assert automatic.workers(shell, 100) == 0
    assert automatic.workers(dataclasses.replace(shell, spec_json=shell.spec_json.replace("__main__", __name__)), 100) == 4


INSIDE_EPOCHS = [
    "--trainer.val_check_interval=3",
    "--trainer.check_val_every_n_epoch=null",
    "--last_checkpoint.every_n_steps=4",
]
EARLY = "--trainer.callbacks+=lightning.pytorch.callbacks.EarlyStopping", "--trainer.callbacks.monitor=evaluation/score"


@pytest.mark.parametrize(
    ("at", "options", "number", "reached"),
    [
        (10, [], signal.SIGTERM, 10),  # the trial's step and the six of each evaluation come before
        (9, INSIDE_EPOCHS, signal.SIGINT, 6),
        (15, [*EARLY, "--trainer.callbacks.patience=50"], signal.SIGINT, 15),  # the last step: there is nothing left to train
    ],
    ids=["each epoch", "inside epochs", "last step"],
)
def test_an_evaluation_that_is_interrupted_is_repeated_exactly(
    at, options, number, reached, toy_set, command, monkeypatch, capfd
):
    options = ["--trainer.max_steps=15", "--entropy_tuning.enabled=true", *options]
    whole = command("fit", *options, run_name="whole")
    step, calls = TwoStepEnv.step, []

    def interrupt(self, action):
        calls.append(action)
        if len(calls) == at:
            signal.raise_signal(number)
            raise AssertionError("the evaluation goes on")
        return step(self, action)

    with monkeypatch.context() as patch:
        patch.setattr(TwoStepEnv, "step", interrupt)
        with pytest.raises(SystemExit) as stop:
            command("fit", *options, run_name="parts")
    assert stop.value.code == 128 + number
    folder = whole.parent / "parts-seed0"
    assert read_checkpoint(folder / "checkpoints" / "last.ckpt")["global_step"] == reached
    command("fit", *options, "--ckpt_path=last", run_name="parts")
    assert_same_run(folder, whole)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_signal_inside_a_step_of_a_minute_is_obeyed_before_its_end(workers, robot_log, command, tmp_path):
    """The first step of the evaluation takes a minute."""
    marker, sent = tmp_path / "evaluating", []

    def send():
        while not marker.exists():
            time.sleep(0.01)
        sent.append(time.monotonic())
        os.kill(os.getpid(), signal.SIGTERM)

    thread = threading.Thread(target=send, daemon=True)
    thread.start()
    kwargs = f"--data.environment_kwargs={{seconds: 60, marker: '{marker}'}}"
    with pytest.raises(SystemExit) as stop:
        command(
            "fit", f"--data.environment={ENDLESS}", kwargs, f"--evaluation.num_workers={workers}", "--trainer.max_steps=5",
            dataset=robot_log,
        )  # fmt: skip
    took = time.monotonic() - sent[0]
    assert stop.value.code == 143
    (last,) = (tmp_path / "runs").rglob("last.ckpt")
    assert read_checkpoint(last)["global_step"] == 5
    assert took < 30  # not the minute that the step takes; saving and the end of the trainer included
    thread.join()


@pytest.mark.slow
def test_two_ranks_stop_inside_an_evaluation_though_one_is_signalled(robot_log, tmp_path):
    marker, folder = tmp_path / "evaluating", tmp_path / "runs"
    arguments = ["fit", f"--data.dataset={robot_log}", f"--output={folder}", *TINY, "--trainer.max_steps=10"]
    arguments += [f"--data.environment={ENDLESS}", f"--data.environment_kwargs={{seconds: 600, marker: '{marker}'}}"]
    arguments += ["--trainer.devices=2", "--trainer.strategy=ddp", "--data.batch_size=4"]
    process = subprocess.Popen(
        [sys.executable, "-m", "edp_lightning", *arguments],
        cwd=Path(__file__).parents[2],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        deadline = time.monotonic() + 300
        while not marker.exists() and time.monotonic() < deadline:
            assert process.poll() is None, process.stderr.read()[-3000:]
            time.sleep(0.05)
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=300)  # a step takes ten minutes
    finally:
        process.kill()
    assert process.returncode == 143
    (last,) = folder.rglob("last.ckpt")
    assert read_checkpoint(last)["global_step"] == 5


def test_failures_that_are_not_in_a_row_end_nothing(toy_set, command, monkeypatch):
    play, calls = ForegroundRollout.play, []

    def sometimes(self, *args, **kwargs):
        calls.append(0)
        return Outcome(failure=ValueError("broken joint")) if len(calls) in (1, 2, 4, 5) else play(self, *args, **kwargs)

    monkeypatch.setattr(ForegroundRollout, "play", sometimes)
    with pytest.warns(UserWarning, match="broken joint"):
        folder = command("fit", "--trainer.max_steps=30")
    assert len(calls) == 6
    assert read_checkpoint(folder / "checkpoints" / "last.ckpt")["global_step"] == 30


def test_three_failed_evaluations_in_a_row_end_the_run_after_saving(robot_log, command, capsys, tmp_path):
    """The environment fails in its third step only: building and trying it does not show that."""
    options = [f"--data.environment={HERE}:tests/Odd-v0", "--data.environment_kwargs={fault: later}", "--trainer.max_steps=40"]
    with pytest.warns(UserWarning, match="broken joint"), pytest.raises(SystemExit) as stop:
        command("fit", *options, dataset=robot_log)
    assert stop.value.code == 1
    message = capsys.readouterr().err
    assert "error: 3 evaluations in a row failed, the last at step 15: ValueError: broken joint. The run is saved" in message
    assert "Traceback" not in message
    (last,) = (tmp_path / "runs").rglob("last.ckpt")
    assert read_checkpoint(last)["global_step"] == 15


def test_a_failed_evaluation_leaves_training_as_it_was(toy_set, command, monkeypatch):
    """It draws from the global streams before it fails."""
    options = ["--trainer.max_steps=10", "--trainer.callbacks+=tests.probes.DrawGlobally"]
    from tests.probes import DrawGlobally

    monkeypatch.setattr(DrawGlobally, "drawn", [])
    command("fit", *options, run_name="whole")
    expected = list(DrawGlobally.drawn)
    DrawGlobally.drawn.clear()
    step, calls = TwoStepEnv.step, []

    def fail_once(self, action):
        calls.append(np.random.normal())
        if len(calls) == 4:
            raise ValueError("broken joint")
        return step(self, action)

    monkeypatch.setattr(TwoStepEnv, "step", fail_once)
    with pytest.warns(UserWarning, match="evaluation at step 5 failed"):
        command("fit", *options, run_name="parts")
    assert DrawGlobally.drawn == expected


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--evaluation.background=true"], "EarlyStopping watches evaluation/score at every evaluation, which one in the back"),
        (
            ["--data.environment_kwargs={fault: later}"],
            "evaluation at step 5 failed (ValueError: broken joint), and EarlyStopping",
        ),
    ],
)
def test_early_stopping_without_a_score_is_one_message(options, said, robot_log, command, capsys):
    options = [f"--data.environment={HERE}:tests/Odd-v0", "--trainer.max_steps=10", *EARLY, *options]
    with pytest.raises(SystemExit) as stop:
        command("fit", *options, dataset=robot_log)
    assert stop.value.code == 1
    assert said in capsys.readouterr().err


def test_an_environment_that_fails_when_it_is_closed_has_done_its_work(robot_log, command):
    options = [f"--data.environment={HERE}:tests/Odd-v0", "--data.environment_kwargs={fault: close}", "--trainer.max_steps=5"]
    with pytest.warns(UserWarning, match="when it was closed"):
        folder = command("fit", *options, dataset=robot_log)
    assert folder
