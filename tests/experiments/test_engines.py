"""Sweeps that Ray or SLURM runs, and single trials of them."""

import json
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch

from edp_lightning.cli import main
from edp_lightning.errors import UserError
from edp_lightning.experiments import running, slurm
from edp_lightning.experiments.plan import read_plan
from edp_lightning.experiments.ray_engine import run_trial
from tests.experiments.scripted import attempts, sweep_file


def test_ray_runs_the_same_trials(toy_set, tmp_path):
    pytest.importorskip("ray")
    file = sweep_file(tmp_path, 10, tiny=[], broken=["--model.num_critics=0"])
    with pytest.raises(SystemExit):
        main(["sweep", str(file), "--engine=ray", "--threads=1", "--workers=2"])
    folder = tmp_path / "runs" / "edp-toy-two-step-v0"
    assert json.loads((folder / "tiny-seed0" / "test_last.json").read_text())["checkpoint"]["gradient_steps"] == 10
    assert len(attempts(folder / "broken-seed0")) == 6


def stand_in_for_ray(monkeypatch: pytest.MonkeyPatch, ask: Callable[[Any, dict[str, Any]], Any]) -> None:
    """Replace Ray as far as a sweep uses it: ``ask`` gets the function and the config of one trial after the other."""

    class Tuner:
        def __init__(self, function: Any, param_space: dict[str, Any], **options: Any) -> None:
            self.function, self.space = function, param_space

        def fit(self) -> list[Any]:
            found = []
            for name in self.space["trial"]:
                config = self.space | {"trial": name}
                outcome = ask(self.function, config)
                lost = isinstance(outcome, Exception)
                found.append(SimpleNamespace(config=config, error=outcome if lost else None, metrics=None if lost else outcome))
            return found

    ray, tune = ModuleType("ray"), ModuleType("ray.tune")
    same = {"grid_search": list, "with_resources": lambda function, resources: function, "Tuner": Tuner}
    tune.__dict__.update(same | {"TuneConfig": SimpleNamespace, "RunConfig": SimpleNamespace})
    ray.__dict__.update({"init": lambda **options: None, "shutdown": lambda: None, "tune": tune})
    monkeypatch.setitem(sys.modules, "ray", ray)
    monkeypatch.setitem(sys.modules, "ray.tune", tune)


def test_what_ray_says_of_trials_is_reported(tmp_path, monkeypatch, capsys):
    def ask(function: Any, config: dict[str, Any]) -> Any:
        if "lost" in config["trial"]:
            return RuntimeError("a traceback\nthe worker died")
        return function(config) if "broken" in config["trial"] else {"state": "done", "failures": 0, "reason": ""}

    stand_in_for_ray(monkeypatch, ask)
    monkeypatch.setattr("edp_lightning.experiments.ray_engine.PAUSE", 0.05)
    monkeypatch.setattr(running, "attached_command", lambda words: [sys.executable, "-S", "-c", "raise SystemExit(1)"])
    with pytest.raises(SystemExit) as stop:
        main(["sweep", str(sweep_file(tmp_path, 5, fine=[], broken=[], lost=[])), "--engine=ray"])
    assert stop.value.code == 1
    said = capsys.readouterr()
    assert "failed: toy broken seed 0: fit ended with status 1;" in said.out
    assert "failed: toy lost seed 0: the worker died;" in said.out
    assert "2 of 3 trials failed" in said.err


@pytest.mark.parametrize("swallowed", [True, False])
def test_trials_that_ray_did_not_end_are_reported_as_not_run(swallowed, tmp_path, monkeypatch, capsys):
    def ask(function: Any, config: dict[str, Any]) -> Any:
        if "second" not in config["trial"]:
            return {"state": "done", "failures": 0, "reason": ""}
        if swallowed:
            return {}
        raise KeyboardInterrupt

    stand_in_for_ray(monkeypatch, ask)
    file = sweep_file(tmp_path, 5, first=[], second=[])
    with pytest.raises(SystemExit) as stop:
        main(["sweep", str(file), "--engine=ray"])
    assert stop.value.code == 130
    left = 1 if swallowed else 2
    assert f"stopped; {left} of 2 trials were not run to their end. Go on with: edp_lightning sweep" in capsys.readouterr().out


def test_ray_runs_the_trial_that_was_queued_though_the_file_was_edited(tmp_path, monkeypatch):
    asked: list[list[str]] = []

    def command(words: list[str]) -> list[str]:
        asked.append(words)
        return [sys.executable, "-S", "-c", "raise SystemExit(1)"]

    monkeypatch.setattr("edp_lightning.experiments.ray_engine.PAUSE", 0.05)
    monkeypatch.setattr(running, "attached_command", command)
    file = sweep_file(tmp_path, 5, one=[], other=[])
    config = {"file": str(file), "folder": str(Path.cwd()), "trial": "toy one seed 0", "threads": 1}
    sweep_file(tmp_path, 5, more=[], one=[], other=[])
    assert run_trial(config)["state"] == "failed"
    assert len(asked) == 3
    assert all("--run_name=one" in words for words in asked)
    sweep_file(tmp_path, 5, other=[])
    with pytest.raises(UserError, match="no trial toy one seed 0 any more"):
        run_trial(config)


def test_a_slurm_job_refuses_a_file_whose_numbers_mean_other_trials(tmp_path, monkeypatch, capsys):
    asked: list[list[str]] = []

    def command(words: list[str]) -> list[str]:
        asked.append(words)
        return [sys.executable, "-S", "-c", "raise SystemExit(1)"]

    monkeypatch.setattr(running, "attached_command", command)
    main(["sweep", str(sweep_file(tmp_path, 5, one=[], other=[])), "--engine=slurm"])
    job = shlex.split(capsys.readouterr().out.splitlines()[-1].replace("$SLURM_ARRAY_TASK_ID", "0"))
    words = job[job.index("sweep") :]
    with pytest.raises(SystemExit):
        main(words)
    assert all("--run_name=one" in one for one in asked)
    tried = len(asked)
    assert tried == 3
    sweep_file(tmp_path, 5, more=[], one=[], other=[])
    with pytest.raises(SystemExit):
        main(words)
    assert len(asked) == tried
    assert "has other trials by now" in capsys.readouterr().err


@pytest.mark.parametrize("engine", ["slurm", "ray"])
def test_nothing_left_to_do_is_said_with_every_engine(engine, tmp_path, capsys):
    file = sweep_file(tmp_path, 5, tiny=[])
    (trial,) = read_plan(file).trials
    (trial.folder / "checkpoints").mkdir(parents=True)
    torch.save({"global_step": 5}, trial.folder / "checkpoints" / "last.ckpt")
    (trial.folder / "test_last.json").write_text(json.dumps({"checkpoint": {"gradient_steps": 5}}))
    main(["sweep", str(file), f"--engine={engine}"])
    assert capsys.readouterr().out == "all 1 trials are done\n"


def test_one_trial_by_its_number(toy_set, tmp_path, monkeypatch):
    """As a SLURM job does it."""
    asked: list[list[str]] = []

    def command(words: list[str]) -> list[str]:
        asked.append(words)
        return [sys.executable, "-c", "raise SystemExit(1)"]

    monkeypatch.setattr(running, "attached_command", command)
    file = sweep_file(tmp_path, 5, one=[], other=["--model.num_critics=2"])
    with pytest.raises(SystemExit):
        main(["sweep", str(file), "--trial=1"])
    assert asked
    assert all("--model.num_critics=2" in words for words in asked)
    with pytest.raises(SystemExit):
        main(["sweep", str(file), "--trial=2"])


def test_slurm_numbers_with_gaps():
    assert slurm._ranges([9, 0, 1, 2, 7]) == "0-2,7,9"
