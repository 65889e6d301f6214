"""The ``collect`` command."""

from contextlib import closing

from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn

from edp_lightning.collect.recorder import RecordedEpisode
from edp_lightning.collect.tasks import refuse_retired, task_of
from edp_lightning.collect.workers import episodes
from edp_lightning.collect.writer import check_target, write_dataset
from edp_lightning.errors import UserError
from edp_lightning.runs.progress import LoggedProgress
from edp_lightning.runs.stop_signals import leaving_on_sigterm


def collect(
    name: str,
    steps: int | None = None,
    workers: int = 1,
    seed: int = 0,
    noise: float | None = None,
    output: str | None = None,
) -> str:
    """Collect a dataset on this machine and write it as a Minari set.

    The same seed gives the same data whatever the number of workers. The set appears when it is complete; an interrupted
    collection, also one that gets SIGTERM, leaves nothing behind.

    Args:
        name: pointmaze-umaze, pointmaze-medium, toy; antmaze-umaze, antmaze-umaze-diverse, antmaze-medium-play,
            antmaze-medium-diverse, antmaze-large-play, antmaze-large-diverse; or hopper, halfcheetah, walker2d with -medium,
            -medium-replay or -medium-expert.
        steps: Number of environment steps, exactly; the last episode is cut. The task's default when not given.
        workers: Number of processes (locomotion: threads).
        seed: Seed of the set.
        noise: Standard deviation of Gaussian noise on the controller's actions; the task's default when not given. Locomotion
            policies draw their actions from Gaussians of their own; this comes on top.
        output: Dataset id to write; the task's own when not given.

    Returns:
        The dataset id.

    Raises:
        UserError: If the name is unknown, a number is out of range, or the set exists.
        SystemExit: With 143 after SIGTERM.
    """
    task = task_of(name)
    total = task.steps if steps is None else steps
    spread = task.noise if noise is None else noise
    dataset_id = output or task.dataset_id
    if total < 1 or workers < 1 or spread < 0 or seed < 0:
        raise UserError(
            f"collect needs steps >= 1, workers >= 1, seed >= 0 and noise >= 0; got {total}, {workers}, {seed}, {spread}"
        )
    refuse_retired(dataset_id)
    check_target(dataset_id)
    collected: list[RecordedEpisode] = []
    remaining = total
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    algorithm = f"{task.behavior}, action noise {spread}, seed {seed}"
    with leaving_on_sigterm():
        with LoggedProgress(*columns) as progress, closing(episodes(name, task, seed, spread, workers, total)) as stream:
            bar = progress.add_task(f"collecting {dataset_id}", total=total)
            while remaining > 0:
                episode = next(stream).cut(remaining)
                collected.append(episode)
                remaining -= len(episode)
                progress.advance(bar, len(episode))
        path = write_dataset(dataset_id, collected, task.collection_spec(), task.evaluation_spec(), algorithm, task.description)
    print(f"{dataset_id}: {total} steps in {len(collected)} episodes, written to {path}")
    return dataset_id
