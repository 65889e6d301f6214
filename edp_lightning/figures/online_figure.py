"""The figure of online training: scores over environment steps, from the offline policy's on."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from edp_lightning.evaluation.online_curve import Point, read_points
from edp_lightning.figures.drawing import check_output, new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SCORES = {
    "success_rate": "success rate",
    "normalized_score": "normalised score",
    "return": "return",
}
"""Score -> label; the first one that all runs have is drawn."""


def draw_online(runs: Mapping[str, Sequence[Point]]) -> "Figure":
    """Return a figure with the score at every evaluation, and a dashed line at the offline policy's.

    Args:
        runs: Points of each run by its name, at least one.
    """
    score = next(name for name in SCORES if all(name in points[0] for points in runs.values()))
    figure, (ax,) = new_figure(1)
    for number, (name, points) in enumerate(runs.items()):
        ax.plot([p["env_steps"] for p in points], [p[score] for p in points], ".-", color=f"C{number}", label=name)
        ax.axhline(points[0][score], color=f"C{number}", linestyle="--", linewidth=1, alpha=0.6)
    ax.set(xlabel="environment steps (dashed: the offline policy)", ylabel=SCORES[score], title="Score while learning online")
    if score == "success_rate":
        ax.set_ylim(0, 1.05)
    ax.grid(alpha=0.3)
    ax.legend()
    return figure


def shortest_names(folders: Sequence[str]) -> list[str]:
    """Return as many of the last parts of each path as tell the folders apart in a legend, of all the same number."""
    parts = [Path(folder).absolute().parts for folder in folders]
    for count in range(1, max(map(len, parts)) + 1):
        names = ["/".join(path[-count:]) for path in parts]
        if len(set(names)) == len(set(parts)):
            break
    return names


def draw_online_folders(folders: Sequence[str], output: str) -> Path:
    """Draw runs with ``online.env_steps`` into a picture.

    Args:
        folders: Folders of the runs, ``OUTPUT/DATASET/RUN_NAME-seedSEED``.
        output: Picture to write.

    Returns:
        The picture's path.

    Raises:
        UserError: If a run has no evaluation, or the output or the extra ``plot`` is not to be had.
    """
    path = check_output(output)
    names = shortest_names(folders)
    draw_online({name: read_points(Path(folder)) for name, folder in zip(names, folders, strict=True)}).savefig(path, dpi=100)
    print(f"{', '.join(folders)}: {path}")
    return path
