"""Sweeps of real trainings that are killed and go on."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from edp_lightning.cli import main
from edp_lightning.errors import UserError
from edp_lightning.runs.run_folder import lock_run_folder
from tests.experiments.scripted import attempts, sweep_file, wait_until

ROOT = Path(__file__).parents[2]


@pytest.mark.skipif(sys.platform != "linux", reason="trials end with their sweep on Linux only")
def test_a_killed_sweep_and_a_killed_trial_go_on_without_repeating_a_step(toy_set, tmp_path, capsys):
    """The sweep is killed: its trial saves and leaves. The trial is killed: it is tried again. In the end all is there once."""
    folder = tmp_path / "runs" / "edp-toy-two-step-v0" / "tiny-seed0"
    last = folder / "checkpoints" / "last.ckpt"
    words = [sys.executable, "-m", "edp_lightning", "sweep", str(sweep_file(tmp_path, 1_000_000, tiny=[])), "--threads=1"]
    driver = subprocess.Popen(words, cwd=ROOT, stdout=subprocess.DEVNULL)
    try:
        wait_until(last.exists, "checkpoint")
        driver.kill()
        driver.wait()

        def left() -> bool:
            try:
                with lock_run_folder(folder):
                    return True
            except UserError:
                return False

        wait_until(left, "end of the trial")
    finally:
        driver.kill()
    reached = int(torch.load(last, weights_only=True)["global_step"])
    assert "saved" in (folder / "trial" / "log.txt").read_text()

    sweep_file(tmp_path, reached + 20, tiny=[])
    main(["sweep", str(tmp_path / "sweep.yaml"), "--threads=1"])
    result = json.loads((folder / "test_last.json").read_text())
    assert result["checkpoint"]["gradient_steps"] == reached + 20
    assert [(entry["event"], entry["command"], entry["step"]) for entry in attempts(folder)] == [
        ("started", "fit", 0),
        ("started", "fit", reached),
        ("ended", "fit", reached + 20),
        ("started", "test", reached + 20),
        ("ended", "test", reached + 20),
    ]
    assert "all 1 trials are done" in capsys.readouterr().out


@pytest.mark.slow
def test_ctrl_c_lets_the_trials_save_and_a_killed_trial_is_tried_again(toy_set, tmp_path):
    folder = tmp_path / "runs" / "edp-toy-two-step-v0" / "tiny-seed0"
    words = [sys.executable, "-m", "edp_lightning", "sweep", str(sweep_file(tmp_path, 1_000_000, tiny=[])), "--threads=1"]
    driver = subprocess.Popen(words, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    try:
        wait_until((folder / "checkpoints" / "last.ckpt").exists, "checkpoint")
        (child,) = Path(f"/proc/{driver.pid}/task/{driver.pid}/children").read_text().split()
        os.kill(int(child), signal.SIGKILL)
        wait_until(lambda: [entry["event"] for entry in attempts(folder)] == ["started", "ended", "started"], "second try")
        after = (folder / "trial" / "log.txt").stat().st_size
        wait_until(lambda: (folder / "trial" / "log.txt").stat().st_size > after + 500, "training")
        driver.send_signal(signal.SIGINT)
        said, _ = driver.communicate(timeout=200)
    finally:
        driver.kill()
    assert driver.returncode == 130
    assert "every trial has saved" in said
    entries = attempts(folder)
    assert entries[1]["status"] == -signal.SIGKILL
    assert [entry["event"] for entry in entries] == ["started", "ended", "started", "ended"]
    assert entries[2]["step"] == entries[1]["step"]
    assert entries[3]["step"] == torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)["global_step"]
