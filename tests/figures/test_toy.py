"""The figure of the two-step task, from training to picture."""

import json
from pathlib import Path

import numpy as np
import pytest
import yaml
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from edp_lightning.cli import main
from edp_lightning.collect.toy import SECOND_STEP_STD, reward_mean
from edp_lightning.figures.toy_figure import ToyResults, draw_toy, q_of_staying

CONFIG = Path(__file__).parents[2] / "configs" / "toy.yaml"


@pytest.fixture
def small_config(tmp_path) -> Path:
    values = yaml.safe_load(CONFIG.read_text())
    values["trainer"].update(check_val_every_n_epoch=1, log_every_n_steps=2)
    values["data"].update(collect_steps=100, batch_size=10, steps_per_epoch=2)
    values["model"].update(hidden_dims=[8], num_critics=2, num_candidates=2)
    values["evaluation"] = {"num_episodes": 2, "num_envs": 2}
    path = tmp_path / "small.yaml"
    path.write_text(yaml.safe_dump(values))
    return path


def test_exact_value_of_staying_is_the_mean_over_the_second_step():
    rng = np.random.default_rng(0)
    action = np.array([-0.95, -0.2, 0.05])
    second = np.clip(action[:, None] + SECOND_STEP_STD * rng.normal(size=(1, 400_000)), -1, 1)
    expected = reward_mean(action) + 0.9 * reward_mean(second).mean(axis=1)
    np.testing.assert_allclose(q_of_staying(action, 0.9), expected, atol=5e-4)


def test_bands_are_one_standard_deviation_over_seeds():
    returns = {"a": np.array([[0.0, 1.0], [1.0, 1.0], [2.0, 1.0]])}
    action = np.array([-1.0, 1.0])
    results = ToyResults(np.zeros(3), np.zeros(3), np.array([1, 2]), returns, action, {"q": np.zeros((1, 2))}, 0.99)
    _, progress, values = draw_toy(results).axes[:3]
    (band,) = progress.collections
    heights = band.get_paths()[0].vertices
    assert {tuple(v) for v in heights.round(6)} >= {(1.0, 0.0), (1.0, 2.0), (2.0, 1.0)}
    np.testing.assert_array_equal(progress.lines[0].get_ydata(), [1, 1])
    assert len(values.collections) == 0  # one seed has no band


def test_trains_draws_and_goes_on(small_config, tmp_path, capsys):
    output = tmp_path / "out"

    def run(*extra: str) -> None:
        size = ["--seeds=2", "--epochs=2", "--workers=1", "--compile=false"]
        main(["toy", f"--fit_config={small_config}", f"--output={output}", *size, *extra])

    run()
    facts = json.loads((output / "figure3.json").read_text())
    assert set(facts["variants"]) == {"diffusion policy", "+ entropy", "+ entropy + Q-ensemble"}
    for name, entropy, critics in (("diffusion", "none", 1), ("entropy", "path", 1), ("ensemble", "path", 2)):
        for seed in (0, 1):
            config = yaml.safe_load((output / "edp-toy-two-step-v0" / f"{name}-seed{seed}" / "config.yaml").read_text())
            assert (config["model"]["entropy"], config["model"]["num_critics"]) == (entropy, critics)
            assert (config["seed_everything"], config["trainer"]["max_steps"]) == (seed, 4)
            assert not config["model"]["compile"]
    events = EventAccumulator(str(output / "figure"))
    events.Reload()
    assert events.Tags()["images"] == ["toy/figure_3"]

    checkpoints = sorted(output.rglob("last.ckpt"))
    before = {path: path.stat().st_mtime_ns for path in checkpoints}
    (output / "figure3.png").unlink()
    checkpoints[0].parent.parent.rename(tmp_path / "moved")  # a run that is missing is trained again, the others are kept
    run()
    assert (output / "figure3.png").stat().st_size > 10_000
    kept = {path: path.stat().st_mtime_ns for path in checkpoints}
    assert [path for path in checkpoints if kept[path] != before[path]] == [checkpoints[0]]
    assert json.loads((output / "figure3.json").read_text())["variants"] == facts["variants"]  # same seeds, same numbers

    capsys.readouterr()
    with pytest.raises(SystemExit):
        run("--entropy=bridge")
    assert "choose another --output" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("option", "expected"),
    [
        ("--epochs=7", "multiple"),
        ("--entropy=true", "choose one of"),
        ("--seeds=0", "seeds >= 1"),
        ("--fit_config=nothing.yaml", "--fit_config"),
        ("--fit_config=configs/cpu.yaml", "no configuration of a training"),
        ("--fit_config=README.md", "no configuration of a training"),
    ],
)
def test_mistakes_end_in_one_message(option, expected, tmp_path, capsys):
    with pytest.raises(SystemExit) as stop:
        main(["toy", f"--fit_config={CONFIG}", f"--output={tmp_path / 'o'}", option])
    assert stop.value.code == 1
    assert expected in capsys.readouterr().err
    assert not (tmp_path / "o").exists()


def test_a_missing_extra_is_named_before_anything_is_trained(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(__import__("sys").modules, "matplotlib.figure", None)
    with pytest.raises(SystemExit):
        main(["toy", f"--fit_config={CONFIG}", f"--output={tmp_path / 'o'}"])
    assert "pip install 'edp_lightning[plot]'" in capsys.readouterr().err
    assert not (tmp_path / "o").exists()
