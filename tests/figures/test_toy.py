"""The figure of the two-step task, from training to picture."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from edp_lightning.callbacks import NumericsGuard
from edp_lightning.cli import main
from edp_lightning.collect.toy import SECOND_STEP_STD, reward_mean
from edp_lightning.data.datamodule import OfflineDataModule
from edp_lightning.errors import UserError
from edp_lightning.evaluation.loaded_policy import load_policy
from edp_lightning.figures.toy import gather
from edp_lightning.figures.toy_figure import ToyResults, draw_toy, q_of_staying
from edp_lightning.figures.toy_runs import Run, ToyConfig, plan, train_all, variants
from edp_lightning.runs.run_folder import lock_run_folder
from tests.probes import interrupted_run

ROOT = Path(__file__).parents[2]
CONFIG = ROOT / "configs" / "toy.yaml"


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


def test_ctrl_c_in_a_last_evaluation_leaves_it_to_the_next_call(small_config, tmp_path, monkeypatch):
    words = ["toy", f"--fit_config={small_config}", f"--output={tmp_path / 'out'}", "--compile=false", "--workers=1"]
    words += ["--seeds=2", "--epochs=2"]
    on_validation_start = NumericsGuard.on_validation_start

    def press(self, trainer, pl_module):
        on_validation_start(self, trainer, pl_module)
        if trainer.global_step == trainer.max_steps:
            signal.raise_signal(signal.SIGINT)

    with monkeypatch.context() as patch:
        patch.setattr(NumericsGuard, "on_validation_start", press)
        with pytest.raises(SystemExit):
            main(words)
    assert len(list(tmp_path.rglob("last.ckpt"))) == 1
    main(words)
    facts = json.loads((tmp_path / "out" / "figure3.json").read_text())
    assert [len(variant["last"]) for variant in facts["variants"].values()] == [2, 2, 2]


def test_values_are_those_of_the_critics_whatever_the_data_options(small_config, tmp_path):
    """Critics see normalised states, and actions in units of the box."""
    values = yaml.safe_load(small_config.read_text())
    values["data"].update(normalize_observations="standard", action_low=-2.0, action_high=2.0)
    small_config.write_text(yaml.safe_dump(values))
    size = ["--seeds=1", "--epochs=1", "--workers=1", "--compile=false"]
    main(["toy", f"--fit_config={small_config}", f"--output={tmp_path}", *size])
    config = ToyConfig(str(small_config), 1)
    runs = plan(config, "path", 1, tmp_path, compiled=False)
    results = gather(runs, config.dataset, config.steps_per_epoch)
    data = OfflineDataModule(config.dataset)
    data.setup("validate")
    states = data.transitions.observation[:, 0].double()
    state = float(-states.mean() / (states.std(correction=0) + 1e-3))
    assert abs(state) > 1e-3
    module = load_policy(runs[1].folder).algorithm
    action = torch.linspace(-0.5, 0.5, 201)[:, None]
    with torch.no_grad():
        expected, raw = (module.target_critic(torch.full((201, 1), s), action)[0].numpy() for s in (state, 0.0))
    np.testing.assert_allclose(results.q["one critic"][0], expected, rtol=1e-4, atol=1e-6)
    assert np.abs(raw - expected).max() > 1e-5


def test_after_ctrl_c_no_further_run_is_begun(tmp_path):
    """Two processes, six runs: the first is interrupted, the second is under way and ends; the others are left as they are."""
    one = variants("path")[0]
    runs = [Run(one, seed, tmp_path / f"run{seed}", (str(tmp_path / f"{seed}"),), 10) for seed in range(6)]
    with pytest.raises(UserError, match="stopped: the same command goes on"):
        list(train_all(runs, 2, interrupted_run))
    assert [path.name for path in sorted(tmp_path.iterdir()) if path.is_file()] == ["0", "1"]


@pytest.mark.slow
def test_no_training_outlives_the_command_that_began_it(small_config, tmp_path):
    """All hold the pipe of stderr: it ends with the last of them."""
    words = ["toy", f"--fit_config={small_config}", f"--output={tmp_path / 'out'}", "--compile=false", "--workers=2"]
    process = subprocess.Popen(
        [sys.executable, "-m", "edp_lightning", *words, "--epochs=100000", "--seeds=1"],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    try:
        deadline = time.monotonic() + 200
        while len(folders := [path.parent for path in tmp_path.rglob("events*")]) < 2:
            assert process.poll() is None, process.stderr.read()[-3000:]
            assert time.monotonic() < deadline
            time.sleep(0.05)
        process.kill()
        process.communicate(timeout=60)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    for folder in folders:
        with lock_run_folder(folder):  # nobody trains into it
            pass


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


def test_transformed_rewards_are_refused(small_config, tmp_path, capsys):
    values = yaml.safe_load(small_config.read_text())
    values["data"].update(reward_transform="affine", reward_scale=2.0)
    small_config.write_text(yaml.safe_dump(values))
    with pytest.raises(SystemExit):
        main(["toy", f"--fit_config={small_config}", f"--output={tmp_path / 'o'}"])
    assert "data.reward_transform affine" in capsys.readouterr().err
    assert not (tmp_path / "o").exists()


def test_a_missing_extra_is_named_before_anything_is_trained(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(__import__("sys").modules, "matplotlib.figure", None)
    with pytest.raises(SystemExit):
        main(["toy", f"--fit_config={CONFIG}", f"--output={tmp_path / 'o'}"])
    assert "pip install 'edp_lightning[plot]'" in capsys.readouterr().err
    assert not (tmp_path / "o").exists()
