"""Frames of an episode, and plans of mazes."""

import gymnasium as gym
import numpy as np
import pytest
import torch

from edp_lightning.data.datamodule import OfflineDataModule
from edp_lightning.environments.families import ObservationView
from edp_lightning.environments.recipe import EvaluationEnvironment
from edp_lightning.environments.specs import environment_spec
from edp_lightning.errors import UserError
from edp_lightning.figures.film import draw_ways, film, trace


class Counter(gym.Env):
    """Lasts 25 steps; a frame shows how many were taken."""

    observation_space = gym.spaces.Box(-np.inf, np.inf, (1,), np.float32)
    action_space = gym.spaces.Box(-1, 1, (1,), np.float32)

    def __init__(self, broken: object = None) -> None:
        self.broken = broken

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.steps = 0
        return np.zeros(1, dtype=np.float32), {}

    def step(self, action):
        self.steps += 1
        return np.zeros(1, dtype=np.float32), 0.0, self.steps == 25, False, {}

    def render(self):
        if isinstance(self.broken, Exception):
            raise self.broken
        return self.broken or np.full((2, 2, 3), self.steps, dtype=np.uint8)


class Recipe:
    def __init__(self, **kwargs) -> None:
        self.kwargs = kwargs

    def make(self, render_mode=None):
        assert render_mode == "rgb_array"
        return Counter(**self.kwargs)


def act(observation, generators):
    return torch.zeros(len(observation), 1)


def test_frames_come_every_so_many_steps_with_first_and_last():
    assert [frame[0, 0, 0] for frame in film(Recipe(), act, every=10)] == [0, 10, 20, 25]


def test_no_opengl_and_no_pictures_are_told_apart():
    with pytest.raises(UserError, match="MUJOCO_GL=egl"):
        film(Recipe(broken=RuntimeError("no display")), act)
    with pytest.raises(UserError, match="draws no pictures"):
        film(Recipe(broken="text"), act)


def test_plan_has_the_goal_in_its_cell_and_ways_in_metres():
    maze = [[1, 1, 1, 1], [1, "r", "g", 1], [1, 1, 1, 1]]
    figure = draw_ways(maze, 4.0, [np.array([[-2.0, 0.0], [2.0, 0.0]])])
    goal, way, start = figure.axes[0].lines
    assert (goal.get_xdata()[0], goal.get_ydata()[0]) == (2.0, 0.0)
    np.testing.assert_array_equal(way.get_xydata(), [[-2, 0], [2, 0]])
    np.testing.assert_array_equal(start.get_xydata(), [[-2, 0]])
    assert figure.axes[0].images[0].get_extent() == [-8, 8, -6, 6]


def test_the_two_step_task_draws_no_pictures(toy_set):
    data = OfflineDataModule(toy_set)
    data.setup("validate")
    with pytest.raises(UserError, match="draws no pictures"):
        film(data.environment, act)


def test_ways_start_where_the_robot_starts_and_end_at_the_goal():
    """A policy that heads for the goal, three cells to the right of the start in an open corridor, and one that flees it."""
    maze = [[1] * 6, [1, "r", 0, 0, "g", 1], [1] * 6]
    environment = EvaluationEnvironment(
        environment_spec("PointMaze_UMaze-v3", {"maze_map": maze, "continuing_task": False}).to_json(),
        ObservationView("goal", ("observation", "desired_goal")),
        max_episode_steps=150,
        score_reference=None,
        success=True,
    )

    def towards(observation, generators):
        return (observation[:, 4:] - observation[:, :2]).clamp(-1, 1)

    ways = trace(environment, towards, [1, 2])
    for way in ways:
        assert way.success
        np.testing.assert_allclose(way.position[0], [-1.5, 0.0], atol=0.26)
        np.testing.assert_allclose(way.position[-1], [1.5, 0.0], atol=0.25 + 0.45)  # noise of the goal, and its radius
    assert not np.array_equal(ways[0].position[0], ways[1].position[0])
    (fled,) = trace(environment, lambda observation, generators: -towards(observation, generators), [1])
    assert not fled.success and len(fled.position) == 151
