"""Runs the trials of a sweep with Ray Tune: on this machine, or on the nodes of a Ray cluster that share the folders."""

import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from edp_lightning.errors import UserError
from edp_lightning.experiments.plan import Trial, read_plan
from edp_lightning.experiments.running import State, TrialRun

PAUSE = 1.0


def run_trial(config: dict[str, Any]) -> dict[str, Any]:
    """Run one trial to its end, in a worker of Ray.

    Args:
        config: The sweep's ``file``, its working ``folder``, the name of the ``trial`` and its ``threads``.

    Returns:
        ``state``, ``failures`` and ``reason`` of the trial.

    Raises:
        UserError: If the file has no such trial any more.
    """
    os.chdir(config["folder"])
    run = TrialRun(_trial_named(config["trial"], config["file"]), config["threads"])
    try:
        while run.state not in (State.DONE, State.FAILED):
            if run.state is State.RUNNING:
                run.poll()
            else:
                run.start()
            time.sleep(PAUSE)
    finally:
        run.stop(15)
        while not run.leave():
            time.sleep(PAUSE)
    return {"state": run.state.value, "failures": run.failures, "reason": run.reason}


def _trial_named(name: str, file: str) -> Trial:
    """Return a trial by its name: numbers mean other ones when the file was edited while the trial was queued."""
    for trial in read_plan(file).trials:
        if trial.name == name:
            return trial
    raise UserError(f"{file} has no trial {name} any more: it was changed while the sweep ran")


def run_ray(
    file: str, names: Sequence[str], output: Path, threads: int, gpus: float, workers: int | None
) -> dict[str, tuple[State, str]]:
    """Run trials with Ray Tune.

    Ray's own restoring is not needed: a sweep that goes on hands over the trials that are not done.

    Args:
        file: The sweep file.
        names: Of those of its trials that are to run.
        output: Folder of all runs; Ray's own files go to ``.ray`` in it.
        threads: Processor cores of a trial.
        gpus: GPUs of a trial, or a fraction of one.
        workers: Trials at a time; as many as fit when not given.

    Returns:
        Name of a trial -> what it came to and, if it failed, why. Trials that Ray did not take to an end are not there.

    Raises:
        UserError: If Ray is not installed.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
        from ray import tune
    except ImportError as error:
        raise UserError(f"--engine ray needs Ray: pip install 'edp_lightning[sweep]' ({error})") from error
    ray.init(ignore_reinit_error=True)  # RAY_ADDRESS names a cluster that is there
    space = {"trial": tune.grid_search(list(names)), "file": file, "folder": str(Path.cwd()), "threads": threads}
    tuner = tune.Tuner(
        tune.with_resources(run_trial, {"cpu": threads, "gpu": gpus}),
        param_space=space,
        tune_config=tune.TuneConfig(max_concurrent_trials=workers),
        run_config=tune.RunConfig(name="sweep", storage_path=str((output / ".ray").absolute())),
    )
    try:
        results = tuner.fit()
        outcomes = {_name(results[number]): _outcome(results[number]) for number in range(len(results))}
    finally:
        ray.shutdown()
    return {name: outcome for name, outcome in outcomes.items() if outcome is not None}


def _name(result: Any) -> str:
    return str((result.config or {}).get("trial"))


def _outcome(result: Any) -> tuple[State, str] | None:
    """Return what a trial came to; None for one that was cut short."""
    if result.error is not None:  # its worker was lost: what the trial itself meets with is in what it returns
        lines = str(result.error).strip().splitlines()
        return State.FAILED, lines[-1] if lines else type(result.error).__name__
    found = result.metrics or {}
    return (State(found["state"]), str(found["reason"])) if "state" in found else None
