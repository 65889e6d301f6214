"""What stops a run, what warns, and that nothing bad reaches a checkpoint."""

import fcntl
from types import SimpleNamespace

import gymnasium as gym
import numpy as np
import pytest
import torch

from edp_lightning.callbacks import NumericsGuard, TargetNetworkUpdate
from edp_lightning.data.datamodule import OfflineDataModule
from edp_lightning.data.transitions import Batch
from edp_lightning.environments.recipe import EvaluationEnvironment
from edp_lightning.errors import UserError
from edp_lightning.runs.checkpoint_io import read_checkpoint
from tests.conftest import scalars
from tests.dispatch import fake_gpu


def poison(monkeypatch: pytest.MonkeyPatch, step: int, network: str) -> None:
    """Make one weight NaN just before a gradient step."""

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if trainer.global_step == step:
            with torch.no_grad():
                next(getattr(pl_module, network).parameters())[0] = float("nan")

    monkeypatch.setattr(TargetNetworkUpdate, "on_train_batch_start", on_train_batch_start)


@pytest.mark.parametrize(("network", "name"), [("critic", "critic/loss"), ("actor", "actor/loss")])
def test_a_non_finite_loss_stops_the_run_before_a_checkpoint(network, name, toy_set, command, capsys, monkeypatch, tmp_path):
    poison(monkeypatch, 7, network)
    with pytest.raises(SystemExit):
        command("fit", "--trainer.max_steps=20")
    message = capsys.readouterr().err
    assert f"error: {name} was not finite at gradient step 7" in message
    (folder,) = (tmp_path / "runs").glob("*/*")
    checkpoint = read_checkpoint(folder / "checkpoints" / "last.ckpt")
    assert checkpoint["global_step"] == 5
    assert all(value.isfinite().all() for value in checkpoint["state_dict"].values())
    rows = torch.load(folder / "nonfinite_step7_rank0.pt", weights_only=True)
    assert rows["observation"].shape == (8, 1)


def test_a_checkpoint_is_refused_after_a_bad_step(toy_set, command, capsys, monkeypatch, tmp_path):
    """Between two looks at the numbers, and without an evaluation, which would look first."""
    poison(monkeypatch, 7, "critic")
    with pytest.raises(SystemExit):
        command("fit", "--trainer.max_steps=20", "--trainer.check_val_every_n_epoch=1000")
    assert "error: critic/loss was not finite at gradient step 7" in capsys.readouterr().err
    (folder,) = (tmp_path / "runs").glob("*/*")
    checkpoint = read_checkpoint(folder / "checkpoints" / "last.ckpt")
    assert checkpoint["global_step"] == 5
    assert all(value.isfinite().all() for value in checkpoint["state_dict"].values())


def test_the_saved_rows_are_those_of_the_step(toy_set, command, monkeypatch, tmp_path):
    seen = {}

    def remember(self, trainer, pl_module, batch, batch_idx):
        seen[trainer.global_step] = batch.observation.clone()
        if trainer.global_step == 7:
            with torch.no_grad():
                next(pl_module.critic.parameters())[0] = float("nan")

    monkeypatch.setattr(TargetNetworkUpdate, "on_train_batch_start", remember)
    with pytest.raises(SystemExit):
        command("fit", "--trainer.max_steps=20")
    (path,) = (tmp_path / "runs").glob("*/*/nonfinite_step7_rank0.pt")
    torch.testing.assert_close(torch.load(path, weights_only=True)["observation"], seen[7], rtol=0, atol=0)


def test_a_diverging_q_warns_and_the_run_goes_on(toy_set, command):
    with pytest.warns(UserWarning, match="critics probably diverge"):
        folder = command("fit", "--trainer.max_steps=5", "--guard.every_n_steps=1", "--guard.q_bound=1e-6")
    assert read_checkpoint(folder / "checkpoints" / "last.ckpt")["global_step"] == 5


def test_the_bound_on_q_is_of_one_step_whatever_the_window():
    """Rewards of 1 at every step are worth at most 1 / (1 - discount), summed over windows or not."""
    arrays = {"rewards": np.ones(60, dtype=np.float32), "truncated": np.arange(60) == 59}
    arrays |= {"observations": np.ones((60, 1)), "actions": np.zeros((60, 1)), "terminated": np.zeros(60, dtype=bool)}
    for n_step in (1, 10):
        data = OfflineDataModule.from_arrays(arrays, n_step=n_step, discount=0.9, cache=False)
        data.prepare_data()
        data.setup("fit")
        guard = NumericsGuard()
        guard.on_fit_start(SimpleNamespace(datamodule=data), SimpleNamespace(discount=0.9))
        assert guard._bound == pytest.approx(20.0)
        assert guard.q_bound is None  # the next fit may have other data


def test_an_environment_that_crashes_does_not_stop_training(toy_set, command, monkeypatch):
    make, made = EvaluationEnvironment.make, []

    class Crashing(gym.Wrapper):
        def step(self, action):
            raise RuntimeError("the simulator is gone")

    def make_crashing_at_first(self):
        made.append(1)
        env = make(self)
        return Crashing(env) if 2 <= len(made) <= 3 else env  # the first is tried at setup

    monkeypatch.setattr(EvaluationEnvironment, "make", make_crashing_at_first)
    with pytest.warns(UserWarning, match="the simulator is gone"):
        folder = command("fit", "--trainer.max_steps=10")
    logged = scalars(folder)
    assert [step for step, _ in logged["evaluation/failed"]] == [4]
    assert [step for step, _ in logged["evaluation/return"]] == [9]


def test_a_crash_in_test_is_an_error(toy_set, command, monkeypatch):
    command("fit", "--trainer.max_steps=5")
    make, made = EvaluationEnvironment.make, []

    def make_once(self):
        made.append(1)
        return make(self) if len(made) == 1 else 1 / 0  # the first is tried at setup

    monkeypatch.setattr(EvaluationEnvironment, "make", make_once)
    with pytest.raises(ZeroDivisionError):
        command("test", "--ckpt_path=last")


def test_two_runs_do_not_share_a_folder(toy_set, command, capsys):
    folder = command("fit", "--trainer.max_steps=5")
    before = {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    with (folder / ".lock").open("w") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(SystemExit):
            command("fit", "--trainer.max_steps=10", "--ckpt_path=last")
    assert "another process is training" in capsys.readouterr().err
    assert {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()} == before
    command("fit", "--trainer.max_steps=10", "--ckpt_path=last")  # the lock is gone with its holder


def test_rows_of_a_gpu_are_saved_for_any_machine(monkeypatch, tmp_path):
    with fake_gpu():
        batch = Batch(*(torch.zeros(2, 1, device="cuda:0") for _ in Batch._fields))
    saved = {}
    monkeypatch.setattr(torch, "save", lambda rows, path: saved.update(rows))
    data = OfflineDataModule("nothing")
    monkeypatch.setattr(data, "batch_of_step", lambda step: batch)
    guard = NumericsGuard()
    guard._window, guard._names, guard._steps = torch.tensor([[float("nan")]]), ["critic/loss"], [3]
    trainer = SimpleNamespace(default_root_dir=tmp_path, global_rank=0, datamodule=data)
    with pytest.raises(UserError, match="critic/loss was not finite at gradient step 3"):
        guard.on_validation_start(trainer, None)
    assert {name: rows.device.type for name, rows in saved.items()} == dict.fromkeys(Batch._fields, "cpu")
