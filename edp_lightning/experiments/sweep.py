"""The ``sweep`` command."""

import os
import shlex
import signal
from collections.abc import Sequence
from typing import NoReturn

from rich.console import Console

from edp_lightning.errors import UserError
from edp_lightning.experiments.board import Board
from edp_lightning.experiments.datasets import collect_missing, missing_sets
from edp_lightning.experiments.local import run_local
from edp_lightning.experiments.plan import Plan, Trial, read_plan
from edp_lightning.experiments.ray_engine import run_ray
from edp_lightning.experiments.records import check_settings, last_lines, log_file
from edp_lightning.experiments.running import RETRIES, State, TrialRun, thread_variables
from edp_lightning.experiments.slurm import batch_file


def sweep(
    file: str,
    engine: str = "local",
    workers: int | None = None,
    threads: int | None = None,
    gpus_per_trial: float = 0.0,
    trial: int | None = None,
    dry_run: bool = False,
    status: bool = False,
    digest: str | None = None,
) -> None:
    """Run the trials of a sweep file; the same command goes on with those that are not done.

    Args:
        file: The sweep file.
        engine: What runs them: ``local``, ``ray``, or ``slurm``, which prints a file for sbatch and runs nothing.
        workers: Trials at a time; 1 for ``local``, as many as fit for the others when not given.
        threads: Threads per trial; the cores of this machine shared out over the workers when not given.
        gpus_per_trial: GPUs per trial, for ``ray`` and ``slurm``; may be a fraction for ``ray``.
        trial: Run only the trial with this number, as ``dry_run`` counts them.
        dry_run: Print every command and run none.
        status: Print how far the sweep is and run nothing.
        digest: Of the plan in which the trial's number was counted; another plan is refused.

    Raises:
        UserError: If the sweep file is wrong or another one by now, a set cannot be collected, or trials failed.
        SystemExit: With 130 or 143 after Ctrl-C or SIGTERM, when every trial has saved.
    """
    if (workers is not None and workers < 1) or (threads is not None and threads < 1) or gpus_per_trial < 0:
        raise UserError(f"sweep needs workers >= 1, threads >= 1, gpus >= 0; got {workers}, {threads}, {gpus_per_trial}")
    plan = read_plan(file)
    if digest not in (None, plan.digest):
        raise UserError(
            f"{file} has other trials by now, or in another order, than the batch file was made for: make that again with "
            "--engine slurm"
        )
    cores = os.cpu_count() or 1
    at_a_time = workers or 1
    threads = threads or max(1, cores // at_a_time)
    indices = _chosen(plan, trial)
    chosen = [plan.trials[index] for index in indices]
    for one in chosen:
        check_settings(one)
    runs = [TrialRun(one, threads) for one in chosen]
    for run in runs:
        run.look()
    todo = [index for index, run in zip(indices, runs, strict=True) if run.state is not State.DONE]
    commands = [] if trial is not None else missing_sets([plan.trials[index] for index in todo], cores)
    console = Console()
    if dry_run:
        _print_commands(indices, runs, commands, threads)
    elif status:
        for run in runs:
            run.notice_others()
        console.print(Board(runs, at_a_time).table())
    elif not todo:
        _end(runs, console)
    elif engine == "slurm":
        plan.output.mkdir(parents=True, exist_ok=True)  # SLURM opens the jobs' output there, and makes no folder for it
        print(batch_file(plan, file, todo, commands, threads, gpus_per_trial, workers), end="")
    elif engine == "ray":
        collect_missing(commands)
        waiting = {run.trial.name: run for run in runs if run.state is not State.DONE}
        try:
            outcomes = run_ray(file, list(waiting), plan.output, threads, gpus_per_trial, workers)
        except KeyboardInterrupt:
            outcomes = {}
        for name, run in waiting.items():
            run.look()
            run.state, run.reason = outcomes.get(name, (run.state, ""))
        cut_short = sum(run.state is State.WAITING for run in runs)
        if cut_short:  # Ray takes the first Ctrl-C for a wish to end early, and leaves trials undone for no other reason
            _show_failures(runs, console)
            _stop(int(signal.SIGINT), f"{cut_short} of {len(runs)} trials were not run to their end", file, console)
        _end(runs, console)
    else:
        collect_missing(commands)
        board = Board(runs, at_a_time, console)
        try:
            number, left = run_local(runs, at_a_time, board), "every trial has saved"
        except KeyboardInterrupt:
            number, left = int(signal.SIGINT), "trials were killed and repeat the steps since their last checkpoints"
        if number:
            _stop(number, left, file, console)
        _end(runs, console)


def _chosen(plan: Plan, trial: int | None) -> list[int]:
    if trial is None:
        return list(range(len(plan.trials)))
    if not 0 <= trial < len(plan.trials):
        raise UserError(f"--trial {trial}: the sweep has {len(plan.trials)} trials, 0 to {len(plan.trials) - 1}")
    return [trial]


def commands_of(trial: Trial) -> list[list[str]]:
    """Return all command lines of a trial, whatever has been done."""
    return [trial.fit(), *(trial.test(checkpoint) for checkpoint in trial.judge)]


def _print_commands(indices: Sequence[int], runs: Sequence[TrialRun], collect: Sequence[Sequence[str]], threads: int) -> None:
    variables = " ".join(f"{name}={value}" for name, value in thread_variables(threads).items())
    for command in collect:
        print(f"python -m edp_lightning {shlex.join(command)}")
    for index, run in zip(indices, runs, strict=True):
        print(f"# {index}: {run.trial.name}, {run.state.value}")
        for command in commands_of(run.trial):
            print(f"{variables} python -m edp_lightning {shlex.join(command)}")


def _stop(number: int, left: str, file: str, console: Console) -> NoReturn:
    """Say what a stop signal left behind, and leave."""
    console.print(f"stopped; {left}. Go on with: edp_lightning sweep {file}", markup=False, soft_wrap=True)
    raise SystemExit(128 + number)


def _end(runs: Sequence[TrialRun], console: Console) -> None:
    """Report what the trials came to.

    Raises:
        UserError: If some failed.
    """
    failed = _show_failures(runs, console)
    if failed:
        raise UserError(f"{failed} of {len(runs)} trials failed after {RETRIES} retries; the others are done")
    console.print(f"all {len(runs)} trials are done", highlight=False)


def _show_failures(runs: Sequence[TrialRun], console: Console) -> int:
    """Print the trials that failed, with their last lines; return how many there are."""
    failed = [run for run in runs if run.state is State.FAILED]
    for run in failed:
        console.print(
            f"failed: {run.trial.name}: {run.reason}; its output is in {log_file(run.trial)}", markup=False, soft_wrap=True
        )
        for line in last_lines(run.trial):
            console.print(f"    {line}", markup=False, highlight=False, soft_wrap=True)
    return len(failed)
