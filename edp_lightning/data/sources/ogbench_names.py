"""Names of OGBench's single tasks (arXiv 2410.20092): which file holds the data and which environment judges."""

import os
import re
from dataclasses import dataclass
from pathlib import Path

from edp_lightning.errors import UserError, likely_names
from edp_lightning.runs.cache_folder import home_folder

HOST = "https://rail.eecs.berkeley.edu/datasets/ogbench"
MIRROR = "https://huggingface.co/datasets/zhouzypaul/ogbench_datasets"

KINDS = "navigate|stitch|explore|play|noisy"
NAME = re.compile(rf"(?P<place>[\w-]+?)-(?P<kind>{KINDS})-singletask(?P<task>-task[1-5])?-(?P<version>v\d+)(?P<held_out>-val)?")
WITHOUT_TASK = re.compile(rf"(?P<data>[\w-]+?-(?:{KINDS}))(?:-oraclerep)?-(?P<version>v\d+)")

PUBLISHED = (
    *(
        f"{robot}-{place}-{kind}"
        for robot, places, kinds in (
            ("pointmaze", "medium large giant teleport", "navigate stitch"),
            ("antmaze", "medium large giant teleport", "navigate stitch"),
            ("antmaze", "medium large teleport", "explore"),
            ("humanoidmaze", "medium large giant", "navigate stitch"),
            ("antsoccer", "arena medium", "navigate stitch"),
            ("cube", "single double triple quadruple", "play noisy"),
            ("puzzle", "3x3 4x4 4x5 4x6", "play noisy"),
        )
        for place in places.split()
        for kind in kinds.split()
    ),
    "scene-play",
    "scene-noisy",
)
"""The data published with observations as numbers: each has a default task and task1 to task5."""


@dataclass(frozen=True)
class SingleTask:
    """What a name says.

    Attributes:
        name: Name of the task, as ``ogbench.make_env_and_datasets`` takes it.
        data: Name of the data, which five tasks share.
        environment: Gymnasium id of the environment that judges.
        held_out: Whether the data's validation file is meant.
    """

    name: str
    data: str
    environment: str
    held_out: bool

    @property
    def file(self) -> str:
        """Return the name of the file."""
        return f"{self.data}-val.npz" if self.held_out else f"{self.data}.npz"

    @property
    def path(self) -> Path:
        """Return where the file should be."""
        return data_folder() / self.file


def data_folder() -> Path:
    """Return where the files are: ``OGBENCH_DATASET_DIR``, or OGBench's own ``~/.ogbench/data``."""
    chosen = os.environ.get("OGBENCH_DATASET_DIR")
    return Path(chosen).expanduser() if chosen else home_folder("OGBENCH_DATASET_DIR") / ".ogbench" / "data"


def task_names() -> list[str]:
    """Return the names of all published tasks with numbers as observations."""
    tasks = ("", *(f"-task{number}" for number in range(1, 6)))
    return [f"{data}-singletask{task}-v0" for data in PUBLISHED for task in tasks]


def parse_name(name: str) -> SingleTask:
    """Return what a name says, whether or not its file is there.

    Args:
        name: Such as ``antmaze-large-navigate-singletask-task1-v0``; without a task's number the default task of the
            environment; with ``-val`` at the end the validation file.

    Raises:
        UserError: If it names no task, or one with images.
    """
    if name.startswith(("visual-", "powderworld-")):
        raise UserError(f"ogbench:{name}: its observations are images, and the networks have no layers for images")
    found = NAME.fullmatch(name)
    if found is None:
        plain = WITHOUT_TASK.fullmatch(name)
        if plain is not None:
            stem = f"{plain['data']}-singletask"
            raise UserError(
                f"ogbench:{name} has no rewards: name a task, ogbench:{stem}-task1-{plain['version']} to -task5, or the "
                f"default one, ogbench:{stem}-{plain['version']}"
            )
        raise UserError(f"ogbench:{name} is no name of an OGBench task; {_suggestion(name)}")
    place, kind, task, version = found["place"], found["kind"], found["task"] or "", found["version"]
    return SingleTask(
        name=f"{place}-{kind}-singletask{task}-{version}",
        data=f"{place}-{kind}-{version}",
        environment=f"{place}-singletask{task}-{version}",
        held_out=found["held_out"] is not None,
    )


def missing_message(task: SingleTask) -> str:
    """Return what is missing, where it belongs, and how to get it."""
    name = f"ogbench:{task.name}{'-val' if task.held_out else ''}"
    if task.data.rpartition("-")[0] not in PUBLISHED:
        return f"{name}: there is no file {task.path}, and OGBench published no {task.data}; {_suggestion(task.name)}"
    return (
        f"{name} is not on this machine ({task.path}); fetch it: curl --create-dirs -o {task.path} {HOST}/{task.file} "
        f"(if that server is down: {MIRROR}), or set OGBENCH_DATASET_DIR to the folder it is in"
    )


def _suggestion(name: str) -> str:
    rule = "names are ENVIRONMENT-KIND-singletask-taskN-v0, such as antmaze-large-navigate-singletask-task1-v0"
    return likely_names(name, task_names()) or rule
