"""Result files as ``test`` writes them, and which of them may stand in one cell of a table."""

import json
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edp_lightning.errors import UserError, first_line
from edp_lightning.experiments.attempts import training_seconds

SCALES = {"success_rate": ("success rate, %", 100.0), "normalized_score": ("normalised score", 1.0), "return": ("return", 1.0)}
"""Score of a result file -> its name and factor in tables, in the order in which an evaluation chooses its judge."""

RAW = SCALES["return"][0]
"""The scale that differs from task to task: never averaged over tasks."""

BEFORE_NAMES = "EntropyDiffusionPolicy"
"""The algorithm of files from before there were several."""

COMMON = {
    *("date", "dataset", "environment", "scores", "episodes", "versions", "checkpoint", "algorithm"),
    *("evaluations_in_training", "target_returns"),
}
"""What does not say how actions were chosen."""


@dataclass(frozen=True)
class Result:
    """One result file.

    Attributes:
        file: The file.
        date: When it was written.
        task: Dataset id; a mixture's parts are named too.
        algorithm: Name of the class.
        run_name: Name of the run without its seed.
        seed: Of the training.
        steps: Gradient steps of the policy.
        score: By which the task is judged.
        scale: What the score is.
        versions: Package -> version.
        protocol: What must agree for two results to be comparable, by name: all but algorithm, seed and steps.
        seconds: Time of training; None if unknown.
        curve: Gradient steps and score of the evaluations in training, ascending; empty where the file has none.
    """

    file: Path
    date: str
    task: str
    algorithm: str
    run_name: str
    seed: int
    steps: int
    score: float
    scale: str
    versions: dict[str, str]
    protocol: dict[str, str]
    seconds: float | None
    curve: tuple[tuple[int, float], ...]

    @property
    def folder(self) -> Path:
        """The run's folder."""
        return self.file.parent


@dataclass(frozen=True)
class Cell:
    """Results of one system on one task that differ by the seed only.

    Attributes:
        last: Of last checkpoints, by seed.
        best: Of the best checkpoints of the same runs, as far as they were tested.
    """

    last: tuple[Result, ...]
    best: tuple[Result, ...]


@dataclass(frozen=True)
class Grid:
    """What a report is about.

    Attributes:
        tasks: Names of the rows.
        systems: Names of the columns: algorithms, with the run's name where an algorithm has several.
        cells: (task, system) -> cell.
        left_out: Files that stand in no cell, with the reason.
    """

    tasks: tuple[str, ...]
    systems: tuple[str, ...]
    cells: dict[tuple[str, str], Cell]
    left_out: tuple[tuple[Path, str], ...]


def read_grid(folders: Sequence[str | Path]) -> Grid:
    """Return the cells of all result files below some folders.

    Raises:
        UserError: If a folder is missing, or no file is fit to be reported.
    """
    results: dict[str, list[Result]] = {"last": [], "best": []}
    left_out = []
    for folder in folders:
        if not Path(folder).is_dir():
            raise UserError(f"{folder} is no folder: give folders of runs, such as runs/")
        for name, found in results.items():
            for file in sorted(Path(folder).rglob(f"test_{name}.json")):
                try:
                    found.append(read_result(file))
                except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
                    left_out.append((file, f"cannot be read as a result file ({first_line(error)})"))
    if not results["last"]:
        raise UserError(
            f"no test_last.json below {', '.join(map(str, folders))} is fit to be reported: judge runs with "
            "edp_lightning test ... --ckpt_path last"
        )
    names = _systems(results["last"])
    groups: dict[tuple[str, str], list[Result]] = {}
    for result in results["last"]:
        groups.setdefault((result.task, names[result.algorithm, result.run_name]), []).append(result)
    best = {result.folder: result for result in results["best"]}
    cells = {}
    for key, members in groups.items():
        last, refused = _agreeing(members)
        left_out += refused
        fit, refused = _best_of(last, best)
        left_out += refused
        cells[key] = Cell(last, fit)
    named = {file for file, _ in left_out} | {result.file for cell in cells.values() for result in cell.best}
    tested = {result.folder for result in results["last"]}
    left_out += [(result.file, _why_alone(result, tested)) for result in results["best"] if result.file not in named]
    tasks, systems = ({key[i]: None for key in sorted(cells)} for i in (0, 1))
    return Grid(tuple(tasks), tuple(sorted(systems)), cells, tuple(left_out))


def read_result(file: Path) -> Result:
    """Return what a result file says.

    Raises:
        ValueError: If it is incomplete.
        KeyError: Likewise.
    """
    record: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    scores, dataset, checkpoint = record["scores"], record["dataset"], record["checkpoint"]
    name = next(name for name in SCALES if name in scores)
    scale, factor = SCALES[name]
    score = float(scores[name]) * factor
    if score != score:
        raise ValueError("its score is not a number")
    parts = "".join(f" + {part} x {share}" for part, share in (dataset.get("mixture") or {}).items())
    protocol = {
        "versions": _text(record["versions"]),
        "view": str(dataset["view"]),
        "data": _text({key: value for key, value in dataset.items() if key not in ("id", "view")}),
        "environment": _text(record["environment"]),
        "episodes": _text([episode["seed"] for episode in record["episodes"]]),
        "options": _text(_given(checkpoint.get("options"))),
        "choice of actions": _text({key: value for key, value in record.items() if key not in COMMON}),
    }
    seed = int(checkpoint["training_seed"])
    return Result(
        file=file,
        date=str(record["date"]),
        task=f"{dataset['id']}{parts}",
        algorithm=str(record.get("algorithm", BEFORE_NAMES)),
        run_name=re.sub(rf"-seed{seed}$", "", file.parent.name),
        seed=seed,
        steps=int(checkpoint["gradient_steps"]),
        score=score,
        scale=scale,
        versions={str(key): str(value) for key, value in record["versions"].items()},
        protocol=protocol,
        seconds=training_seconds(file.parent),
        curve=_curve(record.get("evaluations_in_training") or {}, factor),
    )


def _curve(evaluations: Mapping[str, Any], factor: float) -> tuple[tuple[int, float], ...]:
    steps, scores = evaluations.get("gradient_steps", []), evaluations.get("scores", [])
    return tuple((int(step), float(score) * factor) for step, score in zip(steps, scores, strict=True))


def _systems(results: Iterable[Result]) -> dict[tuple[str, str], str]:
    """Return a name for each algorithm and run name: the run's only where it is needed to tell two apart."""
    runs: dict[str, dict[str, None]] = {}
    for result in results:
        runs.setdefault(result.algorithm, {})[result.run_name] = None
    return {
        (algorithm, run_name): algorithm if len(names) == 1 or run_name == algorithm else f"{algorithm} ({run_name})"
        for algorithm, names in runs.items()
        for run_name in names
    }


def _agreeing(results: Sequence[Result]) -> tuple[tuple[Result, ...], list[tuple[Path, str]]]:
    """Return the results of one protocol and number of steps, each seed once, and the others with the reason.

    Of several protocols the one with most seeds is kept; of those with as many the one with most steps, then the newest.
    """
    groups: dict[tuple[str, int], dict[int, Result]] = {}
    for result in sorted(results, key=lambda r: r.date):
        groups.setdefault((_text(result.protocol), result.steps), {})[result.seed] = result
    kept = max(groups.values(), key=lambda group: (len(group), *_rank(group)))
    chosen = tuple(kept[seed] for seed in sorted(kept))
    refused = []
    for result in results:
        if result in chosen:
            continue
        differences = [name for name, value in result.protocol.items() if value != chosen[0].protocol[name]]
        if result.steps != chosen[0].steps:
            differences.append(f"steps ({result.steps:,} instead of {chosen[0].steps:,})")
        reason = (
            f"other {', '.join(differences)} than the rest of its cell" if differences else f"seed {result.seed} is there twice"
        )
        refused.append((result.file, reason))
    return chosen, refused


def _rank(group: Mapping[int, Result]) -> tuple[int, str]:
    return next(iter(group.values())).steps, max(result.date for result in group.values())


def _best_of(last: Sequence[Result], best: Mapping[Path, Result]) -> tuple[tuple[Result, ...], list[tuple[Path, str]]]:
    fit, refused = [], []
    for result in last:
        other = best.get(result.folder)
        if other is None:
            continue
        differences = [name for name, value in other.protocol.items() if value != result.protocol[name]]
        if differences:
            refused.append((other.file, f"other {', '.join(differences)} than test_last.json beside it"))
        else:
            fit.append(other)
    return tuple(fit), refused


def _why_alone(best: Result, tested: Collection[Path]) -> str:
    """Return why no result of the last checkpoint stands beside one of the best.

    Args:
        best: The result of the best checkpoint.
        tested: Folders of runs with a readable result of the last one.
    """
    if best.folder in tested:
        return "its run's test_last.json is left out"
    unreadable = (best.folder / "test_last.json").exists()
    return "its run's test_last.json cannot be read" if unreadable else "its run has no test_last.json"


def _given(options: Any) -> Any:
    """Return options without those that are null: what is not given was so, too, before there was such an option."""
    if not isinstance(options, Mapping):
        return options
    return {name: _given(value) for name, value in options.items() if value is not None}


def _text(value: Any) -> str:
    return json.dumps(value, sort_keys=True)
