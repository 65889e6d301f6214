"""The numbers of a report, computed from its grid."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from edp_lightning.experiments.published import Published
from edp_lightning.experiments.results import RAW, Cell, Grid
from edp_lightning.experiments.statistics import (
    Estimate,
    Scores,
    interquartile_mean,
    mean,
    probability_of_improvement,
)

OF_A_SYSTEM = ("options", "choice of actions")
"""What may differ from one system to another: it is what they are."""


@dataclass(frozen=True)
class Row:
    """One system on one task.

    Attributes:
        task: Dataset id.
        system: Name of the system.
        scale: What the score is.
        last: Of last checkpoints.
        best: Of best checkpoints; None where none was tested.
        seeds: Seeds of training.
        best_seeds: How many of them have a tested best checkpoint.
        steps: Gradient steps.
        hours: Mean time of training; None if unknown.
        published: Score that others published; None if there is none.
    """

    task: str
    system: str
    scale: str
    last: Estimate
    best: Estimate | None
    seeds: tuple[int, ...]
    best_seeds: int
    steps: int
    hours: float | None
    published: float | None


@dataclass(frozen=True)
class Summary:
    """What a report says.

    Attributes:
        rows: One per cell of the grid.
        over_tasks: Tasks on which every system has enough seeds to be compared; the others count in no number over tasks.
        interquartile: System -> interquartile mean over these tasks, best first.
        improvement: (system, other system) -> probability that a run of the first scores higher; empty with one seed each.
        notes: What must be known to read the numbers.
    """

    rows: tuple[Row, ...]
    over_tasks: tuple[str, ...]
    interquartile: dict[str, Estimate]
    improvement: dict[tuple[str, str], Estimate]
    notes: tuple[str, ...]


def summarize(grid: Grid, against: Published | None = None) -> Summary:
    """Return the numbers of a report.

    Args:
        grid: The results.
        against: Published scores to be set beside them.
    """
    rows = tuple(_row(key, grid.cells[key], against) for key in sorted(grid.cells))
    tasks = _common_tasks(grid)
    scores = scores_by_system(grid, tasks)
    interquartile: dict[str, Estimate] = {}
    improvement: dict[tuple[str, str], Estimate] = {}
    if tasks:
        found = {system: interquartile_mean(arrays) for system, arrays in scores.items()}
        interquartile = dict(sorted(found.items(), key=lambda item: -item[1].value))
        for ours in interquartile:
            for theirs in interquartile:
                if ours != theirs and len(scores[ours][0]) > 1:  # one seed against another says nothing about the next
                    improvement[ours, theirs] = probability_of_improvement(scores[ours], scores[theirs])
    return Summary(rows, tasks, interquartile, improvement, _notes(grid, rows, tasks))


def scores_by_system(grid: Grid, tasks: Sequence[str]) -> dict[str, list[Scores]]:
    """Return one array per task for each system, each of as many seeds as the task with the fewest has; the first seeds count.

    Args:
        grid: The results.
        tasks: Tasks that every system has.
    """
    found = {}
    for system in grid.systems if tasks else ():
        cells = [grid.cells[task, system].last for task in tasks]
        seeds = min(map(len, cells))
        found[system] = [np.array([result.score for result in cell[:seeds]]) for cell in cells]
    return found


def _row(key: tuple[str, str], cell: Cell, against: Published | None) -> Row:
    task, system = key
    first = cell.last[0]
    seconds = [result.seconds for result in cell.last if result.seconds is not None]
    return Row(
        task=task,
        system=system,
        scale=first.scale,
        last=mean(np.array([result.score for result in cell.last])),
        best=mean(np.array([result.score for result in cell.best])) if cell.best else None,
        seeds=tuple(result.seed for result in cell.last),
        best_seeds=len(cell.best),
        steps=first.steps,
        hours=float(np.mean(seconds)) / 3600 if seconds else None,
        published=None if against is None else against.score(task, first.algorithm),
    )


def _common_tasks(grid: Grid) -> tuple[str, ...]:
    """Return the tasks that every system has, judged on a common scale; those with several seeds if there are any."""
    shared = {}
    for task in grid.tasks:
        cells = [grid.cells.get((task, system)) for system in grid.systems]
        if all(cell is not None and cell.last[0].scale != RAW for cell in cells):
            shared[task] = min(len(cell.last) for cell in cells if cell is not None)
    several = [task for task, seeds in shared.items() if seeds > 1]
    return tuple(several or shared)


def _notes(grid: Grid, rows: Sequence[Row], tasks: Sequence[str]) -> tuple[str, ...]:
    notes = []
    outside = [task for task in grid.tasks if task not in tasks]
    if outside:
        notes.append(
            f"Not in the numbers over tasks, because a system lacks them or has fewer seeds there, or because they are "
            f"judged by a raw return: {', '.join(outside)}."
        )
    for system in grid.systems:
        seeds = [len(grid.cells[task, system].last) for task in tasks]
        if len({*seeds}) > 1:
            notes.append(f"{system}: its first {min(seeds)} seeds of every task count in the numbers over tasks.")
    for task in grid.tasks:
        steps = sorted({row.steps for row in rows if row.task == task})
        if len(steps) > 1:
            notes.append(f"{task}: systems were trained for different numbers of steps ({', '.join(f'{n:,}' for n in steps)}).")
        protocols = [cell.last[0].protocol for (name, _), cell in grid.cells.items() if name == task]
        differing = [
            key for key in protocols[0] if key not in OF_A_SYSTEM and len({protocol[key] for protocol in protocols}) > 1
        ]
        if differing:
            notes.append(f"{task}: systems differ in {', '.join(differing)}; compare with care.")
    if any(len(row.seeds) == 1 for row in rows):
        notes.append("A number without an interval is of one seed.")
    for row in rows:
        if row.best is not None and row.best_seeds < len(row.seeds):
            notes.append(f"{row.task} {row.system}: best checkpoints of {row.best_seeds} of {len(row.seeds)} seeds.")
    if any(row.best is not None for row in rows):
        notes.append(
            "The best checkpoint is chosen by the kind of score it is then reported with, so that its number is too high; the "
            "last one is the result."
        )
    return tuple(notes)
