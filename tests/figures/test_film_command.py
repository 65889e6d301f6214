"""Films of checkpoints: drawn where the task is planar, with what was considered; refused with one message elsewhere."""

import gc
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from edp_lightning.cli import main
from edp_lightning.environments.families import ObservationView
from edp_lightning.environments.recipe import EvaluationEnvironment
from edp_lightning.environments.specs import environment_spec
from edp_lightning.errors import UserError
from edp_lightning.figures import film_command
from edp_lightning.figures.planar_film import Considered, Watched, _Line, _Maze, planar_film
from edp_lightning.figures.video import check_video, write_video
from tests.algorithms.tiny import ALGORITHMS, tiny_options

pytest.importorskip("matplotlib", reason="needs the extra plot")


def module_of(name: str, observation: int, action: int, **options):
    torch.manual_seed(0)
    module = ALGORITHMS[name](observation_dim=observation, action_dim=action, **tiny_options(name) | options)
    module.set_scales(-1.0, 1.0)
    return module.eval()


def test_a_checkpoint_of_the_two_step_task_is_filmed(toy_set, tmp_path, capsys):
    checkpoint = tmp_path / "toy.ckpt"
    saved = torch.load(Path(__file__).parents[1] / "fixtures" / "format_1.ckpt", weights_only=True)
    torch.save(saved | {"datamodule_hyper_parameters": {"dataset": toy_set}}, checkpoint)
    main(["film", f"--ckpt_path={checkpoint}", f"--output={tmp_path / 'films' / 'toy.gif'}", "--episodes=2", "--every=1"])
    assert "26 frames" in capsys.readouterr().out  # of 2 episodes: 2 decisions, the end, and it stays for 10
    from PIL import Image

    with Image.open(tmp_path / "films" / "toy.gif") as film:
        assert film.n_frames >= 6
        assert film.width == 500
        assert abs(film.height - 460) <= 1
    for options, message in (
        (["--style=camera"], "draws no pictures"),
        (["--output=film.avi"], "ends in .gif or .mp4"),
        (["--every=0"], "--every must be at least 1"),
        (["--seed=-1"], "--seed must be at least 0; got -1"),
    ):
        with pytest.raises(SystemExit):
            main(["film", f"--ckpt_path={checkpoint}", *options])
        assert message in capsys.readouterr().err


def test_the_fan_holds_the_candidates_of_the_decision():
    """The candidates that the critics chose among, in the environment's units, the executed one among them."""
    policy = Watched(module_of("EntropyDiffusionPolicy", 4, 2, num_candidates=7, candidate_temperature=0.0))
    plain = module_of("EntropyDiffusionPolicy", 4, 2, num_candidates=7, candidate_temperature=0.0)
    action = policy.act(torch.ones(1, 4), [torch.Generator().manual_seed(1)])
    np.testing.assert_allclose(action, plain.act(torch.ones(1, 4), [torch.Generator().manual_seed(1)]), atol=1e-5)
    (decision,) = policy.considered
    assert decision.candidates.shape == (7, 2)
    np.testing.assert_allclose(decision.candidates[decision.scores.argmax()], action[0], atol=1e-5)


@pytest.mark.parametrize(("name", "options"), [("FQL", {}), ("EntropyDiffusionPolicy", {"num_candidates": 1})])
def test_a_policy_that_chooses_among_nothing_shows_plain_draws(name, options):
    policy = Watched(module_of(name, 4, 2, **options))
    for _ in range(2):
        policy.act(torch.ones(1, 4), [torch.Generator()])
    assert [decision.candidates.shape for decision in policy.considered] == [(50, 2)] * 2
    assert len(np.unique(policy.considered[1].candidates, axis=0)) > 20
    assert policy.considered[1].scores is None


def test_a_plan_shows_way_fan_and_choice():
    drawing = _Maze([[1, 1, 1, 1], [1, "r", "g", 1], [1, 1, 1, 1]], cell_size=4.0, chunk=1)
    considered = Considered(np.array([1.0, 0.0]), np.array([[1.0, 0.0], [0.0, -1.0]]), np.array([2.0, 1.0]))
    places = [np.array([-2.0, 0.0]), np.array([-1.0, 0.0])]
    frame = drawing.frame(places, considered, "now")
    assert (frame.shape[1:], frame.dtype) == ((500, 3), np.uint8)
    assert abs(len(frame) - 460) <= 1  # as matplotlib rounds
    (fan,) = drawing.ax.collections
    np.testing.assert_allclose([line[1] for line in fan.get_segments()], [[1.4, 0.0], [-1.0, -2.4]])
    _, way, here, chosen = drawing.ax.lines
    np.testing.assert_allclose(way.get_xydata(), places)
    np.testing.assert_allclose(here.get_xydata(), [[-1.0, 0.0]])
    np.testing.assert_allclose(chosen.get_xydata(), [[-1.0, 0.0], [1.4, 0.0]])
    assert not np.array_equal(drawing.frame(places, None, "now"), frame)
    assert not drawing.ax.collections
    assert len(drawing.ends(np.zeros(2), np.zeros((5, 8)))) == 0  # torques are no steps in the plane
    line = _Line(chunk=1)
    np.testing.assert_allclose(line.ends(np.array([0.0, 0.25]), np.array([[0.5], [1.0]])), [[1, 0.75], [1, 1.0]])
    both = _Line(chunk=2)
    np.testing.assert_allclose(both.ends(np.array([0.0, 0.25]), np.array([[0.9, -0.5]])), [[2, 0.5]])  # 1 is the bound
    np.testing.assert_allclose(both.way([np.array([0.0]), np.array([0.4])]), [[0, 0], [2, 0.4]])


def test_an_episode_in_a_maze_is_drawn_from_start_to_end():
    environment = EvaluationEnvironment(
        environment_spec("PointMaze_UMaze-v3", {"maze_map": [[1] * 4, [1, "r", "g", 1], [1] * 4]}).to_json(),
        ObservationView("goal", ("observation", "desired_goal")),
        max_episode_steps=5,
        score_reference=None,
        success=True,
    )
    assert len(planar_film(environment, module_of("BehaviorCloning", 6, 2), seed=1, every=2)) == 4  # decisions 1, 3, 5, the end


def test_what_is_not_planar_has_no_plan(monkeypatch):
    pendulum = EvaluationEnvironment(environment_spec("Pendulum-v1", {}).to_json(), ObservationView("box"), 3, None, False)
    assert planar_film(pendulum, module_of("BehaviorCloning", 3, 1), seed=1, every=1) is None
    monkeypatch.setattr(film_command, "planar_film", lambda *args: None)
    monkeypatch.setattr(film_command, "load_policy", lambda path: type("Loaded", (), {"algorithm": None}))
    with pytest.raises(UserError, match="no plan of this task"):
        film_command.scene_of(pendulum, "any.ckpt", "plan", 0, 1)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # imageio-ffmpeg leaves pipes to the collector
def test_a_film_is_written_in_both_formats(tmp_path):
    frames = [np.full((31, 41, 3), shade, np.uint8) for shade in (0, 120, 240)]
    write_video(check_video(str(tmp_path / "a.gif")), frames, fps=10)
    from PIL import Image

    with Image.open(tmp_path / "a.gif") as film:
        assert (film.n_frames, film.info["duration"]) == (3, 100)
    write_video(check_video(str(tmp_path / "fast.gif")), frames, fps=60)
    with Image.open(tmp_path / "fast.gif") as film:
        assert film.info["duration"] == 20  # milliseconds; the next below would be shown as 100 by most viewers
    reader = pytest.importorskip("imageio_ffmpeg", reason="needs the extra film")
    write_video(check_video(str(tmp_path / "a.mp4")), frames, fps=10)
    facts, *shown = reader.read_frames(str(tmp_path / "a.mp4"))
    assert facts["size"] == (40, 30)
    shades = [np.frombuffer(frame, np.uint8).mean() for frame in shown]
    np.testing.assert_allclose(shades, [0, 120, 240], atol=6)
    gc.collect()


def test_what_a_format_needs_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "imageio_ffmpeg", None)
    with pytest.raises(UserError, match=r"edp_lightning\[film\]"):
        check_video(str(tmp_path / "a.mp4"))


def test_a_class_of_ones_own_is_imported_first(capsys):
    for words in (["film", "--ckpt_path=any.ckpt"], ["figure", "run", "any"]):
        with pytest.raises(SystemExit) as stop:
            main([*words, "--model=tests.nothing.Mine"])
        assert stop.value.code == 1
        assert "tests.nothing.Mine" in capsys.readouterr().err
