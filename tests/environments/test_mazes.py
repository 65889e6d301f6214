import itertools

import numpy as np
import pytest
from gymnasium_robotics.envs.maze.maps import LARGE_MAZE, MEDIUM_MAZE, U_MAZE
from gymnasium_robotics.envs.maze.maze_v4 import Maze

from edp_lightning.environments.mazes import Navigator, distances


@pytest.mark.parametrize("maze_map", [U_MAZE, MEDIUM_MAZE, LARGE_MAZE], ids=["umaze", "medium", "large"])
def test_distances_equal_floyd_warshall(maze_map):
    cells = [(i, j) for i, row in enumerate(maze_map) for j, cell in enumerate(row) if cell != 1]
    index = {cell: k for k, cell in enumerate(cells)}
    shortest = np.full((len(cells), len(cells)), np.inf)
    for (a, i), (b, j) in itertools.product(index.items(), repeat=2):
        if abs(a[0] - b[0]) + abs(a[1] - b[1]) <= 1:
            shortest[i, j] = float(a != b)
    for k in range(len(cells)):
        shortest = np.minimum(shortest, shortest[:, k : k + 1] + shortest[k : k + 1])
    for goal in cells:
        found = distances(maze_map, goal)
        assert {c: shortest[index[c], index[goal]] for c in cells} == found


def test_navigator_leads_to_the_goal_and_the_way_gets_shorter():
    navigator = Navigator(Maze(U_MAZE, 4.0, 0.5))
    position, goal = np.array([-4.0, -4.0]), np.array([-4.3, 4.2])
    left = navigator.way_left(position, goal)
    assert left == pytest.approx(24 + np.hypot(0.3, 0.2))
    for _ in range(60):
        waypoint = navigator.waypoint(position, goal)
        position = position + 0.5 * (waypoint - position) / max(np.linalg.norm(waypoint - position), 0.5)
        assert navigator.way_left(position, goal) <= left + 1e-9
        left = navigator.way_left(position, goal)
    assert left < 0.1
