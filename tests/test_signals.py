"""Runs stopped from outside continue as if nothing had happened."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from edp_lightning.checkpoint_io import read_checkpoint
from tests.conftest import TINY
from tests.test_resume import state

ROOT = Path(__file__).parents[1]
OPTIONS = ["--entropy_tuning.enabled=true", "--trainer.check_val_every_n_epoch=1000", "--data.steps_per_epoch=50"]


def stop_after_a_checkpoint(output: Path, number: signal.Signals) -> Path:
    """Start a long run in a process of its own, send it a signal once it has saved, and return its folder."""
    arguments = ["fit", "--data.dataset=edp/toy/two-step-v0", f"--output={output}", "--run_name=parts", *TINY, *OPTIONS]
    process = subprocess.Popen(
        [sys.executable, "-m", "edp_lightning", *arguments, "--trainer.max_steps=100000"],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    folder = output / "edp-toy-two-step-v0" / "parts-seed0"
    deadline = time.monotonic() + 120
    while not (folder / "checkpoints" / "last.ckpt").exists():
        assert process.poll() is None, "the run ended by itself"
        assert time.monotonic() < deadline, "no checkpoint within two minutes"
        time.sleep(0.01)
    time.sleep(0.2)
    process.send_signal(number)
    process.wait(timeout=60)
    return folder


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL], ids=lambda n: n.name)
def test_a_stopped_run_continues_bit_for_bit(number, toy_set, command, tmp_path):
    folder = stop_after_a_checkpoint(tmp_path / "runs", number)
    reached = read_checkpoint(folder / "checkpoints" / "last.ckpt")["global_step"]
    if number == signal.SIGKILL:
        assert reached % 5 == 0  # the last period's checkpoint
    end = f"--trainer.max_steps={reached + 12}"
    whole = command("fit", end, *OPTIONS, run_name="whole")
    parts = command("fit", end, "--ckpt_path=last", *OPTIONS, run_name="parts")
    a, b = state(whole), state(parts)
    assert b["/global_step"].item() == reached + 12
    assert [name for name in a if not torch.equal(a[name], b[name])] == []
    events = EventAccumulator(str(folder), size_guidance={"scalars": 0})  # as TensorBoard reads the folder
    events.Reload()
    assert [event.step for event in events.Scalars("critic/loss")] == list(range(reached + 12))
