"""What a sweep runs: tasks times algorithms times overlays times seeds, without the exclusions."""

import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edp_lightning.errors import UserError, did_you_mean
from edp_lightning.experiments.options import Options, read_yaml, stated
from edp_lightning.runs.run_folder import NAMED_CHECKPOINTS, run_folder

KEYS = {"output", "steps", "seeds", "tasks", "algorithms", "overlays", "options", "exclude", "judge"}
TASK_KEYS = {"options", "family", "seeds"}
EXCLUSION_KEYS = ("task", "algorithm", "overlay", "seed")

PLAIN = ""
"""Name of the overlay of a sweep that names none."""


@dataclass(frozen=True)
class Trial:
    """One run: an algorithm on a task with a seed.

    Attributes:
        task: Name in the sweep file.
        algorithm: Name in the sweep file.
        overlay: Name in the sweep file; empty where there are none.
        seed: Of the training.
        steps: Gradient steps.
        arguments: Words after ``fit`` or ``test`` on the command line.
        options: The part of them that comes from the sweep file.
        folder: The run's folder.
        judge: Checkpoints that are tested, ``last`` or ``best``.
    """

    task: str
    algorithm: str
    overlay: str
    seed: int
    steps: int
    arguments: tuple[str, ...]
    options: tuple[str, ...]
    folder: Path
    judge: tuple[str, ...]

    @property
    def name(self) -> str:
        """Words that say which one it is."""
        return " ".join(filter(None, (self.task, self.algorithm, self.overlay, f"seed {self.seed}")))

    def fit(self) -> list[str]:
        """Return the command line that trains it, from wherever it is."""
        return ["fit", *self.arguments, "--ckpt_path=last"]

    def test(self, checkpoint: str) -> list[str]:
        """Return the command line that judges it."""
        return ["test", *self.arguments, f"--ckpt_path={checkpoint}"]


@dataclass(frozen=True)
class Plan:
    """The trials of a sweep file, in their order: the first seed of everything comes first.

    Attributes:
        name: The file's name without ending.
        output: Folder of all runs.
        trials: The trials.
    """

    name: str
    output: Path
    trials: tuple[Trial, ...]

    @property
    def digest(self) -> str:
        """A few characters that are others when a number means another trial."""
        return hashlib.sha256("\n".join(trial.name for trial in self.trials).encode()).hexdigest()[:12]


def read_plan(path: str | Path) -> Plan:
    """Return the plan of a sweep file.

    Raises:
        UserError: If the file cannot be read, holds unknown keys or values, or names files that do not exist.
    """
    file = Path(path)
    content = read_yaml(file)
    _check_keys(content, KEYS, f"{file}")
    for key in ("steps", "tasks", "algorithms"):
        if content.get(key) is None:
            raise UserError(f"{file}: {key} is missing")
    output = Path(str(content.get("output") or f"runs/{file.stem}"))
    steps = _positive(content["steps"], f"{file}: steps")
    seeds = _seeds(content.get("seeds", [0]), f"{file}: seeds")
    judge = content.get("judge", ["last"])
    if not isinstance(judge, list) or not judge or set(judge) - set(NAMED_CHECKPOINTS):
        raise UserError(f"{file}: judge is a list of {' and '.join(NAMED_CHECKPOINTS)}; got {judge!r}")
    tasks = {name: _task(value, seeds, f"{file}: task {name}") for name, value in _mapping(content["tasks"], file, "tasks")}
    algorithms = {
        name: _options(value, f"{file}: {name}") for name, value in _mapping(content["algorithms"], file, "algorithms")
    }
    overlays: dict[str, list[str]] = {PLAIN: []}
    if content.get("overlays") is not None:
        overlays = {name: _options(value, f"{file}: {name}") for name, value in _mapping(content["overlays"], file, "overlays")}
    common = _options(content.get("options"), f"{file}: options")

    trials = []
    for seed in sorted({seed for task in tasks.values() for seed in task.seeds}, key=_order_of_seeds(tasks.values())):
        for task_name, task in tasks.items():
            for algorithm, words in algorithms.items() if seed in task.seeds else ():
                for overlay, more in overlays.items():
                    own = [_filled(word, task_name, task.family, file) for word in (*task.options, *words, *more, *common)]
                    run_name = f"{algorithm}-{overlay}" if overlay else algorithm
                    trials.append(_trial((task_name, algorithm, overlay, seed), own, run_name, steps, output, tuple(judge)))
    kept = _without(trials, content.get("exclude") or [], (tasks, algorithms, overlays), file)
    _refuse_shared_folders(kept, file)
    return Plan(file.stem, output, tuple(kept))


@dataclass(frozen=True)
class _Task:
    options: list[str]
    family: str | None
    seeds: list[int]


def _task(value: Any, seeds: list[int], where: str) -> _Task:
    if not isinstance(value, dict):
        return _Task(_options(value, where), None, seeds)
    _check_keys(value, TASK_KEYS, where)
    own = _seeds(value["seeds"], f"{where}: seeds") if "seeds" in value else seeds
    family = value.get("family")
    return _Task(_options(value.get("options"), where), None if family is None else str(family), own)


def _trial(
    who: tuple[str, str, str, int], options: Sequence[str], run_name: str, steps: int, output: Path, judge: tuple[str, ...]
) -> Trial:
    task, algorithm, overlay, seed = who
    words = Options(options).words()
    dataset = stated(words, "data.dataset")
    if not isinstance(dataset, str):
        raise UserError(f"task {task}: its options name no data.dataset")
    if "${" in dataset:
        raise UserError(f"task {task}: data.dataset {dataset!r} must be written out: the runs' folders are named after it")
    folder = run_folder(str(output), dataset, run_name, seed)
    own = (f"--output={output}", f"--run_name={run_name}", f"--seed_everything={seed}", f"--trainer.max_steps={steps}")
    return Trial(task, algorithm, overlay, seed, steps, (*words, *own), tuple(words), folder, judge)


def _without(trials: list[Trial], exclusions: Any, names: tuple[Mapping[str, Any], ...], file: Path) -> list[Trial]:
    if not isinstance(exclusions, list):
        raise UserError(f"{file}: exclude is a list of mappings with {', '.join(EXCLUSION_KEYS)}")
    kept = trials
    for exclusion in exclusions:
        where = f"{file}: exclude {exclusion}"
        if not isinstance(exclusion, dict) or not exclusion:
            raise UserError(f"{where}: an exclusion is a mapping with some of {', '.join(EXCLUSION_KEYS)}")
        _check_keys(exclusion, set(EXCLUSION_KEYS), where)
        wanted = {key: value if isinstance(value, list) else [value] for key, value in exclusion.items()}
        for key, known in zip(EXCLUSION_KEYS, names, strict=False):
            for name in wanted.get(key, []):
                if name not in known:
                    raise UserError(f"{where}: there is no {key} {name}{did_you_mean(str(name), known)}")
        if not any(_matches(trial, wanted) for trial in trials):
            raise UserError(f"{where}: no trial is like that; leave it out")
        kept = [trial for trial in kept if not _matches(trial, wanted)]
    if not kept:
        raise UserError(f"{file}: nothing is left to run")
    return kept


def _matches(trial: Trial, wanted: Mapping[str, list[Any]]) -> bool:
    return all(getattr(trial, key) in values for key, values in wanted.items())


def _refuse_shared_folders(trials: Sequence[Trial], file: Path) -> None:
    owners: dict[Path, Trial] = {}
    for trial in trials:
        other = owners.setdefault(trial.folder, trial)
        if other is not trial:
            raise UserError(
                f"{file}: {other.name} and {trial.name} would share the folder {trial.folder}: two tasks of one dataset need "
                "two sweep files, or overlays"
            )


def _filled(word: str, task: str, family: str | None, file: Path) -> str:
    if "{family}" in word and family is None:
        raise UserError(f"{file}: {word} needs the family of task {task}: write it as a mapping with options and family")
    return word.replace("{family}", family or "").replace("{task}", task)


def _order_of_seeds(tasks: Any) -> Any:
    order: list[int] = []
    for task in tasks:
        order += [seed for seed in task.seeds if seed not in order]
    return order.index


def _mapping(value: Any, file: Path, key: str) -> Iterator[tuple[str, Any]]:
    if not isinstance(value, dict) or not value:
        raise UserError(f"{file}: {key} maps names to lists of configs and options; got {value!r}")
    for name, content in value.items():
        if not re.fullmatch(r"[\w.-]+", str(name)):
            raise UserError(f"{file}: {key}: {name!r} becomes part of a folder's name: use letters, digits, dots and dashes")
        yield str(name), content


def _options(value: Any, where: str) -> list[str]:
    value = [] if value is None else value
    if not isinstance(value, list) or not all(isinstance(word, str) for word in value):
        raise UserError(f"{where}: give a list of config files and of options written as --NAME=VALUE; got {value!r}")
    return value


def _seeds(value: Any, where: str) -> list[int]:
    whole = isinstance(value, list) and all(isinstance(seed, int) and not isinstance(seed, bool) for seed in value)
    if not whole or not value or min(value) < 0 or len(set(value)) < len(value):
        raise UserError(f"{where} is a list of different whole numbers from 0 on; got {value!r}")
    return list(value)


def _positive(value: Any, where: str) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise UserError(f"{where} is a whole number from 1 on; got {value!r}")
    return value


def _check_keys(content: Mapping[str, Any], known: set[str], where: str) -> None:
    for key in content:
        if key not in known:
            raise UserError(f"{where}: unknown key {key}{did_you_mean(str(key), known)} (keys: {', '.join(sorted(known))})")
