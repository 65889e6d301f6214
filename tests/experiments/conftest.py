"""Trials whose processes are scripts."""

import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from edp_lightning.experiments import running
from edp_lightning.experiments.plan import Trial
from edp_lightning.experiments.running import TrialRun
from tests.experiments.scripted import FIT, TEST


@pytest.fixture
def scripted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Make trials whose processes are the scripts above, and note in which order they start."""
    started: list[tuple[str, str]] = []

    def command(words: list[str]) -> list[str]:
        verb, folder = words[3], words[4]
        started.append((Path(folder).name, verb))
        return [sys.executable, "-S", "-c", FIT if verb == "fit" else TEST, folder, "10"]

    monkeypatch.setattr(running, "attached_command", command)
    torch.save({"global_step": 10}, tmp_path / "ready.ckpt")

    def make(*names: str) -> tuple[list[TrialRun], list[tuple[str, str]]]:
        runs = []
        for name in names:
            folder = tmp_path / name
            (folder / "checkpoints").mkdir(parents=True, exist_ok=True)
            trial = Trial(name, "a", "", 0, 10, (str(folder),), (), folder, ("last", "best"))
            runs.append(TrialRun(trial, 1))
            runs[-1].look()
        return runs, started

    return make
