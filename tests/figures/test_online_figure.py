"""The figure of runs that learned online."""

import numpy as np
import pytest

from edp_lightning.cli import main
from edp_lightning.data.collected import CollectedEpisode
from edp_lightning.evaluation.online_curve import collected_since, read_points, write_points
from edp_lightning.figures.online_figure import draw_online, shortest_names

POINTS = [
    {"env_steps": 0, "gradient_steps": 0, "return": 10.0, "success_rate": 0.5, "collected/episodes": 0},
    {
        "env_steps": 500,
        "gradient_steps": 250,
        "return": 8.0,
        "success_rate": 0.25,
        "collected/episodes": 3,
        "collected/return": 7.5,
    },
    {"env_steps": 1000, "gradient_steps": 500, "return": 12.0, "success_rate": 0.75, "collected/episodes": 0},
]


def test_the_table_comes_back_as_it_was_written(tmp_path):
    write_points(tmp_path, POINTS)
    assert read_points(tmp_path) == POINTS


def test_scores_are_drawn_over_environment_steps():
    (ax,) = draw_online({"a": POINTS, "b": POINTS[:2]}).axes
    curve, start, *_ = ax.lines
    np.testing.assert_array_equal(curve.get_xydata(), [[0, 0.5], [500, 0.25], [1000, 0.75]])
    assert set(start.get_ydata()) == {0.5}
    assert ax.get_ylabel() == "success rate"
    without = [{name: value for name, value in point.items() if name != "success_rate"} for point in POINTS]
    assert draw_online({"a": POINTS, "b": without}).axes[0].get_ylabel() == "return"


def test_the_command_draws_runs_and_names_what_is_none(tmp_path, capsys):
    write_points(tmp_path, POINTS)
    main(["figure", "online", str(tmp_path), "--output", str(tmp_path / "curve.png")])
    assert (tmp_path / "curve.png").stat().st_size > 5000
    with pytest.raises(SystemExit):
        main(["figure", "online", str(tmp_path / "nothing"), "--output", str(tmp_path / "other.png")])
    assert "give the folder of a run with online.env_steps" in capsys.readouterr().err
    assert not (tmp_path / "other.png").exists()


def test_runs_of_one_name_are_all_drawn(tmp_path, monkeypatch):
    drawn = {}
    monkeypatch.setattr("edp_lightning.figures.online_figure.draw_online", lambda runs: drawn.update(runs) or draw_online(runs))
    folders = [tmp_path / "a" / "online-seed0", tmp_path / "b" / "online-seed0", tmp_path / "b" / "online-seed1"]
    for folder in folders:
        folder.mkdir(parents=True)
        write_points(folder, POINTS)
    main(["figure", "online", *map(str, folders), "--output", str(tmp_path / "curve.png")])
    assert list(drawn) == ["a/online-seed0", "b/online-seed0", "b/online-seed1"]
    assert shortest_names(["x/one", "y/two"]) == ["one", "two"]
    assert shortest_names(["x/one", "x/one"]) == ["one", "one"]


def test_what_was_collected_between_two_evaluations():
    def episode(begin, rewards, over=True, success=None):
        zero = np.zeros(1, dtype=np.float32)
        steps = len(rewards)
        return CollectedEpisode(0, 0, begin, [zero] * (steps + 1), [zero] * steps, rewards, [False] * steps, success, over)

    episodes = [
        episode(0, [1.0, 1.0], success=False),
        episode(2, [2.0, 3.0, 4.0], success=True),
        episode(5, [5.0], success=False),
        episode(5, []),  # cut by a resume before its first step
        episode(6, [9.0], over=False),
    ]
    assert collected_since(episodes, 2, 6) == {
        "collected/episodes": 2,
        "collected/return": 7.0,
        "collected/episode_length": 2.0,
        "collected/success_rate": 0.5,
    }
    assert collected_since(episodes, 6, 7) == {"collected/episodes": 0}
