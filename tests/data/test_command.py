"""The ``data`` command, on real and on synthetic sets."""

import gymnasium as gym
import minari
import numpy as np
import pytest

from edp_lightning.cli import main
from edp_lightning.collect import collect
from edp_lightning.collect.maze_tasks import MAZE_TASKS
from edp_lightning.data.convert import write_minari
from edp_lightning.data.datamodule import OfflineDataModule
from edp_lightning.data.sources.arrays import array_source
from edp_lightning.data.sources.minari import open_set
from edp_lightning.environments.families import ObservationView, family_of
from edp_lightning.environments.quiet import quiet_gymnasium
from tests.conftest import make_buffer, make_set
from tests.data.sources.test_arrays import log
from tests.data.sources.test_d4rl import FILES, write


def rows(dataset, **options):
    data = OfflineDataModule(dataset, **options)
    data.prepare_data()
    data.setup("validate")
    return data.transitions


def shown(capsys, *args):
    main(["data", "show", *args])
    return capsys.readouterr().out


def test_show_prints_card_checks_and_evaluation(tmp_path, capsys):
    out = shown(capsys, f"d4rl:{write(tmp_path / 'hopper_medium-v2.hdf5', FILES['hopper_medium-v2.hdf5']())}")
    assert "Hopper-v4, 1000 steps" in out
    assert "3234.3" in out
    assert "T + 1 observations for T steps in every one" in out
    assert "5 of 5 episodes end" in out


def test_show_points_at_what_needs_a_second_look(tmp_path, capsys):
    arrays = log() | {"actions": np.zeros((7, 1))}
    np.savez(tmp_path / "log.npz", **arrays)
    out = shown(capsys, f"npz:{tmp_path / 'log.npz'}")
    assert "look  every action is inside the box; 1 action components never change" in out
    assert "none: plain arrays" in out


@pytest.mark.parametrize("source", ["d4rl", "npz", "minari"])
def test_converted_sets_give_the_same_transitions(source, tmp_path, random_set):
    if source == "d4rl":
        name = f"d4rl:{write(tmp_path / 'hopper_medium-v2.hdf5', FILES['hopper_medium-v2.hdf5']())}"
    elif source == "npz":
        np.savez(tmp_path / "log.npz", **log())
        name = f"npz:{tmp_path / 'log.npz'}"
    else:
        name = random_set
    main(["data", "convert", name, "mine/copy-v0"])
    for a, b in zip(rows(name), rows("mine/copy-v0"), strict=True):
        np.testing.assert_array_equal(a.numpy(), b.numpy())
    loaded = minari.load_dataset("mine/copy-v0")  # Minari itself reads it
    assert loaded.total_steps == len(rows(name).reward)
    if source == "d4rl":
        assert loaded.spec.env_spec.id == "Hopper-v4"
        assert loaded.storage.metadata["ref_max_score"] == 3234.3


def test_converted_flat_observations_fit_an_environment_with_dict_observations(tmp_path):
    path = write(tmp_path / "a.hdf5", FILES["antmaze.hdf5"]())
    main(["data", "convert", f"d4rl:{path}", "mine/ant-v0"])
    data = OfflineDataModule("mine/ant-v0", view="d4rl", environment="AntMaze_UMaze-v4", environment_kwargs=ONE_GOAL)
    data.setup("validate")
    assert data.observation_dim == 29
    assert data.environment.describe()["arguments"]["continuing_task"] is False


ONE_GOAL = {"maze_map": [[1, 1, 1, 1, 1], [1, "g", 0, 0, 1], [1, 1, 1, 0, 1], [1, "r", 0, 0, 1], [1, 1, 1, 1, 1]]}


def test_an_existing_set_is_not_overwritten_and_no_wrong_id_written(random_set, capsys, monkeypatch):
    monkeypatch.setattr("edp_lightning.data.command.open_source", None)  # nothing is read before
    with pytest.raises(SystemExit):
        main(["data", "convert", random_set, random_set])
    assert "exists already" in capsys.readouterr().err
    for name in ("mine/foo", "x/foo-v0", "mine/hopper.v0-v1"):
        with pytest.raises(SystemExit):
            main(["data", "convert", random_set, name])
        assert f"'{name}' is no id that Minari could write" in capsys.readouterr().err
        with pytest.raises(SystemExit):
            main(["collect", "toy", f"--output={name}"])
        assert f"'{name}' is no id that Minari could write" in capsys.readouterr().err


def test_rewards_for_goals_that_a_view_hides_are_not_converted(capsys):
    collect("pointmaze-umaze", steps=400)
    with pytest.raises(SystemExit):
        main(["data", "convert", "edp/pointmaze/umaze-v0", "mine/maze-v0", "--view=d4rl"])
    assert "view d4rl hides the goals that the stored rewards are for" in capsys.readouterr().err
    main(["data", "convert", "edp/pointmaze/umaze-v0", "mine/maze-v0", "--view=goal"])


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("log.npz", "give it as npz:log.npz"),
        ("hopper.hdf5", "give it as d4rl:hopper.hdf5"),
        ("s3:bucket", "no known kind of source"),
        ("d4rl:pen-humen-v1", "did you mean pen-human-v1"),
        ("D4RL/pen/human-v2", "huggingface-cli download farama-minari/D4RL"),
    ],
)
def test_sources_of_the_wrong_kind_say_what_to_write(name, message, capsys):
    with pytest.raises(SystemExit) as stop:
        main(["data", "show", name])
    assert stop.value.code == 1
    assert message in capsys.readouterr().err


def test_time_limits_stored_as_terminations_become_truncations(capsys):
    """As data written without Gymnasium's time limit: a policy would learn that standing at the end is worth nothing."""
    buffers = [
        make_buffer(
            i, np.zeros((t + 1, 11)), np.zeros((t, 3)), np.ones(t), terminations=np.arange(t) == t - 1, truncations=[0] * t
        )
        for i, t in enumerate((1000, 3))
    ]
    boxes = gym.spaces.Box(-9, 9, (11,)), gym.spaces.Box(-1, 1, (3,))
    make_set("tests/limit-v0", buffers, *boxes, env=gym.spec("Hopper-v5"))
    assert rows("tests/limit-v0").terminated.nonzero().squeeze(1).tolist() == [1002]  # the second robot fell
    assert "1 time limits were stored as terminations" in shown(capsys, "tests/limit-v0")


def test_ends_at_the_limit_stay_ends_in_a_converted_set(monkeypatch):
    """What was converted knows limits from ends: a task that was solved in the last step was solved."""
    steps = 1000
    rng = np.random.default_rng(0)
    arrays = {"observations": rng.normal(size=(steps, 11)), "actions": np.zeros((steps, 3)), "rewards": np.ones(steps)}
    arrays |= {"terminated": np.arange(steps) == steps - 1, "truncated": np.zeros(steps)}
    source = array_source("robot", arrays)
    monkeypatch.setattr(type(source), "spec", gym.spec("Hopper-v5"))
    view = ObservationView("box")
    write_minari("mine/solved-v0", source, source.episodes(view), family_of(source.spec), view)
    (episode,) = open_set("mine/solved-v0").episodes(view)
    assert (episode.terminated[-1], episode.truncated[-1]) == (True, False)


def walk(upside_down, cells, reward=0.0):
    """An ant that lies on its back where told, in these cells of UMaze; the goal is reached in the last step."""
    steps = len(cells) - 1
    centre = np.array([[(column - 2) * 4.0, (2 - row) * 4.0] for row, column in cells])
    body = np.zeros((steps + 1, 27))
    body[:, 1] = 1.0
    body[upside_down, 1:3] = 0.0, 1.0
    observations = {"achieved_goal": centre, "desired_goal": np.zeros((steps + 1, 2)), "observation": body}
    return observations, np.tile([[1.0, 0.0]], (steps, 4)), [0.0] * (steps - 1) + [reward]


def test_show_tells_how_good_a_maze_set_is(capsys):
    cells = [(3, 1)] * 4 + [(3, 2)] * 5 + [(3, 3)]
    buffers = [make_buffer(0, *walk([], cells, 1.0)), make_buffer(1, *walk([2, 3, 6, 7, 8, 9], cells))]
    task = MAZE_TASKS["antmaze-umaze-diverse"]
    plane, body = gym.spaces.Box(-np.inf, np.inf, (2,)), gym.spaces.Box(-np.inf, np.inf, (27,))
    space = gym.spaces.Dict({"achieved_goal": plane, "desired_goal": plane, "observation": body})
    with quiet_gymnasium():
        env = gym.make(task.collection_spec(), disable_env_checker=True)
        make_set("tests/ant-v0", buffers, space, gym.spaces.Box(-1.0, 1.0, (8,)), env=env, eval_env=task.evaluation_spec())
        env.close()
    out = shown(capsys, "tests/ant-v0").replace("\n", " ")
    text = " ".join(out.replace("│", " ").split())
    assert "2 in 1 of 2 episodes, 153.846 per 1000 upright steps" in text  # 18 steps begin, 5 of them on the back
    assert "27.78% of steps" in text
    assert "50.0% of episodes reach the goal" in text
    assert "3 of 7 cells" in text
    assert "## 40.0 50.0 10.0 ##" in text
    assert "50.0% (100%, 0%, 100%, 0%" in text


def test_show_counts_a_hoppers_terminations_as_falls_and_gives_scores(capsys):
    collect("hopper-medium", steps=800)
    out = " ".join(shown(capsys, "edp/hopper/medium-v0").replace("│", " ").split())
    data = OfflineDataModule("edp/hopper/medium-v0")
    data.setup("validate")
    falls = data.facts.terminated_steps
    assert falls > 0
    assert f"{falls} of {data.facts.episodes} episodes, {falls / 0.8:.2f} per 1000" in out
    assert "normalised score of an episode" in out
