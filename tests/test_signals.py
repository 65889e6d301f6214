"""Runs stopped from outside continue as if nothing had happened."""

import os
import select
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from edp_lightning.callbacks import NumericsGuard, TargetNetworkUpdate
from edp_lightning.runs.checkpoint_io import read_checkpoint
from tests.conftest import TINY, finish
from tests.test_resume import assert_same_run, curves, state

ROOT = Path(__file__).parents[1]
OPTIONS = ["--entropy_tuning.enabled=true", "--trainer.check_val_every_n_epoch=1000", "--data.steps_per_epoch=50"]
TWO_RANKS = ["--trainer.devices=2", "--trainer.strategy=ddp", "--data.batch_size=4"]
SLURM = {"SLURM_JOB_ID": "7", "SLURM_JOB_NAME": "edp", "SLURM_NTASKS": "1", "SLURM_PROCID": "0", "SLURM_LOCALID": "0"}
SLURM |= {"SLURM_NODEID": "0", "SLURM_JOB_NODELIST": "localhost", "SLURM_NTASKS_PER_NODE": "1"}


def start(output: Path, *extra: str, environment: dict[str, str] | None = None) -> subprocess.Popen[str]:
    arguments = ["fit", "--data.dataset=edp/toy/two-step-v0", f"--output={output}", "--run_name=parts", *TINY, *OPTIONS]
    return subprocess.Popen(
        [sys.executable, "-m", "edp_lightning", *arguments, "--trainer.max_steps=100000", *extra],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1"} | (environment or {}),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


def folder_of(output: Path) -> Path:
    return output / "edp-toy-two-step-v0" / "parts-seed0"


def wait_for(path: Path, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 200
    while not path.exists():
        assert process.poll() is None, process.stderr.read()[-3000:]
        assert time.monotonic() < deadline, f"no {path.name} in time"
        time.sleep(0.01)


def stop_after_a_checkpoint(output: Path, number: signal.Signals, *extra: str, **kwargs: Any) -> int:
    """Start a long run in a process of its own, send it a signal once it has saved, and return its exit status."""
    process = start(output, *extra, **kwargs)
    try:
        wait_for(folder_of(output) / "checkpoints" / "last.ckpt", process)
        time.sleep(0.2)
        process.send_signal(number)
        process.communicate(timeout=100)
    finally:
        process.kill()
    return process.returncode


def assert_continues(folder: Path, command: Any, reached: int) -> None:
    end = f"--trainer.max_steps={reached + 12}"
    whole = command("fit", end, *OPTIONS, run_name="whole")
    parts = command("fit", end, "--ckpt_path=last", *OPTIONS, run_name="parts")
    a, b = state(whole), state(parts)
    assert b["/global_step"].item() == reached + 12
    assert [name for name in a if not torch.equal(a[name], b[name])] == []
    a, b = curves(whole), curves(parts)
    assert [name for name in a if a[name] != b[name]] == []
    assert [step for step, _ in b["critic/loss"]] == list(range(reached + 12))


@pytest.mark.parametrize(
    ("number", "status"),
    [(signal.SIGINT, 130), pytest.param(signal.SIGTERM, 143, marks=pytest.mark.slow), (signal.SIGKILL, -9)],
    ids=lambda value: getattr(value, "name", ""),
)
def test_a_stopped_run_continues_bit_for_bit(number, status, toy_set, command, tmp_path):
    assert stop_after_a_checkpoint(tmp_path / "runs", number) == status
    folder = folder_of(tmp_path / "runs")
    reached = read_checkpoint(folder / "checkpoints" / "last.ckpt")["global_step"]
    if number == signal.SIGKILL:
        assert reached % 5 == 0  # the last period's checkpoint
    assert_continues(folder, command, reached)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL], ids=lambda n: n.name)
def test_two_ranks_of_which_one_is_signalled_stop_together(number, toy_set, command, tmp_path):
    """The signal reaches rank 0 only; a kill takes the other rank along."""
    stop_after_a_checkpoint(tmp_path / "runs", number, *TWO_RANKS)
    folder = folder_of(tmp_path / "runs")
    reached = read_checkpoint(folder / "checkpoints" / "last.ckpt")["global_step"]
    ends = []
    for name in ("parts", "whole"):
        resume = ["--ckpt_path=last"] if name == "parts" else []
        run = start(tmp_path / "runs", *TWO_RANKS, f"--run_name={name}", f"--trainer.max_steps={reached + 12}", *resume)
        finish(run)
        ends.append(folder.parent / f"{name}-seed0")
    a, b = (state(end) for end in ends)
    assert b["/global_step"].item() == reached + 12
    assert [name for name in a if not torch.equal(a[name], b[name])] == []
    assert curves(ends[0])["critic/loss"] == curves(ends[1])["critic/loss"]


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1], ids=lambda n: n.name)
def test_a_preempted_slurm_job_goes_on_with_the_same_command(number, toy_set, command, tmp_path):
    """SIGTERM saves. SIGUSR1, at which Lightning would save inside a gradient step, is an ordinary end."""
    resume = "--ckpt_path=last"  # in the very first submission too
    status = stop_after_a_checkpoint(tmp_path / "runs", number, resume, environment=SLURM)
    assert status == (143 if number == signal.SIGTERM else -signal.SIGUSR1)
    folder = folder_of(tmp_path / "runs")
    assert not list(folder.glob("hpc_ckpt_*"))
    assert_continues(folder, command, read_checkpoint(folder / "checkpoints" / "last.ckpt")["global_step"])


def test_the_second_ctrl_c_stops_at_once_and_spoils_nothing(toy_set, command, monkeypatch, tmp_path):
    """Both arrive inside one gradient step: nothing is saved from it, and the checkpoint before stays."""
    update = TargetNetworkUpdate.on_train_batch_end

    def press(self, trainer, *args):
        update(self, trainer, *args)
        if trainer.global_step == 8:
            signal.raise_signal(signal.SIGINT)
            signal.raise_signal(signal.SIGINT)
            raise AssertionError("the second one did not stop the run")

    before = signal.getsignal(signal.SIGINT)
    with monkeypatch.context() as patch:
        patch.setattr(TargetNetworkUpdate, "on_train_batch_end", press)
        with pytest.raises(SystemExit) as stop:
            command("fit", "--trainer.max_steps=20", *OPTIONS, run_name="parts")
    assert stop.value.code == 130
    assert signal.getsignal(signal.SIGINT) is before
    folder = folder_of(tmp_path / "runs")
    assert [path.name for path in (folder / "checkpoints").iterdir()] == ["last.ckpt"]
    assert read_checkpoint(folder / "checkpoints" / "last.ckpt")["global_step"] == 5
    assert_continues(folder, command, 5)


def test_ctrl_c_before_an_evaluation_leaves_it_to_the_resumed_run(toy_set, command, monkeypatch, tmp_path):
    on_validation_start = NumericsGuard.on_validation_start

    def press(self, trainer, pl_module):
        on_validation_start(self, trainer, pl_module)
        if trainer.global_step == 7:
            signal.raise_signal(signal.SIGINT)

    options = ["--trainer.max_steps=14", "--trainer.val_check_interval=7", "--trainer.check_val_every_n_epoch=null"]
    options += ["--entropy_tuning.enabled=true"]
    with monkeypatch.context() as patch:
        patch.setattr(NumericsGuard, "on_validation_start", press)
        with pytest.raises(SystemExit):
            command("fit", *options, run_name="parts")
    assert read_checkpoint(folder_of(tmp_path / "runs") / "checkpoints" / "last.ckpt")["global_step"] == 7
    whole = command("fit", *options, run_name="whole")
    assert_same_run(command("fit", *options, "--ckpt_path=last", run_name="parts"), whole)


def test_a_run_killed_while_it_writes_a_checkpoint_keeps_the_one_before(toy_set, command, tmp_path):
    """The file being written is a pipe nobody empties: the run hangs in the middle of writing until it is killed."""
    folder = command("fit", "--trainer.max_steps=5", *OPTIONS, run_name="parts")
    last = folder / "checkpoints" / "last.ckpt"
    before = last.read_bytes()
    pipe = last.with_name(".last.ckpt.writing")
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    process = start(tmp_path / "runs", "--ckpt_path=last")
    try:
        deadline = time.monotonic() + 200
        while not select.select([reader], [], [], 1)[0] or not (written := os.read(reader, 4096)):
            assert process.poll() is None, process.stderr.read()[-3000:]
            assert time.monotonic() < deadline
    finally:
        process.kill()
        process.communicate()
        os.close(reader)
    assert written.startswith(b"PK"), "the beginning of a checkpoint"
    assert last.read_bytes() == before
    pipe.unlink()
    pipe.write_bytes(written)  # what a kill leaves of an ordinary file
    assert_continues(folder, command, 5)
    assert not pipe.exists()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs the device that is always full")
def test_a_full_disk_stops_the_run_and_spoils_nothing(toy_set, command, capsys):
    folder = command("fit", "--trainer.max_steps=5", *OPTIONS, run_name="parts")
    last = folder / "checkpoints" / "last.ckpt"
    before = last.read_bytes()
    last.with_name(".last.ckpt.writing").symlink_to("/dev/full")
    with pytest.raises(SystemExit) as stop:
        command("fit", "--trainer.max_steps=20", "--ckpt_path=last", *OPTIONS, run_name="parts")
    assert stop.value.code == 1
    message = capsys.readouterr().err
    assert f"error: checkpoint {last} could not be written" in message
    assert "No space left on device" in message
    assert "is intact" in message
    assert last.read_bytes() == before
    assert_continues(folder, command, 5)


@pytest.mark.slow
def test_logs_that_no_longer_fit_stop_the_run_and_spoil_nothing(toy_set, command, tmp_path):
    """The operating system lets no file grow: the curves are the first thing that fails."""
    folder = command("fit", "--trainer.max_steps=5", *OPTIONS, run_name="parts")
    last = folder / "checkpoints" / "last.ckpt"
    before = last.read_bytes()
    limit = 2 * len(before)  # checkpoints fit
    script = (
        f"import resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, resource.RLIM_INFINITY));"
        "from edp_lightning.cli import main; main(sys.argv[1:])"
    )
    arguments = ["fit", "--data.dataset=edp/toy/two-step-v0", f"--output={tmp_path / 'runs'}", "--run_name=parts", *TINY]
    done = subprocess.run(
        [sys.executable, "-c", script, *arguments, *OPTIONS, "--trainer.max_steps=100000", "--ckpt_path=last"],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.returncode == 1, done.stderr[-2000:]
    assert "File too large" in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr
    assert_continues(folder, command, read_checkpoint(last)["global_step"])
