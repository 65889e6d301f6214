"""Benchmarks still run; what they measure is in benchmarks/README.md."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from benchmarks.peers import train
from edp_lightning.experiments.results import read_grid

ROOT = Path(__file__).parents[1]


@pytest.mark.slow
def test_the_step_benchmark_runs_and_prints_its_table():
    command = [sys.executable, "benchmarks/step.py", "--quick", "--threads", "1"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    assert "goal" in done.stdout


@pytest.mark.parametrize("peer", sorted(train.NAMES))
def test_a_plain_program_trains_on_a_set_is_judged_and_can_be_reported(peer, toy_set, tmp_path, monkeypatch):
    words = ["train.py", peer, toy_set, "--steps=3", "--episodes=2", f"--output={tmp_path}", "--set", "reward_scale=2.0"]
    state = torch.random.get_rng_state()
    monkeypatch.setattr(sys, "argv", [*words, "reward_transform=affine"])
    train.main()
    torch.random.set_rng_state(state)
    grid = read_grid([tmp_path])
    (cell,) = grid.cells.values()
    assert grid.systems == (f"plain {train.NAMES[peer]}",)
    assert (cell.last[0].steps, cell.last[0].seed) == (3, 0)
    assert grid.left_out == ()
