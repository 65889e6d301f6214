"""OGBench's files: synthetic ones of the published layout, against OGBench's own loader and against numbers by hand."""

import json
import re
from pathlib import Path
from typing import Any, ClassVar

import gymnasium
import numpy as np
import pytest
import yaml

from edp_lightning.cli import main
from edp_lightning.data.datamodule import OfflineDataModule
from edp_lightning.data.quality import quality_facts
from edp_lightning.data.sources import ogbench as source_module
from edp_lightning.data.sources.ogbench_names import parse_name, task_names
from edp_lightning.data.sources.opening import open_source
from edp_lightning.environments.families import ObservationView, family_of
from edp_lightning.environments.own_randomness import OwnRandomness
from edp_lightning.environments.quiet import quiet_gymnasium
from edp_lightning.errors import UserError
from tests.conftest import TINY, scalars

ogbench = pytest.importorskip("ogbench", reason="its dependencies have no wheels for Python 3.13")

ANT, CUBE, SCENE, PUZZLE, POINT = (
    f"{data}-singletask{task}-v0"
    for data, task in (
        ("antmaze-large-navigate", "-task1"), ("cube-double-play", "-task3"), ("scene-play", ""), ("puzzle-3x3-play", "-task1"),
        ("pointmaze-medium-navigate", ""),
    )
)  # fmt: skip


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("OGBENCH_DATASET_DIR", str(tmp_path))
    return tmp_path


class Shared:
    """An environment that outlives its users: a robot arm takes seconds to build."""

    made: ClassVar[dict[str, Any]] = {}

    @classmethod
    def of(cls, name):
        if name not in cls.made:
            with quiet_gymnasium():
                cls.made[name] = OwnRandomness(ogbench.make_env_and_datasets(name, env_only=True))
                cls.made[name].close = lambda: None
        return cls.made[name]


def rows(name, widths, lengths=(5, 9, 2), seed=0):
    """Trajectories one after the other; ``widths`` of observations, actions, qpos, qvel and button_states."""
    rng = np.random.default_rng(seed)
    count = sum(lengths) + len(lengths)
    observation, action, qpos, qvel, buttons = widths
    arrays = {
        "observations": rng.normal(size=(count, observation)).astype(np.float32),
        "actions": rng.uniform(-1, 1, (count, action)).astype(np.float32),
        "terminals": np.zeros(count, dtype=bool),
        "qpos": rng.normal(size=(count, qpos)),
        "qvel": rng.normal(size=(count, qvel)),
    }
    arrays["terminals"][np.cumsum([n + 1 for n in lengths]) - 1] = True
    if buttons:
        arrays["button_states"] = rng.integers(0, 2, (count, buttons))
    return arrays


def solve(name, arrays, steps):
    """Let the states of some rows solve the task, and of others a part of it."""
    env = Shared.of(name).unwrapped
    env.reset()
    if "maze" in name:
        arrays["qpos"][steps, :2] = np.array(env.cur_goal_xy) + 0.2
        return
    if hasattr(env, "_num_cubes"):
        for cube, place in enumerate(env._data.mocap_pos):
            arrays["qpos"][steps, 14 + 7 * cube : 17 + 7 * cube] = place + 0.01
        arrays["qpos"][11, 14:17] = env._data.mocap_pos[0]
    if "button_states" in arrays:
        arrays["button_states"][steps] = env._target_button_states
    if "scene" in name:
        arrays["qpos"][steps, -2:] = env._target_drawer_pos, env._target_window_pos


LAYOUTS = {
    ANT: (29, 8, 15, 14, 0),
    CUBE: (37, 5, 14 + 14, 26, 0),
    SCENE: (40, 5, 14 + 7 + 2 + 2, 24, 2),
    PUZZLE: (55, 5, 14 + 9, 23, 9),
}


def save(folder, name, arrays, held_out=False):
    task = parse_name(name)
    np.savez(folder / f"{task.data}{'-val' if held_out else ''}.npz", **arrays)


@pytest.mark.parametrize("name", [ANT, CUBE, *(pytest.param(n, marks=pytest.mark.slow) for n in (SCENE, PUZZLE))])
def test_transitions_equal_those_of_ogbench_bit_for_bit(name, folder, monkeypatch):
    for held_out in (False, True):
        arrays = rows(name, LAYOUTS[name], seed=held_out)
        solve(name, arrays, [2, 3, 8])
        save(folder, name, arrays, held_out)
    monkeypatch.setattr(source_module, "_environment", lambda task: Shared.of(task.name))
    theirs = ogbench.make_env_and_datasets(name, dataset_dir=str(folder), dataset_only=True, cur_env=Shared.of(name))
    data = OfflineDataModule(
        f"ogbench:{name}", validation=f"ogbench:{name}-val", environment="none", reward_transform="none", cache=False
    )
    data.prepare_data()
    data.setup("fit")
    for table, expected in ((data.table, theirs[0]), (data.validation_table, theirs[1])):
        found = table.columns
        for column, key in (
            ("observation", "observations"),
            ("action", "actions"),
            ("reward", "rewards"),
            ("next_observation", "next_observations"),
        ):
            np.testing.assert_array_equal(getattr(found, column).numpy(), expected[key], err_msg=column)
        np.testing.assert_array_equal(1 - found.terminated.numpy(), expected["masks"])
        assert len(np.unique(expected["rewards"])) > 1
        assert expected["terminals"].sum() == 3


def test_rewards_and_ends_by_hand(folder):
    """The reward of a step is that of the state before it; only there the task ends, not where a trajectory stops."""
    arrays = rows(ANT, LAYOUTS[ANT], lengths=(3, 2))
    goal = np.array([10 * 4 - 4, 7 * 4 - 4])  # row 7, column 10 of the maze, in cells of 4 m that begin at -4
    arrays["qpos"][:, :2] = goal + 5
    arrays["qpos"][1, :2] = goal + np.array([0.3, 0.39])  # within 0.5 m
    arrays["qpos"][2, :2] = goal + np.array([0.3, 0.41])  # not
    arrays["qpos"][3, :2] = goal  # the state after the first trajectory's last step
    arrays["qpos"][5, :2] = goal  # before the second one's last step
    save(folder, ANT, arrays)
    source = open_source(f"ogbench:{ANT}")
    first, second = episodes = source.episodes(ObservationView("box"))
    box = (source.action_low, source.action_high)
    facts = quality_facts(episodes, family_of(source.spec), ObservationView("box"), source.spec, *box)
    assert dict(facts)["success"].startswith("100.0% of episodes")
    assert first.reward.tolist() == [-1, 0, -1]
    assert first.terminated.tolist() == [False, True, False]
    assert first.truncated.tolist() == [False, False, True]
    assert second.reward.tolist() == [-1, 0]
    assert second.terminated.tolist() == [False, True]
    assert second.truncated.tolist() == [False, False]
    np.testing.assert_array_equal(first.observation, arrays["observations"][:4])
    np.testing.assert_array_equal(second.action, arrays["actions"][4:6])


def test_tasks_of_one_file_have_tables_of_their_own(folder):
    arrays = rows(ANT, LAYOUTS[ANT])
    arrays["qpos"][1, :2] = (36, 24)
    save(folder, ANT, arrays)
    solved = {}
    for number in (1, 2, 1):
        data = OfflineDataModule(ANT.replace("task1", f"task{number}").join(["ogbench:", ""]), environment="none")
        data.prepare_data()
        data.setup("fit")
        solved[number] = data.facts.terminated_steps
    assert solved == {1: 1, 2: 0}


def test_a_whole_run_reports_the_last_evaluations(folder, capsys):
    for held_out in (False, True):
        save(folder, POINT, rows(POINT, (2, 2, 2, 2, 0), lengths=(20, 20), seed=held_out), held_out)
    arguments = [
        f"--data.dataset=ogbench:{POINT}", f"--data.validation=ogbench:{POINT}-val", f"--output={folder / 'runs'}", *TINY,
        "--data.max_episode_steps=5", "--trainer.check_val_every_n_epoch=1", "--evaluation.num_workers=0",
    ]  # fmt: skip
    main(["fit", *arguments, "--trainer.max_steps=20"])
    run = folder / "runs" / f"ogbench-{POINT}" / "default-seed0"
    logged = scalars(run)
    assert [step for step, _ in logged["validation/td_error"]] == [4, 9, 14, 19]
    assert logged["validation/action_error"][0] != logged["training/action_error"][0]
    main(["test", *arguments, "--ckpt_path=last"])
    record = json.loads((run / "test_last.json").read_text())
    assert record["environment"]["id"] == parse_name(POINT).environment
    scores = [score for _, score in logged["evaluation/success_rate"]]
    assert record["evaluations_in_training"] == {
        "gradient_steps": [5, 10, 15, 20],
        "scores": pytest.approx(scores),
        "last": pytest.approx(scores[-1]),
        "mean_of_last_three": pytest.approx(np.mean(scores[-3:])),
    }
    assert re.search(r"held out\W+40 steps", capsys.readouterr().out)


def test_the_configs_are_the_default_tasks():
    """Each of the ten environments with the task that its name without a number means, and the file kept for validation."""
    configs = Path(__file__).parents[3] / "configs"
    found = {}
    for path in (configs / "ogbench.yaml", *configs.glob("ogbench/*.yaml")):
        data = yaml.safe_load(path.read_text())["data"]
        task = parse_name(data["dataset"].removeprefix("ogbench:"))
        assert data["validation"] == f"{data['dataset']}-val"
        default = gymnasium.spec(re.sub(r"-task\d", "", task.environment))
        assert default.kwargs["reward_task_id"] == 0
        found[task.data] = int(re.search(r"task(\d)", task.name)[1])
    assert found == {
        **{
            f"{maze}-navigate-v0": 1 for maze in ("antmaze-large", "antmaze-giant", "humanoidmaze-medium", "humanoidmaze-large")
        },
        **{"antsoccer-arena-navigate-v0": 4, "cube-single-play-v0": 2, "cube-double-play-v0": 2, "scene-play-v0": 2},
        **{"puzzle-3x3-play-v0": 4, "puzzle-4x4-play-v0": 4},
    }


def test_every_published_name_parses():
    parsed = [parse_name(name) for name in task_names()]
    assert len(parsed) == 47 * 6
    assert {task.environment for task in parsed} <= set(gymnasium.registry)
    assert parse_name("cube-double-play-singletask-v0").file == "cube-double-play-v0.npz"
    assert parse_name("cube-double-play-singletask-task2-v0-val").file == "cube-double-play-v0-val.npz"
    assert parse_name("cube-double-play-singletask-task2-v0-val").environment == "cube-double-singletask-task2-v0"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("antmaze-large-navigate-v0", "no rewards: name a task, ogbench:antmaze-large-navigate-singletask-task1-v0"),
        ("antmaze-large-navigate-oraclerep-v0", "no rewards: name a task"),
        ("visual-cube-single-play-singletask-v0", "images"),
        ("antmaze-large-navigat-singletask-v0", "did you mean antmaze-large-navigate-singletask-v0"),
        ("antmaze-large-navigate-singletask-task6-v0", "is no name of an OGBench task"),
        ("antmaze-large-play-singletask-v0", "OGBench published no antmaze-large-play-v0"),
        ("antmaze-large-navigate-singletask-v0", r"curl --create-dirs -o \S+/antmaze-large-navigate-v0.npz https://rail"),
        ("antmaze-large-navigate-singletask-v0-val", r"huggingface.co\S+, or set OGBENCH_DATASET_DIR"),
    ],
)
def test_what_is_not_there_is_one_message(name, message, folder):
    with pytest.raises(UserError, match=message):
        open_source(f"ogbench:{name}")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda a: a.pop("terminals"), "no terminals; it has observations, actions, qpos"),
        (lambda a: a.pop("qpos"), "does not hold the states of antmaze-large-singletask-task1-v0"),
        (lambda a: a.update(actions=a["actions"][:-1]), "actions has 18 rows, observations have 19"),
        (lambda a: a["terminals"].fill(False), "does not end with the file"),
        (lambda a: a["observations"].__setitem__((3, 1), np.nan), "NaN or infinite values .first in row 3"),
    ],
)
def test_damage_is_one_message(change, message, folder):
    arrays = rows(ANT, LAYOUTS[ANT])
    change(arrays)
    save(folder, ANT, arrays)
    with pytest.raises(UserError, match=message):
        open_source(f"ogbench:{ANT}").episodes(ObservationView("box"))


def test_a_truncated_file_is_one_message(folder):
    save(folder, ANT, rows(ANT, LAYOUTS[ANT]))
    path = folder / parse_name(ANT).file
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(UserError, match=r"truncated or not an \.npz file of OGBench"):
        open_source(f"ogbench:{ANT}")


def test_without_ogbench_the_extra_is_named(folder, monkeypatch):
    def absent(package):
        raise source_module.PackageNotFoundError(package)

    monkeypatch.setattr(source_module, "version", absent)
    with pytest.raises(UserError, match="pip install 'ogbench"):
        open_source(f"ogbench:{ANT}")
