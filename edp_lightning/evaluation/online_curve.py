"""What a run that learns online achieved, on the axis of environment steps; kept in its folder as a table."""

import csv
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from edp_lightning.data.collected import CollectedEpisode
from edp_lightning.errors import UserError

FILE = "online_curve.csv"
"""Name of the table in a run's folder."""

Point = dict[str, float]
"""One evaluation: ``env_steps`` and ``gradient_steps`` before it, its scores, and ``collected/...`` since the one before."""


def collected_since(episodes: Sequence[CollectedEpisode], time: int, now: int) -> Point:
    """Return the means over the episodes that were collected in a time.

    Args:
        episodes: All episodes.
        time: Steps that every environment had taken at its begin.
        now: And at its end.
    """
    over = [e for e in episodes if e.over and len(e) and time < e.end <= now]  # a resume may cut one before its first step
    point = {"episodes": float(len(over))}
    if over:
        point["return"] = float(np.mean([sum(e.reward) for e in over]))
        point["episode_length"] = float(np.mean([len(e) for e in over]))
    known = [e.success for e in over if e.success is not None]
    if known:
        point["success_rate"] = float(np.mean(known))
    return {f"collected/{name}": value for name, value in point.items()}


def write_points(folder: Path, points: Sequence[Mapping[str, float]]) -> None:
    """Write all points of a run; a reader sees the table before or after, nothing in between."""
    names = list(dict.fromkeys(name for point in points for name in point))
    temporary = folder / f".{FILE}.writing"
    with temporary.open("w", newline="") as file:
        table = csv.DictWriter(file, names)
        table.writeheader()
        table.writerows(points)
    os.replace(temporary, folder / FILE)


def read_points(folder: Path) -> list[Point]:
    """Return the points of a run.

    Raises:
        UserError: If there are none.
    """
    path = folder / FILE
    try:
        with path.open(newline="") as file:
            points = [{name: float(value) for name, value in row.items() if value} for row in csv.DictReader(file)]
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read ({error}): give the folder of a run with online.env_steps") from error
    if not points:
        raise UserError(f"{path} holds no evaluation yet")
    return points
