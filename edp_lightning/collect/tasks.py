"""Which sets can be collected: one entry per name of ``collect NAME``."""

import copy
from dataclasses import dataclass
from typing import Protocol

from gymnasium.envs.registration import EnvSpec

from edp_lightning.collect.locomotion_tasks import LOCOMOTION_TASKS
from edp_lightning.collect.maze_tasks import MAZE_TASKS
from edp_lightning.errors import UsageError, UserError, did_you_mean


class CollectTask(Protocol):
    """How one set is collected and evaluated."""

    @property
    def dataset_id(self) -> str:
        """Minari id that is written."""

    @property
    def noise(self) -> float:
        """Default standard deviation of the Gaussian noise on actions."""

    @property
    def steps(self) -> int:
        """Default number of steps."""

    @property
    def description(self) -> str:
        """Ends up in the set's metadata."""

    @property
    def behavior(self) -> str:
        """What acts, in words."""

    def collection_spec(self) -> EnvSpec:
        """Return the environment that data are collected in."""

    def evaluation_spec(self) -> EnvSpec:
        """Return the environment that policies are evaluated in."""


TOY_SPEC = EnvSpec(
    id="edp_lightning/TwoStep-v0",
    entry_point="edp_lightning.collect.toy:TwoStepEnv",
    disable_env_checker=True,
    max_episode_steps=2,
)


@dataclass(frozen=True)
class ToyTask:
    """The two-step task."""

    dataset_id: str = "edp/toy/two-step-v0"
    noise: float = 0.0
    steps: int = 1000
    description: str = "Two-step task of arXiv 2402.04080, figure 3: most samples lie where the reward is low."
    behavior: str = "toy controller"

    def collection_spec(self) -> EnvSpec:
        """Return the environment."""
        return copy.deepcopy(TOY_SPEC)

    def evaluation_spec(self) -> EnvSpec:
        """Return the environment."""
        return self.collection_spec()


TASKS: dict[str, CollectTask] = {**MAZE_TASKS, **LOCOMOTION_TASKS, "toy": ToyTask()}
"""Name on the command line -> task."""

DATASET_IDS: dict[str, str] = {name: task.dataset_id for name, task in TASKS.items()}
"""Name on the command line -> Minari id it writes."""

RETIRED_IDS: dict[str, str] = {
    f"edp/antmaze/{name}-v0": f"edp/antmaze/{name}-v1" for name in ("umaze", "umaze-diverse", "medium-diverse", "large-diverse")
}
"""Id that this package no longer collects nor reads -> the set that took its place."""


def refuse_retired(dataset_id: str) -> None:
    """Raise if a set was collected by a controller that is gone: results on it and on its successor must not be mixed.

    Raises:
        UserError: Saying why, and which set took its place.
    """
    if dataset_id not in RETIRED_IDS:
        return
    successor = RETIRED_IDS[dataset_id]
    names = {task_id: name for name, task_id in DATASET_IDS.items()}
    raise UserError(
        f"dataset {dataset_id} is retired: its controller fell so often that a quarter of the steps show an ant on its back; "
        f"use {successor} (python -m edp_lightning collect {names[successor]})"
    )


def task_of(name: str) -> CollectTask:
    """Return the task called ``name``.

    Raises:
        UsageError: If there is none.
    """
    if name not in TASKS:
        nearest = did_you_mean(name, TASKS)
        raise UsageError(f"nothing called {name!r} can be collected{nearest}\nchoose one of {', '.join(TASKS)}")
    return TASKS[name]
