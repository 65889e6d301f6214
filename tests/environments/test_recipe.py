import copy
import dataclasses
import pickle
import tempfile
from importlib.util import find_spec

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.envs.registration import EnvSpec

from edp_lightning.collect import collect
from edp_lightning.collect.tasks import TASKS
from edp_lightning.data.datamodule import OfflineDataModule
from edp_lightning.data.opened import decide
from edp_lightning.data.quality import quality_facts
from edp_lightning.data.sources.minari import open_set
from edp_lightning.data.transitions import Episode
from edp_lightning.environments.answers import PROGRESS
from edp_lightning.environments.families import FAMILIES, POINTMAZE, choose_view, family_of
from edp_lightning.environments.recipe import evaluation_environment
from edp_lightning.environments.scores import from_metadata
from edp_lightning.environments.specs import read_spec, register_robotics
from edp_lightning.environments.trial import declared_observation_space
from edp_lightning.errors import UserError


def recipe(name, view=None):
    task = TASKS[name]
    family = family_of(task.collection_spec())
    return evaluation_environment(
        task.dataset_id, task.collection_spec(), task.evaluation_spec(), choose_view(family.views, view, task.dataset_id)
    )


@pytest.mark.parametrize(
    ("name", "view", "width"),
    [("antmaze-umaze-diverse", "d4rl", 29), ("antmaze-umaze-diverse", "goal", 31), ("pointmaze-umaze", None, 6)],
)
def test_environments_have_the_view_of_their_data(name, view, width):
    env = pickle.loads(pickle.dumps(recipe(name, view))).make()
    observation, _ = env.reset(seed=0)
    assert observation.shape == env.observation_space.shape == (width,)
    assert observation.dtype == np.float32
    _, _, _, _, info = env.step(env.action_space.sample())
    assert info["success"] is False
    assert info[PROGRESS]["distance_left"] > 0
    env.close()


def test_an_ant_on_its_back_is_reported_as_fallen():
    env = recipe("antmaze-umaze-diverse", "d4rl").make()
    env.reset(seed=0)
    assert env.step(np.zeros(8, np.float32))[-1][PROGRESS]["fallen"] == 0
    ant = env.unwrapped.ant_env
    ant.data.qpos[3:7] = [0.0, 1.0, 0.0, 0.0]
    assert env.step(np.zeros(8, np.float32))[-1][PROGRESS]["fallen"] == 1
    env.close()


def test_view_without_goal_has_the_goal_the_rewards_are_relabelled_to():
    task = recipe("antmaze-umaze-diverse", "d4rl")
    assert task.fixed_goal == (-4.0, 4.0)
    env = task.make()
    starts = []
    for seed in range(3):
        observation, _ = env.reset(seed=seed)
        starts.append(observation[:2])
        np.testing.assert_array_equal(env.unwrapped.goal, task.fixed_goal)
    assert np.ptp(starts, axis=0).min() > 0  # the start keeps its noise
    np.testing.assert_allclose(np.mean(starts, axis=0), [-4, -4], atol=1.2)
    env.close()


@pytest.mark.parametrize(("name", "goal"), [("antmaze-medium-diverse", (6, 6)), ("antmaze-large-diverse", (7, 9))])
def test_fixed_goal_is_the_centre_of_the_goal_cell(name, goal):
    task = recipe(name, "d4rl")
    env = task.make()
    np.testing.assert_allclose(env.unwrapped.maze.cell_rowcol_to_xy(np.array(goal)), task.fixed_goal)
    env.close()


def test_episode_ends_at_the_goal_with_reward_one():
    env = recipe("pointmaze-umaze").make()
    env.reset(seed=0)
    env.unwrapped.goal = env.unwrapped.point_env.data.qpos[:2].copy()
    _, reward, terminated, _, info = env.step(np.zeros(2, dtype=np.float32))
    assert reward == 1
    assert terminated
    assert info["success"]
    env.close()


def test_evaluation_maze_turned_against_the_data_is_turned_back():
    collected, turned = TASKS["antmaze-umaze"].collection_spec(), TASKS["antmaze-umaze"].evaluation_spec()
    turned.kwargs["maze_map"] = [[1] * 5, [1, 0, 0, "r", 1], [1, 0, 1, 1, 1], [1, 0, 0, "g", 1], [1] * 5]
    view = choose_view(family_of(turned).views, None, "x")
    fixed = EnvSpec.from_json(evaluation_environment("x", collected, turned, view).spec_json)
    assert fixed.kwargs["maze_map"] == [[1] * 5, [1, "g", 0, 0, 1], [1, 1, 1, 0, 1], [1, "r", 0, 0, 1], [1] * 5]
    right = evaluation_environment("x", collected, TASKS["antmaze-umaze"].evaluation_spec(), view)
    assert EnvSpec.from_json(right.spec_json).kwargs["maze_map"] == fixed.kwargs["maze_map"]


def test_a_map_of_ones_own_is_taken_as_it_is():
    spec = TASKS["antmaze-umaze"].evaluation_spec()
    mirrored = [[1] * 5, [1, 0, 0, "r", 1], [1, 0, 1, 1, 1], [1, 0, 0, "g", 1], [1] * 5]
    view = choose_view(family_of(spec).views, None, "x")
    recipe = evaluation_environment("x", spec, spec, view, arguments={"maze_map": mirrored})
    assert EnvSpec.from_json(recipe.spec_json).kwargs["maze_map"] == mirrored


@pytest.mark.parametrize(
    ("arguments", "scored"), [({}, True), ({"reward_type": "dense"}, False), ({"continuing_task": True}, False)]
)
def test_only_a_maze_that_pays_once_has_normalised_scores(arguments, scored):
    """A return beyond 1 is no share of episodes that reach the goal."""
    spec = TASKS["pointmaze-umaze"].evaluation_spec()
    view = choose_view(family_of(spec).views, None, "x")
    assert (evaluation_environment("x", spec, spec, view, arguments=arguments).score_reference is not None) == scored


def test_closed_mazes_leave_no_files(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    env = recipe("pointmaze-umaze").make()
    assert list(tmp_path.glob("**/*.xml"))
    env.close()
    spec = TASKS["pointmaze-umaze"].evaluation_spec()
    declared_observation_space(spec)
    assert not list(tmp_path.glob("**/*.xml"))


def test_pen_is_scored_over_the_hundred_steps_its_reference_was_made_with():
    spec = EnvSpec(
        "AdroitHandPen-v1", entry_point="gymnasium_robotics.envs.adroit_hand.adroit_pen:AdroitHandPenEnv", max_episode_steps=200
    )
    environment = evaluation_environment("D4RL/pen/human-v2", spec, None, choose_view(family_of(spec).views, None, "x"))
    assert environment.max_episode_steps == 100
    assert environment.score_reference.maximum == pytest.approx(3076.8331)


def test_reference_scores_fall_back_to_the_metadata_and_name_their_origin():
    spec = EnvSpec("Own-v0", entry_point="tests.own:OwnEnv", max_episode_steps=9)
    view = choose_view(family_of(spec).views, None, "x")
    stored = from_metadata({"ref_min_score": 1.0, "ref_max_score": 5.0})
    summary = evaluation_environment("x", spec, None, view, stored).summary()
    assert summary == "Own-v0, 9 steps, score 0 = return 1, 100 = return 5 (metadata of the Minari set)"
    assert "plain returns" in evaluation_environment("x", spec, None, view, from_metadata({"ref_min_score": 1.0})).summary()
    hopper = EnvSpec("Hopper-v5", entry_point="gymnasium.envs.mujoco.hopper_v5:HopperEnv")
    judged = evaluation_environment("x", hopper, None, view, stored)
    assert (judged.score_reference.minimum, judged.score_reference.maximum) == (-20.272305, 3234.3)
    assert "d4rl/infos.py" in judged.summary()


def test_kitchen_counts_each_task_once():
    spec = EnvSpec("FrankaKitchen-v1", entry_point="gymnasium_robotics.envs.franka_kitchen:KitchenEnv", max_episode_steps=450)
    environment = evaluation_environment("D4RL/kitchen/mixed-v2", spec, None, choose_view(family_of(spec).views, None, "x"))
    kwargs = EnvSpec.from_json(environment.spec_json).kwargs
    assert kwargs["remove_task_when_completed"] is kwargs["terminate_on_tasks_completed"] is True
    assert environment.max_episode_steps == 280


def test_every_family_is_of_an_existing_environment():
    for entry_point in FAMILIES:
        module, _, name = entry_point.partition(":")
        if module.startswith("ogbench.") and find_spec("ogbench") is None:  # an extra
            continue
        assert hasattr(__import__(module, fromlist=[name]), name)


def test_unknown_view_lists_the_choices():
    with pytest.raises(UserError, match="goal, d4rl"):
        recipe("antmaze-umaze-diverse", "d5rl")


def test_a_maze_that_pays_by_distance_ends_nowhere_unless_its_rewards_are_relabelled(minari_root):
    """Minari's dense sets share an entry point with the sparse ones; exp(-distance) is positive at every step."""
    source = open_set(collect("pointmaze-umaze", steps=400))
    specs = {name: copy.deepcopy(getattr(source, name)) for name in ("spec", "evaluation_spec")}
    for spec in specs.values():
        spec.kwargs["reward_type"] = "dense"
    dense = dataclasses.replace(source, **specs)
    options = dict(OfflineDataModule("x").hparams)
    seen = decide("x", dense, options)
    assert seen.recipe.terminals == "env"
    assert read_spec(seen.environment.spec_json).kwargs["reward_type"] == "dense"
    with pytest.raises(UserError, match=r"data\.terminals reward would end the task at each: set data\.terminals to env"):
        decide("x", dense, options | {"terminals": "reward"})
    hidden = decide("x", dense, options | {"view": "d4rl"})
    assert hidden.recipe.terminals == "reward"
    assert read_spec(hidden.environment.spec_json).kwargs["reward_type"] == "sparse"
    assert hidden.reward_mismatch == ""
    assert decide("x", source, options).recipe.terminals == "reward"


def test_what_a_maze_paid_by_distance_says_of_success():
    register_robotics()
    spec = gym.spec("PointMaze_UMazeDense-v3")
    far, near = np.exp(-np.array([2.0, 1.0])), np.exp(-np.array([1.0, 0.4]))
    episodes = [
        Episode(np.zeros((3, 4), np.float32), np.zeros((2, 2), np.float32), reward.astype(np.float32), *np.zeros((2, 2), bool))
        for reward in (far, near)
    ]
    facts = dict(quality_facts(episodes, POINTMAZE, POINTMAZE.views[1], spec, -np.ones(2), np.ones(2)))
    assert facts["success"].startswith("50.0% of episodes")
