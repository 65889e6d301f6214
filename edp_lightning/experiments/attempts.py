"""The small log of a trial: when its processes began and ended, and at which step."""

import json
import time
from pathlib import Path
from typing import Any

from edp_lightning.runs.run_folder import checkpoint_file

FOLDER = "trial"
"""In the run's folder: what a sweep keeps there beside what training and testing write."""


def note(folder: Path, **facts: Any) -> None:
    """Append a line to a trial's attempts; on a full disk the line is lost, the trial is not.

    Args:
        folder: The run's folder.
        facts: What to say beside the time, and the time of the last checkpoint.
    """
    last = checkpoint_file(folder)
    try:
        saved = last.stat().st_mtime if last.is_file() else None
        with (folder / FOLDER / "attempts.jsonl").open("a") as file:
            file.write(json.dumps({"time": time.time(), "saved": saved, **facts}) + "\n")
    except OSError:
        pass


def training_seconds(folder: Path) -> float | None:
    """Return how long a run was in ``fit``, evaluations included; None if no sweep trained it.

    Of a process whose end nobody saw, what came after its last checkpoint does not count.

    Args:
        folder: The run's folder.
    """
    try:
        lines = (folder / FOLDER / "attempts.jsonl").read_text().splitlines()
        entries = [json.loads(line) for line in lines if line.endswith("}")]
    except (OSError, ValueError):
        return None
    total, started = 0.0, None
    for entry in entries:
        if entry.get("command") != "fit" and started is None:
            continue
        if started is not None:
            ended = entry["time"] if entry["event"] == "ended" else entry["saved"]
            total += max(0.0, (ended or started) - started)
        started = entry["time"] if entry["event"] == "started" and entry.get("command") == "fit" else None
    return total if any(entry.get("command") == "fit" for entry in entries) else None
