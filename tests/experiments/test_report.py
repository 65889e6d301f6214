"""The report says what the result files say: numbers against plain numpy, and nothing mixed that differs."""

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edp_lightning.cli import main
from edp_lightning.experiments.pictures import draw_curves
from edp_lightning.experiments.published import published
from edp_lightning.experiments.results import read_grid
from edp_lightning.experiments.statistics import mean, performance_profile, probability_of_improvement
from edp_lightning.experiments.summary import summarize
from edp_lightning.experiments.tables import markdown

pytest.importorskip("scipy")
pytest.importorskip("matplotlib")

HOPPER, MAZE = "edp/hopper/medium-v0", "edp/antmaze/umaze-v1"


def write(
    root: Path, task: str, algorithm: str, seed: int, score: float, name: str = "last", run: str = "", **changes: Any
) -> Path:
    """Write a result file as ``test`` does; ``changes`` are deep keys with underscores for dots."""
    kind = "success_rate" if "maze" in task else "normalized_score"
    record: dict[str, Any] = {
        "date": changes.get("date", "2030-01-01T00:00:00+00:00"),
        "dataset": {
            "id": task, "origin": "local", "algorithm": "c", "view": changes.get("view", "box"), "terminals": "env",
            "mixture": {}, "episodes": 3, "steps": 30,
        },
        "environment": {"id": "E-v0", "max_episode_steps": 10},
        "scores": {"return": 7.0, kind: score, "score": score, "episode_length": 3.0},
        "episodes": [{"seed": 10_000, "return": 7.0, "length": 3, "success": None}],
        "versions": {"python": "3.11", "torch": changes.get("torch", "2.13.0")},
        "checkpoint": {"file": f"{name}.ckpt", "gradient_steps": changes.get("steps", 1000), "training_seed": seed,
                       "options": {"model": {"discount": changes.get("discount", 0.99)}, "data": {"n_step": 1}}},
        "algorithm": algorithm,
        "evaluations_in_training": changes.get("evaluations", {"last": score}),
        "candidates": 50,
    }  # fmt: skip
    file = root / task.replace("/", "-") / f"{run or algorithm}-seed{seed}" / f"test_{name}.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(record))
    return file


SCORES = {
    (HOPPER, "IQL"): [60.0, 70.0, 80.0],
    (HOPPER, "MSG"): [50.0, 70.0, 65.0],
    (MAZE, "IQL"): [0.5, 0.6, 0.4],
    (MAZE, "MSG"): [0.9, 0.7, 0.8],
}


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    for (task, algorithm), scores in SCORES.items():
        for seed, score in enumerate(scores):
            write(tmp_path / "runs", task, algorithm, seed, score)
    return tmp_path / "runs"


def test_numbers_against_numpy(runs):
    summary = summarize(read_grid([runs]))
    rows = {(row.task, row.system): row for row in summary.rows}
    rng = np.random.default_rng(5)
    for key, scores in SCORES.items():
        x = np.array(scores) * (100 if key[0] == MAZE else 1)
        row = rows[key]
        assert row.last.value == pytest.approx(x.mean())
        means = x[rng.integers(0, 3, (20_000, 3))].mean(axis=1)
        np.testing.assert_allclose([row.last.low, row.last.high], np.percentile(means, [2.5, 97.5]), atol=1e-6)
    assert summary.over_tasks == (MAZE, HOPPER)
    # the middle half of six runs is four of them, as rliable's trim_mean cuts
    assert summary.interquartile["IQL"].value == pytest.approx(np.mean([50, 60, 60, 70]))
    assert summary.interquartile["MSG"].value == pytest.approx(np.mean([65, 70, 70, 80]))
    assert list(summary.interquartile) == ["MSG", "IQL"]
    # hopper: MSG beats IQL in 1 (70 > 60) + 1 (65 > 60) + half (70 = 70) of 9 pairs; the maze: in all
    assert summary.improvement["MSG", "IQL"].value == pytest.approx((2.5 / 9 + 1) / 2)
    assert summary.improvement["IQL", "MSG"].value == pytest.approx(1 - (2.5 / 9 + 1) / 2)


def test_the_interval_over_tasks_draws_seeds_within_tasks(runs):
    """Two tasks on distant scales: draws across tasks would spread far more than within them."""
    found = summarize(read_grid([runs])).interquartile["MSG"]
    a, b = np.array([50.0, 70.0, 65.0]), np.array([90.0, 70.0, 80.0])
    rng = np.random.default_rng(1)
    drawn = np.concatenate([x[rng.integers(0, 3, (20_000, 3))] for x in (a, b)], axis=1)
    expected = np.percentile(np.sort(drawn, axis=1)[:, 1:-1].mean(axis=1), [2.5, 97.5])
    np.testing.assert_allclose([found.low, found.high], expected, atol=1.0)


def test_one_seed_against_another_claims_no_probability(tmp_path):
    for algorithm, score in (("IQL", 0.5), ("MSG", 0.6)):
        write(tmp_path, MAZE, algorithm, 0, score)
    grid = read_grid([tmp_path])
    assert summarize(grid).improvement == {}
    assert "Probability that" not in markdown(grid, summarize(grid))


def test_one_seed_has_no_interval_and_ties_count_half():
    assert mean(np.array([3.0])) == (3.0, None, None)
    assert probability_of_improvement([np.array([1.0, 2.0])], [np.array([1.0, 2.0])]).value == 0.5
    profile = performance_profile([np.array([1.0, 3.0]), np.array([5.0])], np.array([0.0, 1.0, 4.0]))
    np.testing.assert_allclose(profile, [1.0, 0.75, 0.5])


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"view": "goal"}, "view"),
        ({"torch": "2.7.0"}, "versions"),
        ({"steps": 500}, "steps (500 instead of 1,000)"),
        ({"discount": 0.9}, "options"),
    ],
    ids=["view", "versions", "steps", "options"],
)
def test_what_differs_is_left_out_and_named(runs, changes, reason, capsys, tmp_path):
    odd = write(runs, HOPPER, "IQL", 3, 99.0, **changes)
    main(["report", str(runs), "--output", str(tmp_path / "report")])
    said = capsys.readouterr().out
    (line,) = [line for line in said.splitlines() if line.startswith("left out")]
    assert str(odd) in line
    assert reason in line
    text = (tmp_path / "report" / "report.md").read_text()
    assert "70.0 [60.0, 80.0]" in text
    assert f"`{odd}`" in text.partition("## Left out")[2]


def test_an_option_that_is_null_is_one_that_was_not_there_yet(runs):
    newer = write(runs, HOPPER, "IQL", 3, 90.0)
    record = json.loads(newer.read_text())
    record["checkpoint"]["options"]["model"]["target_bounds"] = None
    newer.write_text(json.dumps(record))
    assert [result.seed for result in read_grid([runs]).cells[HOPPER, "IQL"].last] == [0, 1, 2, 3]


def test_each_of_many_systems_has_lines_of_its_own(tmp_path):
    for number in range(23):
        write(tmp_path, HOPPER, f"A{number:02}", 0, 1.0, evaluations={"last": 1.0, "gradient_steps": [1, 2], "scores": [0, 1]})
    figure = draw_curves(read_grid([tmp_path]))
    (ax,) = figure.axes
    looks = {(line.get_color(), line.get_linestyle()) for line in ax.lines if not line.get_label().startswith("_")}
    assert len(looks) == 23


def test_seeds_that_one_task_has_more_of_are_named(runs):
    write(runs, HOPPER, "IQL", 3, 90.0)
    assert "IQL: its first 3 seeds of every task count in the numbers over tasks." in summarize(read_grid([runs])).notes


def test_best_checkpoints_of_fewer_seeds_are_named(runs):
    for seed in range(3):
        write(runs, HOPPER, "IQL", seed, 80.0, name="best")
    write(runs, HOPPER, "MSG", 1, 80.0, name="best")
    notes = [note for note in summarize(read_grid([runs])).notes if "best checkpoints of" in note]
    assert notes == [f"{HOPPER} MSG: best checkpoints of 1 of 3 seeds."]


def test_the_best_file_of_a_run_that_is_left_out_is_named_too(runs):
    odd = write(runs, HOPPER, "IQL", 3, 99.0, view="goal")
    of_odd = write(runs, HOPPER, "IQL", 3, 99.0, name="best", view="goal")
    broken = write(runs, HOPPER, "IQL", 4, 99.0)
    of_broken = write(runs, HOPPER, "IQL", 4, 99.0, name="best")
    broken.write_text("{")
    fit = write(runs, HOPPER, "IQL", 0, 99.0, name="best")
    grid = read_grid([runs])
    assert [result.file for result in grid.cells[HOPPER, "IQL"].best] == [fit]
    reasons = dict(grid.left_out)
    assert list(reasons) == [broken, odd, of_odd, of_broken]
    assert reasons[of_odd] == "its run's test_last.json is left out"
    assert reasons[of_broken] == "its run's test_last.json cannot be read"


def test_broken_files_doubled_seeds_and_lonely_best_files_are_left_out(runs, tmp_path):
    (runs / "x-seed0").mkdir()
    (runs / "x-seed0" / "test_last.json").write_text("{")
    again = write(tmp_path / "runs" / "again", HOPPER, "IQL", 0, 1.0, run="IQL", date="2029-01-01T00:00:00+00:00")
    lonely = write(runs, HOPPER, "IQL", 8, 1.0, name="best")
    grid = read_grid([runs])
    reasons = {file: reason for file, reason in grid.left_out}
    assert "cannot be read" in reasons[runs / "x-seed0" / "test_last.json"]
    assert "twice" in reasons[again]
    assert "no test_last.json" in reasons[lonely]
    assert [result.score for result in grid.cells[HOPPER, "IQL"].last] == [60.0, 70.0, 80.0]


def test_runs_of_one_algorithm_under_several_names_are_several_systems(runs):
    write(runs, HOPPER, "IQL", 0, 11.0, run="corl")
    grid = read_grid([runs])
    assert grid.systems == ("IQL", "IQL (corl)", "MSG")
    summary = summarize(grid)
    assert summary.over_tasks == (HOPPER,)  # the third has no maze
    assert any(MAZE in note for note in summary.notes)


def test_the_files_of_a_report(runs, capsys, tmp_path):
    for seed, score in enumerate([75.0, 85.0]):
        write(runs, HOPPER, "IQL", seed, score, name="best", steps=700)
    write(runs, "edp/walker2d/medium-v0", "IQL", 0, 12.0)
    trial = runs / HOPPER.replace("/", "-") / "IQL-seed0" / "trial"
    trial.mkdir()
    times = [("started", "fit", 100.0), ("ended", "fit", 1900.0), ("started", "test", 1900.0), ("ended", "test", 9900.0)]
    lines = [json.dumps({"event": e, "command": c, "time": t, "saved": None}) for e, c, t in times]
    (trial / "attempts.jsonl").write_text("\n".join(lines) + "\n")
    output = tmp_path / "report"
    main(["report", str(runs), "--against", "slides", "--output", str(output)])
    text = (output / "report.md").read_text()
    row = next(line for line in text.splitlines() if line.startswith(f"| {HOPPER} | IQL"))
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    assert cells[2:] == ["70.0 [60.0, 80.0]", "80.0 [75.0, 85.0]", "66.3", "normalised score", "0, 1, 2", "1,000", "0.50"]
    assert "Data and protocol differ" in text
    assert "torch 2.13.0" in text
    with (output / "report.csv").open() as file:
        table = {(line["task"], line["system"]): line for line in csv.DictReader(file)}
    assert float(table[MAZE, "MSG"]["last"]) == pytest.approx(80.0)
    assert float(table[MAZE, "MSG"]["published"]) == 97.8
    assert table["edp/walker2d/medium-v0", "IQL"]["last_low"] == ""
    latex = (output / "report.tex").read_text()
    assert r"Task & IQL & MSG \\" in latex
    assert r"Interquartile mean & 60.0" in latex
    assert latex.count("&") == 2 * (2 + 3)
    for name in ("scores.png", "profiles.png"):
        assert (output / name).read_bytes().startswith(b"\x89PNG")
        assert (output / name).stat().st_size > 5_000
    assert not (output / "curves.png").exists()  # these runs were not evaluated on their way
    before = {file.name: file.read_bytes() for file in output.glob("report.*")}
    main(["report", str(runs), "--against", "slides", "--output", str(output)])
    assert {file.name: file.read_bytes() for file in output.glob("report.*")} == before


@pytest.mark.parametrize("folder", ["nowhere", "."], ids=["missing", "empty"])
def test_nothing_to_report_is_one_message(folder, capsys, tmp_path):
    with pytest.raises(SystemExit) as stop:
        main(["report", str(tmp_path / folder)])
    assert stop.value.code == 1
    assert capsys.readouterr().err.count("\n") == 1


def test_the_published_numbers_have_the_averages_that_the_slides_show():
    table = published("slides")
    columns = ["BC", "DT", "CQL", "IQL", "MSG", "IDQL-A", "IQL+EDP", "Diff-QL", "Ours"]
    gym = [51.9, 74.7, 77.6, 77.0, None, 82.1, 79.9, 88.0, 89.9]
    mazes = [16.7, 18.7, 50.6, 63.0, 83.6, 79.1, 63.0, 69.6, 86.7]
    for column, on_gym, on_mazes in zip(columns, gym, mazes, strict=True):
        for expected, maze in ((on_gym, False), (on_mazes, True)):
            scores = [s for (task, name), s in table.scores.items() if name == column and task.startswith("antmaze") == maze]
            if expected is None:
                assert scores == []
            else:
                assert np.mean(scores) == pytest.approx(expected, abs=0.1), column  # they say 88.0 of 87.91 for Diff-QL
    assert table.score("edp/antmaze/large-diverse-v1", "MSG") == table.score("d4rl:antmaze-large-diverse-v0", "MSG") == 71.4
    assert table.score("edp/toy/two-step-v0", "MSG") is None
    assert table.score(HOPPER, "MSG") is None


def test_curves_show_each_seed_and_their_mean(runs):
    values = {0: [0.1, 0.3], 1: [0.2, 0.6]}
    assert draw_curves(read_grid([runs])) is None
    for seed, scores in values.items():
        write(runs, MAZE, "MSG", seed, 0.5, evaluations={"gradient_steps": [500, 1000], "scores": scores})
    (ax,) = draw_curves(read_grid([runs])).axes
    first, second, middle = ax.lines
    np.testing.assert_allclose(first.get_ydata(), [10, 30], rtol=1e-5)
    np.testing.assert_allclose(second.get_ydata(), [20, 60], rtol=1e-5)
    np.testing.assert_allclose(middle.get_ydata(), [15, 45], rtol=1e-5)
    assert list(middle.get_xdata()) == [500, 1000]
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["MSG (2)"]
