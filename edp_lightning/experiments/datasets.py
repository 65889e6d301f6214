"""Collects the sets that a sweep needs and this machine lacks, before any trial: two trials would collect one twice."""

import subprocess
import sys
from collections.abc import Sequence
from typing import Any

from edp_lightning.collect import DATASET_IDS, collecting_alone
from edp_lightning.data.sources.minari import is_local
from edp_lightning.data.sources.opening import minari_id
from edp_lightning.errors import UserError
from edp_lightning.experiments.options import stated
from edp_lightning.experiments.plan import Trial
from edp_lightning.experiments.running import attached_command

COLLECT_OPTIONS = {"steps": "data.collect_steps", "workers": "data.collect_workers", "seed": "data.collect_seed"}


def missing_sets(trials: Sequence[Trial], cores: int) -> list[list[str]]:
    """Return the command lines that collect what is missing, each once.

    Args:
        trials: The trials.
        cores: Processes of a collection that does not say how many.

    Raises:
        UserError: If trials disagree about how a set is collected.
    """
    names = {dataset_id: name for name, dataset_id in DATASET_IDS.items()}
    found: dict[str, tuple[Trial, list[str]]] = {}
    for trial in trials:
        dataset = minari_id(str(stated(trial.options, "data.dataset")))
        if dataset not in names or stated(trial.options, "data.collect_steps") is None or is_local(dataset):
            continue
        values: dict[str, Any] = {name: stated(trial.options, option) for name, option in COLLECT_OPTIONS.items()}
        values["workers"] = values["workers"] or cores
        words = [f"--{name}={value}" for name, value in values.items() if value is not None]
        other, command = found.setdefault(dataset, (trial, ["collect", names[dataset], *words]))
        if command[2:] != words:
            raise UserError(f"{other.name} and {trial.name} collect {dataset} differently: {command[2:]} and {words}")
    return [command for _, command in found.values()]


def collect_missing(commands: Sequence[Sequence[str]]) -> None:
    """Run the command lines one after the other.

    Raises:
        UserError: If one fails.
    """
    for command in commands:
        with collecting_alone(DATASET_IDS[command[1]]):
            if is_local(DATASET_IDS[command[1]]):  # by now: another sweep has collected it
                continue
            status = subprocess.run(attached_command([sys.executable, "-m", "edp_lightning", *command])).returncode
        if status:
            raise UserError(
                f"edp_lightning {' '.join(command)} ended with status {status}: mend that, then start the sweep again"
            )
