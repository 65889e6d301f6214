"""Runs the trials of a sweep with Ray Tune: on this machine, or on the nodes of a Ray cluster that share the folders."""

import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from edp_lightning.errors import UserError
from edp_lightning.experiments.plan import read_plan
from edp_lightning.experiments.running import State, TrialRun

PAUSE = 1.0


def run_trial(config: dict[str, Any]) -> dict[str, Any]:
    """Run one trial to its end, in a worker of Ray.

    Args:
        config: The sweep's ``file``, its working ``folder``, the trial's ``index`` and its ``threads``.

    Returns:
        ``state``, ``failures`` and ``reason`` of the trial.
    """
    os.chdir(config["folder"])
    run = TrialRun(read_plan(config["file"]).trials[config["index"]], config["threads"])
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


def run_ray(file: str, indices: Sequence[int], output: Path, threads: int, gpus: float, workers: int | None) -> None:
    """Run trials with Ray Tune; what came of them is in their folders.

    Ray's own restoring is not needed: a sweep that goes on hands over the trials that are not done.

    Args:
        file: The sweep file.
        indices: Which of its trials.
        output: Folder of all runs; Ray's own files go to ``.ray`` in it.
        threads: Processor cores of a trial.
        gpus: GPUs of a trial, or a fraction of one.
        workers: Trials at a time; as many as fit when not given.

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
    space = {"index": tune.grid_search(list(indices)), "file": file, "folder": str(Path.cwd()), "threads": threads}
    tuner = tune.Tuner(
        tune.with_resources(run_trial, {"cpu": threads, "gpu": gpus}),
        param_space=space,
        tune_config=tune.TuneConfig(max_concurrent_trials=workers),
        run_config=tune.RunConfig(name="sweep", storage_path=str((output / ".ray").absolute())),
    )
    try:
        tuner.fit()
    finally:
        ray.shutdown()
