"""The figure of a run through the command line."""

import numpy as np
import pytest
from matplotlib.image import imread

from edp_lightning.cli import main
from edp_lightning.errors import UserError
from edp_lightning.figures.film import Way
from edp_lightning.figures.run_figure import BIAS, draw_run
from edp_lightning.figures.runs import Curve

STEPS = np.array([4, 9])


def test_panels_show_what_the_run_has():
    curves = {"evaluation/return": Curve(STEPS, np.array([0.5, 1.5])), BIAS: Curve(STEPS, np.array([2.0, -1.0]))}
    curves["evaluation/success_rate"] = Curve(STEPS, np.array([0.0, 1.0]))
    ways = [Way(np.array([[-1.0, 0.0], [1.0, 0.0]]), True), Way(np.array([[-1.0, 0.0], [0.0, 0.0]]), False)]
    figure = draw_run(curves, ([[1, 1, 1, 1], [1, "r", "g", 1], [1, 1, 1, 1]], 1.0), ways)
    plan, score, bias = figure.axes
    assert plan.get_title() == "1 of 2 episodes reach the goal"
    np.testing.assert_array_equal(plan.lines[1].get_xydata(), ways[0].position)
    np.testing.assert_array_equal(score.lines[0].get_xydata(), [[5, 0.0], [10, 1.0]])  # the measure that judges mazes
    assert score.get_ylabel() == "success rate"
    np.testing.assert_array_equal(bias.lines[-1].get_xydata(), [[5, 2.0], [10, -1.0]])
    (only,) = draw_run({"evaluation/return": curves["evaluation/return"]}, None, []).axes
    assert only.get_ylabel() == "return"
    with pytest.raises(UserError, match="nothing to draw"):
        draw_run({"critic/loss": curves[BIAS]}, None, [])


def test_runs_on_a_maze_and_elsewhere(command, tmp_path, capsys):
    main(["collect", "pointmaze-umaze", "--steps=300"])
    maze = command(
        "fit",
        "--trainer.max_steps=10",
        "--trainer.check_val_every_n_epoch=1",
        "--data.view=d4rl",
        dataset="edp/pointmaze/umaze-v0",
    )
    toy = command("fit", "--trainer.max_steps=10", "--trainer.check_val_every_n_epoch=1", "--data.collect_steps=300")
    widths = {}
    for run, name in ((maze, "maze"), (toy, "toy")):
        path = tmp_path / "new" / f"{name}.png"
        main(["figure", "run", str(run), "--episodes=2", f"--output={path}"])
        widths[name] = imread(path).shape[1]
    assert widths["maze"] == pytest.approx(1.5 * widths["toy"], abs=3)  # three panels and two


@pytest.mark.parametrize(
    ("args", "expected"),
    [
        (["runs/nothing"], "no TensorBoard events"),
        (["runs/nothing", "--episodes=0"], "at least 1"),
        (["runs/nothing", "--seed=-1"], "--seed must be at least 0; got -1"),
    ],
)
def test_mistakes_end_in_one_message(args, expected, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stop:
        main(["figure", "run", *args])
    assert stop.value.code == 1
    assert expected in capsys.readouterr().err
