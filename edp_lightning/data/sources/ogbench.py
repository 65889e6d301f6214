"""Reads OGBench's files (arXiv 2410.20092) as single tasks: rewards and ends come from the task, by OGBench's own rule.

A file is one stream of trajectories of L + 1 rows, s_0 to s_L; ``terminals`` is 1 on the last row of each, whose action means
nothing. It holds no rewards. Those of a task, and where it is solved, follow from the state **before** each step (r(s), as of
OGBench 1.2): a transition from a solved state is worth 0 and nothing follows it. The trajectories know no task: they go on at
the goal, and where they stop values bootstrap.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
from gymnasium.envs.registration import EnvSpec
from numpy.typing import NDArray
from packaging.version import Version

from edp_lightning.data.sources.arrays import flags, numbers
from edp_lightning.data.sources.ogbench_names import SingleTask, missing_message, parse_name
from edp_lightning.data.sources.stored import unreadable
from edp_lightning.data.sources.unit_box import UnitBoxFile
from edp_lightning.data.transitions import Episode
from edp_lightning.environments.families import ObservationView
from edp_lightning.environments.own_randomness import OwnRandomness
from edp_lightning.environments.quiet import quiet_gymnasium
from edp_lightning.environments.specs import environment_spec
from edp_lightning.errors import DAMAGED_NPZ, UserError

Floats = NDArray[np.float32]

OLDEST = Version("1.2")
"""Since then environments judge the state before a step, as the data do."""

STATES = ("qpos", "qvel", "button_states")
"""What a file holds of the simulator's states beside the observations; which of them depends on the task."""


@dataclass(frozen=True)
class OGBenchFile(UnitBoxFile):
    """A file on disk, read for one task.

    Attributes:
        dataset_id: Name for messages and results.
        task: The task.
        path: The file.
        spec: Environment of the task; it judges by the same rewards.
        action_dim: Width of an action.
        notes: What the last reading found.
    """

    dataset_id: str
    task: SingleTask
    path: Path
    spec: EnvSpec
    action_dim: int
    notes: list[str] = field(default_factory=list)

    algorithm = "see arXiv 2410.20092"
    evaluation_spec = None
    whole_actions = False
    observation_space = None
    views = None
    score_reference = None
    no_environment = ""

    @property
    def origin(self) -> str:
        """Return where data and rewards come from."""
        return f"OGBench file, rewards of the task by the rule of OGBench {version('ogbench')}"

    @property
    def labels(self) -> str:
        """Return the task and the version that defines it: they decide rewards and ends."""
        return f"{self.task.environment} of OGBench {version('ogbench')}"

    def episodes(self, view: ObservationView) -> list[Episode]:
        """Return the trajectories with the task's rewards and ends."""
        name = str(self.path)
        with _opened(self.path) as file:
            observations = numbers(name, "observations", file["observations"], 2)
            actions = numbers(name, "actions", file["actions"], 2)
            lasts = flags(name, "terminals", file["terminals"])
            states = {key: np.asarray(file[key]) for key in STATES if key in file}
        for key, array in {"actions": actions, "terminals": lasts, **states}.items():
            if len(array) != len(observations):
                raise UserError(f"{name}: {key} has {len(array)} rows, observations have {len(observations)}: fetch it again")
        if not len(lasts) or not lasts[-1]:
            raise UserError(f"{name}: its last trajectory does not end with the file: it is incomplete; fetch it again")
        steps = ~lasts
        if not steps.any():
            raise UserError(f"{name}: every trajectory is a single state, so there is no transition in it")
        rewards, solved = self._labels_of({key: array[steps] for key, array in states.items()})
        self.notes.clear()
        self.notes.append(f"{solved.mean():.2%} of the steps begin where the task is solved: they end it, trajectories go on")
        return list(_cut(observations, actions, lasts, rewards, solved))

    def _labels_of(self, states: dict[str, NDArray[Any]]) -> tuple[Floats, NDArray[np.bool_]]:
        """Return for each step its reward and whether the task was solved before it, by OGBench's own code."""
        from ogbench.relabel_utils import relabel_dataset

        labelled: dict[str, Any] = dict(states)
        env = OwnRandomness(_environment(self.task))
        try:
            env.reset(seed=0)
            relabel_dataset(self.task.environment, env, labelled)
        except (KeyError, IndexError, ValueError) as error:
            raise UserError(
                f"{self.path} does not hold the states of {self.task.environment} ({error!r}): it has "
                f"{', '.join(f'{key} {value.shape}' for key, value in states.items()) or 'none'}; fetch it again"
            ) from error
        finally:
            env.close()
        return labelled["rewards"], labelled["masks"] == 0


def open_ogbench(name: str) -> OGBenchFile:
    """Return the file of a task.

    Args:
        name: Name of the task; see ``parse_name``.

    Raises:
        UserError: If the name means nothing, OGBench is not installed, or the file is missing or damaged.
    """
    task = parse_name(name)
    _check_installed(name)
    if not task.path.is_file():
        raise UserError(missing_message(task))
    with _opened(task.path) as file:
        action_dim = int(np.shape(file["actions"])[-1])
    return OGBenchFile(f"ogbench:{name}", task, task.path, _spec(name, task), action_dim)


def _check_installed(name: str) -> None:
    try:
        found = version("ogbench")
        import ogbench  # noqa: F401
    except (PackageNotFoundError, ImportError) as error:
        raise UserError(
            f"ogbench:{name} needs the package that defines its tasks: pip install 'ogbench>=1.2' ({error})"
        ) from error
    if Version(found) < OLDEST:
        raise UserError(
            f"ogbench {found} judges the state after a step, its data the one before: pip install 'ogbench>={OLDEST}'"
        )


def _spec(name: str, task: SingleTask) -> EnvSpec:
    try:
        return environment_spec(f"ogbench:{task.environment}")
    except UserError as error:
        raise UserError(f"ogbench:{name}: OGBench {version('ogbench')} has no environment {task.environment}") from error


def _environment(task: SingleTask) -> Any:
    import ogbench

    with quiet_gymnasium():
        return ogbench.make_env_and_datasets(task.name, env_only=True)


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """Open a file for reading; what turns out to be wrong with it on the way is one message."""
    try:
        with path.open("rb") as raw, np.load(raw, allow_pickle=False) as file:
            missing = [key for key in ("observations", "actions", "terminals") if key not in file]
            if missing:
                raise UserError(f"{path}: no {', '.join(missing)}; it has {', '.join(file.files) or 'nothing'}: fetch it again")
            yield file
    except DAMAGED_NPZ as error:
        raise unreadable(path, "an .npz file of OGBench", error) from error


def _cut(
    observations: Floats, actions: Floats, lasts: NDArray[np.bool_], rewards: Floats, solved: NDArray[np.bool_]
) -> Iterator[Episode]:
    """Yield the trajectories of a stream.

    Args:
        observations: Shape (rows, observation_dim).
        actions: Shape (rows, action_dim).
        lasts: Whether a row is the last of its trajectory, shape (rows,).
        rewards: Reward of each step, shape (rows that are not last,).
        solved: Whether the task was solved before the step, likewise.
    """
    start = steps = 0
    for end in np.flatnonzero(lasts).tolist():
        length = end - start
        if length:
            labels = slice(steps, steps + length)
            cut = np.zeros(length, dtype=np.bool_)
            cut[-1] = not solved[labels][-1]
            yield Episode(observations[start : end + 1], actions[start:end], rewards[labels], solved[labels], cut)
        start, steps = end + 1, steps + length
