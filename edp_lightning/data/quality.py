"""How good the data are: falls, success, where they have been, actions at their bounds, scores. Pure functions of episodes."""

from collections.abc import Sequence

import numpy as np
from gymnasium.envs.registration import EnvSpec
from numpy.typing import NDArray

from edp_lightning.data.transitions import Episode
from edp_lightning.environments.families import GOAL_RADIUS, Family, ObservationView, pays_by_distance
from edp_lightning.environments.mazes import WALL

Facts = list[tuple[str, str]]


def quality_facts(
    episodes: Sequence[Episode],
    family: Family,
    view: ObservationView,
    spec: EnvSpec | None,
    low: NDArray[np.float32],
    high: NDArray[np.float32],
) -> Facts:
    """Return what is known about the quality of a dataset, as pairs of a name and its value.

    Args:
        episodes: Episodes as stored, through the view.
        family: What their environment's kind says about falls, goals and scores.
        view: The view.
        spec: Environment they were collected in.
        low: Lower bounds of the actions, (action_dim,).
        high: Upper bounds of the actions, (action_dim,).
    """
    facts: Facts = []
    torso = family.torso_columns(view)
    if torso is not None:
        facts += _time_on_the_back(episodes, torso)
    if family.termination_is_fall:
        steps, falls = sum(map(len, episodes)), sum(bool(e.terminated.any()) for e in episodes)
        facts.append(("falls", f"{falls} of {len(episodes)} episodes, {1000 * falls / steps:.2f} per 1000 steps"))
    if family.success:
        # where a step pays -1 until the task is solved, only its end tells; where it pays by distance, how much it pays
        least = np.exp(-GOAL_RADIUS) if pays_by_distance(spec) else 0.0
        solved = [bool(((e.reward > least) | e.terminated).any()) for e in episodes]
        facts.append(("success", f"{np.mean(solved):.1%} of episodes reach the goal that was in force"))
    if family.cell_size and spec is not None and "maze_map" in spec.kwargs:
        facts += _coverage(episodes, spec.kwargs["maze_map"], family.cell_size)
    if family.reference is not None and not family.success:
        returns = np.array([float(e.reward.sum(dtype=np.float64)) for e in episodes])
        score = 100 * (returns - family.reference.minimum) / (family.reference.maximum - family.reference.minimum)
        facts.append(("normalised score of an episode", f"{score.min():.1f} to {score.max():.1f}, mean {score.mean():.1f}"))
    actions = np.concatenate([e.action for e in episodes])
    at_bound = (np.abs(2 * (actions - low) / (high - low) - 1) > 0.999).mean(axis=0)
    each = ", ".join(f"{share:.0%}" for share in at_bound)
    facts.append(("action components at a bound", f"{at_bound.mean():.1%} ({each})"))
    return facts


def _time_on_the_back(episodes: Sequence[Episode], torso: slice) -> Facts:
    upright = fallen = falls = touched = 0
    for episode in episodes:
        _, x, y, _ = episode.observation[:, torso].T
        down = x * x + y * y > 0.5  # the rotated z axis points down
        falls += int((down[1:] & ~down[:-1]).sum())
        fallen += int(down[:-1].sum())
        upright += int((~down[:-1]).sum())
        touched += bool(down.any())
    rate = 1000 * falls / max(upright, 1)
    return [
        ("falls", f"{falls} in {touched} of {len(episodes)} episodes, {rate:.3f} per 1000 upright steps"),
        ("time spent fallen", f"{fallen / (fallen + upright):.2%} of steps"),
    ]


def cell_counts(positions: NDArray[np.float32], maze_map: Sequence[Sequence[object]], size: float) -> NDArray[np.int64]:
    """Return how many positions (N, 2) lie in each cell, shape of the map; the maze's centre is the origin, y points up."""
    rows, columns = len(maze_map), len(maze_map[0])
    column = np.floor(positions[:, 0] / size + columns / 2).astype(int).clip(0, columns - 1)
    row = np.floor(rows / 2 - positions[:, 1] / size).astype(int).clip(0, rows - 1)
    counts = np.zeros((rows, columns), dtype=np.int64)
    np.add.at(counts, (row, column), 1)
    return counts


def _coverage(episodes: Sequence[Episode], maze_map: Sequence[Sequence[object]], size: float) -> Facts:
    positions = [e.position for e in episodes if e.position is not None]
    if not positions:
        return []
    share = cell_counts(np.concatenate(positions), maze_map, size) / sum(map(len, positions))
    free = np.array([[cell != WALL for cell in row] for row in maze_map])
    visited = int((share[free] > 0).sum())
    grid = "\n".join(
        " ".join(f"{100 * share[i, j]:4.1f}" if cell else "  ##" for j, cell in enumerate(row)) for i, row in enumerate(free)
    )
    text = f"{visited} of {int(free.sum())} cells, {share[free].min():.1%} to {share[free].max():.1%} of steps each; percent:"
    return [("coverage", f"{text}\n{grid}")]
