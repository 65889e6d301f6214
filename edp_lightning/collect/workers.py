"""Shares episodes out over processes; the order and content of the episodes do not depend on how many there are."""

import atexit
import itertools
import multiprocessing
import os
import signal
from collections.abc import Generator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool

from edp_lightning.collect.locomotion_tasks import LocomotionTask
from edp_lightning.collect.recorder import RecordedEpisode, Recorder, make_recorder
from edp_lightning.collect.tasks import CollectTask, task_of
from edp_lightning.errors import UserError
from edp_lightning.runs.processes import check_script_is_guarded, end_with_parent

_recorder: Recorder | None = None


def _start(name: str) -> None:
    global _recorder
    end_with_parent()
    # Ctrl-C is the parent's to handle: it ends the pool. One process, one core.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _recorder = make_recorder(task_of(name))
    atexit.register(_recorder.close)


def _record(job: tuple[int, int, float]) -> RecordedEpisode:
    assert _recorder is not None
    return _recorder.record(*job)


def episodes(
    name: str, task: CollectTask, seed: int, noise: float, workers: int, steps: int
) -> Generator[RecordedEpisode, None, None]:
    """Yield the episodes of a set, at least ``steps`` steps of them; close the iterator to stop.

    Args:
        name: Name of the task.
        task: The task.
        seed: Seed of the set.
        noise: Standard deviation of the noise on actions.
        workers: Number of processes, or of threads where episodes are recorded side by side.
        steps: Steps of the set.
    """
    if isinstance(task, LocomotionTask):
        from edp_lightning.collect.locomotion_recorder import locomotion_episodes

        return locomotion_episodes(task, seed, noise, workers, steps)
    return single_episodes(name, task, seed, noise, workers)


def single_episodes(
    name: str, task: CollectTask, seed: int, noise: float, workers: int
) -> Generator[RecordedEpisode, None, None]:
    """Yield the episodes 0, 1, 2, ... of a set without end; close the iterator to stop.

    Args:
        name: Name of the task.
        task: The task.
        seed: Seed of the set.
        noise: Standard deviation of the noise on actions.
        workers: Number of processes; 1 records in this one.
    """
    if workers == 1:
        recorder = make_recorder(task)
        try:
            for index in itertools.count():
                yield recorder.record(seed, index, noise)
        finally:
            recorder.close()
    check_script_is_guarded()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    pool = ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), _start, (name,))
    try:
        ahead = 2 * workers  # enough to keep everybody busy, few enough to throw away at the end
        jobs = itertools.count()
        pending = [pool.submit(_record, (seed, next(jobs), noise)) for _ in range(ahead)]
        while True:
            episode = pending.pop(0).result()
            pending.append(pool.submit(_record, (seed, next(jobs), noise)))
            yield episode
    except BrokenProcessPool as error:
        raise UserError(
            "a collecting process ended before its work: if memory ran out, ask for fewer --workers; with --workers 1 an error "
            "of the environment shows itself"
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)
