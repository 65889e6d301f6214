"""The trials of a sweep as an array of SLURM jobs."""

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from edp_lightning.experiments.plan import Plan

SAVING_SECONDS = 300
"""How long before its time is up a job is asked to save and leave."""


def batch_file(
    plan: Plan,
    file: str,
    indices: Sequence[int],
    collect: Sequence[Sequence[str]],
    threads: int,
    gpus: float,
    workers: int | None,
) -> str:
    """Return a file for ``sbatch``: one job per trial, each the same sweep command for one trial.

    Args:
        plan: The plan.
        file: Its file.
        indices: Which of its trials are to run.
        collect: Command lines that collect missing sets; to be run before.
        threads: Threads per trial.
        gpus: GPUs per trial; SLURM gives whole ones.
        workers: Jobs at a time; as many as fit when not given.
    """
    program = f"{shlex.quote(sys.executable)} -m edp_lightning"
    lines = [
        "#!/bin/bash",
        f'#SBATCH --job-name="{plan.name}"',
        f"#SBATCH --array={_ranges(indices)}{f'%{workers}' if workers else ''}",
        "#SBATCH --ntasks=1",
        f"#SBATCH --cpus-per-task={threads}",
        *([f"#SBATCH --gpus-per-task={max(1, round(gpus))}"] if gpus else []),
        f'#SBATCH --output="{plan.output.absolute()}/slurm-%A_%a.out"',
        f"#SBATCH --signal=B:TERM@{SAVING_SECONDS}",
        "# Add --time, --partition and --mem of your cluster. A job whose time is up has saved: submit this file again.",
        *(f"# A set is missing; before submitting run: {program} {shlex.join(command)}" for command in collect),
        f"cd {shlex.quote(str(Path.cwd()))}",
        f'exec {program} sweep {shlex.quote(file)} --trial "$SLURM_ARRAY_TASK_ID" --digest {plan.digest} --threads {threads}',
    ]
    return "\n".join(lines) + "\n"


def _ranges(indices: Sequence[int]) -> str:
    """Return numbers as SLURM writes them, such as ``0-3,7``."""
    parts: list[list[int]] = []
    for index in sorted(indices):
        if parts and parts[-1][-1] == index - 1:
            parts[-1].append(index)
        else:
            parts.append([index])
    return ",".join(str(part[0]) if len(part) == 1 else f"{part[0]}-{part[-1]}" for part in parts)
