"""Shortest ways through grid mazes, as way-points for controllers that only know how to go straight."""

from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

Cell = tuple[int, int]
Point = NDArray[np.float64]
WALL = 1


def remove_model_file(env: gym.Env[Any, Any]) -> None:
    """Delete the file from which a maze of gymnasium-robotics built its model; it leaves it in the temporary folder.

    Args:
        env: Any environment; nothing happens to others.
    """
    path = getattr(env.unwrapped, "tmp_xml_file_path", None)
    if path is not None:
        Path(path).unlink(missing_ok=True)


def distances(maze_map: Sequence[Sequence[Any]], goal: Cell) -> dict[Cell, int]:
    """Return the number of cells between every reachable cell and ``goal``, breadth-first."""
    found = {goal: 0}
    queue = deque([goal])
    while queue:
        row, column = queue.popleft()
        for cell in ((row + 1, column), (row - 1, column), (row, column + 1), (row, column - 1)):
            inside = 0 <= cell[0] < len(maze_map) and 0 <= cell[1] < len(maze_map[0])
            if inside and maze_map[cell[0]][cell[1]] != WALL and cell not in found:
                found[cell] = found[(row, column)] + 1
                queue.append(cell)
    return found


class Navigator:
    """Way-points towards goals in a gymnasium-robotics maze.

    Args:
        maze: The environment's ``Maze`` object, which maps cells to world coordinates.
    """

    def __init__(self, maze: Any) -> None:
        self._maze = maze
        self._map = maze.maze_map
        rows, columns = len(self._map), len(self._map[0])
        cells = [(i, j) for i in range(rows) for j in range(columns) if self._map[i][j] != WALL]
        self._centres = {cell: np.asarray(maze.cell_rowcol_to_xy(np.array(cell)), dtype=np.float64) for cell in cells}
        self._remaining = {goal: distances(self._map, goal) for goal in cells}
        self._next = {goal: self._steps_towards(goal) for goal in cells}

    def _steps_towards(self, goal: Cell) -> dict[Cell, Cell]:
        """Return the neighbour to go to from each cell; ties are broken by the order of cells, so routes are reproducible."""
        remaining = self._remaining[goal]
        steps = {}
        for (row, column), distance in remaining.items():
            neighbours = ((row + 1, column), (row - 1, column), (row, column + 1), (row, column - 1))
            steps[(row, column)] = min((c for c in neighbours if remaining.get(c) == distance - 1), default=goal)
        return steps

    def cell(self, position: Point) -> Cell:
        """Return the free cell that holds ``position`` (2,); the nearest one if the position is on a wall's edge."""
        row, column = (int(v) for v in self._maze.cell_xy_to_rowcol(position))
        if (row, column) in self._centres:
            return row, column
        return min(self._centres, key=lambda cell: float(np.sum((self._centres[cell] - position) ** 2)))

    def waypoint(self, position: Point, goal: Point) -> Point:
        """Return where to head from ``position`` to reach ``goal``: the next cell's centre, or the goal in its own cell."""
        here, there = self.cell(position), self.cell(goal)
        return goal if here == there else self._centres[self._next[there][here]]

    def way_left(self, position: Point, goal: Point) -> float:
        """Return the length of the way from ``position`` to ``goal`` through cell centres, in world units."""
        here, there = self.cell(position), self.cell(goal)
        if here == there:
            return float(np.linalg.norm(goal - position))
        following = self._next[there][here]
        size = float(self._maze.maze_size_scaling)
        rest = size * self._remaining[there][following] + float(np.linalg.norm(goal - self._centres[there]))
        return float(np.linalg.norm(self._centres[following] - position)) + rest
