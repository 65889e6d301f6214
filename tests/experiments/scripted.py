"""Trials that are scripts of a moment, which write what fit and test would write, and sweep files."""

import io
import json
import time
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console

from edp_lightning.experiments.board import Board
from edp_lightning.experiments.running import State, TrialRun
from tests.conftest import TINY

FIT = """
import shutil, sys
folder, steps = sys.argv[1:]
print("training in", folder)
if "broken" in folder:
    print("loss is nan"); sys.exit(1)
shutil.copy(f"{folder}/../ready.ckpt", f"{folder}/checkpoints/last.ckpt")
"""
TEST = """
import json, sys
if "silent" in sys.argv[1]:
    sys.exit()
json.dump({"checkpoint": {"gradient_steps": int(sys.argv[2])}}, open(f"{sys.argv[1]}/test_last.json", "w"))
"""


def board(runs: list[TrialRun], workers: int = 1) -> Board:
    return Board(runs, workers, Console(file=io.StringIO(), width=200))


def sweep_file(tmp_path: Path, steps: int, **algorithms: list[str]) -> Path:
    content = {
        "output": str(tmp_path / "runs"),
        "steps": steps,
        "tasks": {"toy": ["--data.dataset=edp/toy/two-step-v0"]},
        "algorithms": algorithms,
        "options": [*TINY, "--trainer.check_val_every_n_epoch=10000"],
    }
    file = tmp_path / "sweep.yaml"
    file.write_text(yaml.safe_dump(content))
    return file


def wait_until(condition: Any, what: str) -> None:
    deadline = time.monotonic() + 400
    while not condition():
        assert time.monotonic() < deadline, f"no {what} in time"
        time.sleep(0.02)


def attempts(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "trial" / "attempts.jsonl").read_text().splitlines()]


def ended(run: TrialRun) -> None:
    """Wait for the process of a trial, and let the trial notice."""
    while run.state is State.RUNNING:
        run.poll()
        time.sleep(0.02)
