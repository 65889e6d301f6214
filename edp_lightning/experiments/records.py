"""What a trial's folder says about it. Nothing else remembers a sweep: any process may go on from here."""

import hashlib
import json
from pathlib import Path
from typing import Any

import torch

from edp_lightning.errors import UserError
from edp_lightning.experiments.attempts import FOLDER
from edp_lightning.experiments.options import read_yaml
from edp_lightning.experiments.plan import Trial
from edp_lightning.runs import checkpoint_io
from edp_lightning.runs.run_folder import NAMED_CHECKPOINTS, PENDING, checkpoint_file


def trial_folder(trial: Trial) -> Path:
    """Return where the sweep keeps what it knows of a trial."""
    return trial.folder / FOLDER


def log_file(trial: Trial) -> Path:
    """Return the file with all that the trial's processes printed."""
    return trial_folder(trial) / "log.txt"


def is_begun(trial: Trial) -> bool:
    """Return whether there is something to go on from, be it damaged."""
    return checkpoint_file(trial.folder).is_file()


def checkpoint_step(trial: Trial, name: str = "last") -> int:
    """Return the gradient steps of a checkpoint, 0 if there is none."""
    path = checkpoint_file(trial.folder, name)
    return int(_read(path)["global_step"]) if path.is_file() else 0


def owes_evaluation(trial: Trial) -> bool:
    """Return whether an evaluation in training was interrupted: the next fit makes up for it, even with no step left to train.

    Args:
        trial: A trial with a checkpoint.
    """
    path = checkpoint_file(trial.folder)
    return checkpoint_io.owes_evaluation(_read(path)) or checkpoint_file(trial.folder, PENDING).exists()


def _read(path: Path) -> dict[str, Any]:
    """Return a checkpoint; its tensors stay in the file where that can be done."""
    try:
        checkpoint: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        int(checkpoint["global_step"])
        return checkpoint
    except Exception:
        return checkpoint_io.read_checkpoint(path)


def next_command(trial: Trial) -> list[str] | None:
    """Return the command line that a trial needs next; None if it is done.

    Raises:
        UserError: If it has more steps than it should, or its checkpoint cannot be read.
    """
    step = checkpoint_step(trial)
    if step > trial.steps:
        raise UserError(
            f"{trial.folder} has {step} gradient steps, more than the {trial.steps} asked for: choose another output"
        )
    if step < trial.steps or owes_evaluation(trial):
        return trial.fit()
    for checkpoint in trial.judge:
        wanted = checkpoint_step(trial, checkpoint)  # without any evaluation there is no best one
        if wanted and judged_step(trial, checkpoint) != wanted:
            return trial.test(checkpoint)
    return None


def judged_step(trial: Trial, checkpoint: str) -> int | None:
    """Return the gradient steps of the policy in a result file, None if there is no such file."""
    try:
        facts = json.loads((trial.folder / f"test_{checkpoint}.json").read_text()).get("checkpoint")
        return int(facts["gradient_steps"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def settings(trial: Trial) -> dict[str, str]:
    """Return what a trial is made of: each option of the sweep file, and of config files a digest of their content."""
    found = {}
    for word in trial.options:
        name, _, value = word.partition("=")
        if name == "--config":
            content = json.dumps(read_yaml(Path(value)), sort_keys=True, default=str)
            found[value] = hashlib.sha256(content.encode()).hexdigest()[:16]
        else:
            found[name] = value
    return found


def settings_file(trial: Trial) -> Path:
    """Return the file with the settings that a trial was begun with."""
    return trial_folder(trial) / "settings.json"


def check_settings(trial: Trial) -> None:
    """Refuse to go on with other settings than a trial was begun with.

    Raises:
        UserError: If they differ; names which.
    """
    file = settings_file(trial)
    if not file.is_file() or not is_begun(trial):
        return
    try:
        before = json.loads(file.read_text())
    except (OSError, ValueError):
        return
    now = settings(trial)
    changed = sorted(name for name in {*before, *now} if before.get(name) != now.get(name))
    if changed or list(before) != list(now):
        raise UserError(
            f"{trial.folder} was begun with other settings ({', '.join(changed) or 'their order'}): restore them, or give the "
            "sweep file another output"
        )


def remember_settings(trial: Trial) -> None:
    """Write down what a trial is begun with; of one begun without a sweep, what it goes on with."""
    file = settings_file(trial)
    if is_begun(trial) and file.is_file():
        return
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(settings(trial), indent=1))


def forget_results(trial: Trial) -> None:
    """Remove the results of a trial that begins anew: they are of weights that are gone, and would pass for the new ones'."""
    for checkpoint in NAMED_CHECKPOINTS:
        (trial.folder / f"test_{checkpoint}.json").unlink(missing_ok=True)


def last_lines(trial: Trial, number: int = 5) -> list[str]:
    """Return the last lines that a trial's processes printed."""
    try:
        with log_file(trial).open("rb") as file:
            file.seek(0, 2)
            file.seek(max(0, file.tell() - 20_000))
            text = file.read().decode(errors="replace")
    except OSError:
        return []
    lines = [line.rpartition("\r")[2].rstrip() for line in text.splitlines()]
    return [line for line in lines if line][-number:]
