"""Sweeps that are killed, fail and go on. Most trials here are scripts of a moment that write what fit and test would write."""

import io
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
import yaml
from rich.console import Console

from edp_lightning.callbacks.environment_evaluation import PENDING, EnvironmentEvaluation
from edp_lightning.cli import main
from edp_lightning.errors import UserError
from edp_lightning.experiments import datasets, records, running, slurm
from edp_lightning.experiments.attempts import training_seconds
from edp_lightning.experiments.board import Board
from edp_lightning.experiments.local import run_local
from edp_lightning.experiments.plan import Trial, read_plan
from edp_lightning.experiments.ray_engine import run_trial
from edp_lightning.experiments.running import State, TrialRun
from edp_lightning.runs.run_folder import lock_run_folder
from tests.conftest import TINY

ROOT = Path(__file__).parents[2]

FIT = """
import shutil, sys
folder, steps = sys.argv[1:]
print("training in", folder)
if "broken" in folder:
    print("loss is nan"); sys.exit(1)
shutil.copy(f"{folder}/../ready.ckpt", f"{folder}/checkpoints/last.ckpt")
"""
TEST = """
import json, sys
if "silent" in sys.argv[1]:
    sys.exit()
json.dump({"checkpoint": {"gradient_steps": int(sys.argv[2])}}, open(f"{sys.argv[1]}/test_last.json", "w"))
"""


@pytest.fixture
def scripted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Make trials whose processes are the scripts above, and note in which order they start."""
    started: list[tuple[str, str]] = []

    def command(words: list[str]) -> list[str]:
        verb, folder = words[3], words[4]
        started.append((Path(folder).name, verb))
        return [sys.executable, "-S", "-c", FIT if verb == "fit" else TEST, folder, "10"]

    monkeypatch.setattr(running, "attached_command", command)
    torch.save({"global_step": 10}, tmp_path / "ready.ckpt")

    def make(*names: str) -> tuple[list[TrialRun], list[tuple[str, str]]]:
        runs = []
        for name in names:
            folder = tmp_path / name
            (folder / "checkpoints").mkdir(parents=True, exist_ok=True)
            trial = Trial(name, "a", "", 0, 10, (str(folder),), (), folder, ("last", "best"))
            runs.append(TrialRun(trial, 1))
            runs[-1].look()
        return runs, started

    return make


def board(runs: list[TrialRun], workers: int = 1) -> Board:
    return Board(runs, workers, Console(file=io.StringIO(), width=200))


def test_a_trial_that_fails_is_tried_twice_again_and_the_rest_goes_on(scripted):
    runs, started = scripted("broken", "fine", "good")
    assert run_local(runs, 1, board(runs)) == 0
    broken, fine, good = runs
    assert (broken.state, broken.failures, broken.reason) == (State.FAILED, 3, "fit ended with status 1")
    assert records.last_lines(broken.trial, 1) == ["loss is nan"]
    assert fine.state is good.state is State.DONE
    # the others come first before it is tried again
    assert started == [
        ("broken", "fit"), ("fine", "fit"), ("fine", "test"), ("good", "fit"), ("good", "test"),
        ("broken", "fit"), ("broken", "fit"),
    ]  # fmt: skip


def test_what_is_done_is_not_done_again(scripted):
    runs, started = scripted("fine")
    run_local(runs, 1, board(runs))
    runs, started = scripted("fine")
    assert runs[0].state is State.DONE
    run_local(runs, 1, board(runs))
    assert started == [("fine", "fit"), ("fine", "test")]
    (runs[0].trial.folder / "test_last.json").unlink()
    runs, started = scripted("fine")
    run_local(runs, 1, board(runs))
    assert started[2:] == [("fine", "test")]


def test_results_of_weights_that_are_gone_are_no_results(scripted):
    runs, started = scripted("fine")
    run_local(runs, 1, board(runs))
    shutil.rmtree(runs[0].trial.folder / "checkpoints")
    runs, started = scripted("fine")
    run_local(runs, 1, board(runs))
    assert started == 2 * [("fine", "fit"), ("fine", "test")]


def owing() -> dict[str, Any]:
    """Return the checkpoint of a run with all its steps that was stopped in the evaluation of the last one."""
    evaluation = EnvironmentEvaluation()
    evaluation.load_state_dict({"owed": True})
    return {"global_step": 10, "callbacks": {evaluation.state_key: evaluation.state_dict()}}


def test_an_interrupted_evaluation_of_the_last_step_is_made_up_for(scripted, tmp_path):
    runs, started = scripted("fine")
    torch.save(owing(), tmp_path / "fine" / "checkpoints" / "last.ckpt")
    runs[0].look()
    run_local(runs, 1, board(runs))
    assert runs[0].state is State.DONE
    assert started == [("fine", "fit"), ("fine", "test")]


@pytest.mark.parametrize("background", [False, True])
def test_an_evaluation_that_is_never_made_up_for_is_a_failure(background, scripted, tmp_path):
    runs, started = scripted("fine")
    if background:
        (tmp_path / "fine" / "checkpoints" / PENDING).touch()
    else:
        torch.save(owing(), tmp_path / "ready.ckpt")
    run_local(runs, 1, board(runs))
    assert runs[0].state is State.FAILED
    assert "without the evaluation" in runs[0].reason
    assert started == 3 * [("fine", "fit")]


def test_a_test_without_a_result_is_a_failure(scripted):
    runs, started = scripted("silent")
    run_local(runs, 1, board(runs))
    assert (runs[0].state, runs[0].reason) == (State.FAILED, "test wrote no result file")
    assert started == [("silent", "fit")] + 3 * [("silent", "test")]


def test_two_sweeps_never_run_one_trial(scripted, monkeypatch):
    monkeypatch.setattr("edp_lightning.experiments.local.PATIENCE", 0.2)
    runs, started = scripted("fine")
    folder = records.trial_folder(runs[0].trial)
    folder.mkdir()
    with lock_run_folder(folder):
        runs[0].notice_others()
        assert runs[0].state is State.ELSEWHERE  # for those who look at it
        runs[0].look()
        runs[0].start()
        assert runs[0].state is State.ELSEWHERE
        assert started == []
    runs[0].state = State.WAITING
    with lock_run_folder(runs[0].trial.folder):  # a process of a sweep that was killed, still saving
        runs[0].start()
        assert runs[0].state is State.ELSEWHERE
    runs[0].look()
    run_local(runs, 1, board(runs))
    assert runs[0].state is State.DONE


def test_a_lock_that_cannot_be_opened_is_no_other_sweep(scripted):
    runs, _ = scripted("fine", "good", "whole")
    for folder in (records.trial_folder(runs[0].trial), runs[1].trial.folder):
        (folder / ".lock").mkdir(parents=True)
    runs[0].notice_others()
    assert runs[0].state is State.WAITING
    run_local(runs, 1, board(runs))
    assert [run.state for run in runs] == [State.FAILED, State.FAILED, State.DONE]
    assert all("cannot be opened" in run.reason for run in runs[:2])


def test_a_full_disk_is_a_failure_like_any_other(scripted, monkeypatch):
    def full(*args: Any) -> None:
        raise OSError(28, "No space left on device")

    runs, _ = scripted("fine", "good")
    monkeypatch.setattr(records, "remember_settings", lambda trial: full() if trial.task == "fine" else None)
    run_local(runs, 2, board(runs, 2))
    assert [run.state for run in runs] == [State.FAILED, State.DONE]
    assert "No space left" in runs[0].reason


def test_other_settings_in_a_begun_folder_are_refused(scripted, tmp_path):
    runs, _ = scripted("fine")
    run_local(runs, 1, board(runs))
    begun = runs[0].trial
    records.check_settings(begun)
    changed = Trial(**{**begun.__dict__, "options": ("--model.eta=3",)})
    with pytest.raises(UserError, match=r"other settings \(--model.eta\)"):
        records.check_settings(changed)
    fewer = TrialRun(Trial(**{**begun.__dict__, "steps": 5}), 1)
    fewer.start()
    assert "more than the 5 asked for" in fewer.reason


def ended(run: TrialRun) -> None:
    """Wait for the process of a trial, and let the trial notice."""
    while run.state is State.RUNNING:
        run.poll()
        time.sleep(0.02)


def test_a_config_edited_while_a_trial_runs_is_refused(scripted, tmp_path):
    (run,), started = scripted("fine")
    config = tmp_path / "own.yaml"
    config.write_text("model: {eta: 1}")
    run.trial = replace(run.trial, options=(f"--config={config}",))
    run.start()
    config.write_text("model: {eta: 2}")
    ended(run)
    run.start()
    assert run.state is State.WAITING
    assert "other settings" in run.reason
    assert started == [("fine", "fit")]
    config.write_text("model: {eta: 1}")
    run.start()
    ended(run)
    assert run.state is State.DONE


def test_a_second_sweep_with_other_settings_takes_no_trial_over(scripted):
    (first,), _ = scripted("fine")
    second = TrialRun(replace(first.trial, options=("--model.eta=3",)), 1)
    second.look()
    first.start()
    second.start()
    assert second.state is State.ELSEWHERE
    wait_until(lambda: first.leave(), "end of the trial")
    second.start()
    assert second.state is State.WAITING
    assert "other settings (--model.eta)" in second.reason


def test_a_run_begun_without_a_sweep_is_held_to_what_it_goes_on_with(scripted, tmp_path):
    (run,), _ = scripted("fine")
    torch.save({"global_step": 5}, tmp_path / "fine" / "checkpoints" / "last.ckpt")
    run_local([run], 1, board([run]))
    assert run.state is State.DONE
    with pytest.raises(UserError, match="other settings"):
        records.check_settings(replace(run.trial, options=("--model.eta=3",)))


def test_time_of_training_counts_what_is_known(tmp_path):
    (tmp_path / "trial").mkdir()
    entries = [
        {"event": "started", "command": "fit", "time": 100.0, "saved": None},
        {
            "event": "started",
            "command": "fit",
            "time": 900.0,
            "saved": 160.0,
        },  # the first was killed after its checkpoint of 160
        {"event": "ended", "command": "fit", "time": 1000.0, "saved": 1000.0},
        {"event": "started", "command": "test", "time": 1000.0, "saved": 1000.0},
        {"event": "ended", "command": "test", "time": 5000.0, "saved": 1000.0},
    ]
    (tmp_path / "trial" / "attempts.jsonl").write_text("".join(json.dumps(entry) + "\n" for entry in entries))
    assert training_seconds(tmp_path) == 160.0
    assert training_seconds(tmp_path / "nowhere") is None
    (tmp_path / "trial" / "attempts.jsonl").write_text("".join(json.dumps(entry) + "\n" for entry in entries[3:]))
    assert training_seconds(tmp_path) is None  # the sweep only tested it


def test_the_board_counts_and_says_how_long(scripted):
    runs, _ = scripted("fine", "good", "broken")
    shown = board(runs, 2)
    runs[0].gained, runs[0].seconds, runs[0].state = 10, 40.0, State.DONE
    runs[1].state, runs[1].failures, runs[1].reason = State.FAILED, 3, "fit ended by itself at step 500 of 1000"
    with shown.console.capture() as capture:
        shown.console.print(shown.table())
    assert "3 fit ended by itself at step 500 of 1000" in capture.get()
    runs[1].state, runs[1].failures = State.WAITING, 0
    shown.update(True)
    assert shown.summary() == "2 waiting, 1 done, about 0:00:40 left"  # two trials of 10 steps side by side, 4 s a step


def test_a_second_ctrl_c_kills_and_says_so(tmp_path, monkeypatch, capsys):
    def press(self, now=False):
        raise KeyboardInterrupt

    monkeypatch.setattr(Board, "update", press)
    monkeypatch.setattr("edp_lightning.experiments.sweep.collect_missing", lambda commands: None)
    with pytest.raises(SystemExit) as stop:
        main(["sweep", str(sweep_file(tmp_path, 5, ours=[]))])
    assert stop.value.code == 130
    assert "trials were killed and repeat the steps since" in capsys.readouterr().out


def sweep_file(tmp_path: Path, steps: int, **algorithms: list[str]) -> Path:
    content = {
        "output": str(tmp_path / "runs"),
        "steps": steps,
        "tasks": {"toy": ["--data.dataset=edp/toy/two-step-v0"]},
        "algorithms": algorithms,
        "options": [*TINY, "--trainer.check_val_every_n_epoch=10000"],
    }
    file = tmp_path / "sweep.yaml"
    file.write_text(yaml.safe_dump(content))
    return file


def wait_until(condition: Any, what: str) -> None:
    deadline = time.monotonic() + 400
    while not condition():
        assert time.monotonic() < deadline, f"no {what} in time"
        time.sleep(0.02)


def attempts(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "trial" / "attempts.jsonl").read_text().splitlines()]


@pytest.mark.skipif(sys.platform != "linux", reason="trials end with their sweep on Linux only")
def test_a_killed_sweep_and_a_killed_trial_go_on_without_repeating_a_step(toy_set, tmp_path, capsys):
    """The sweep is killed: its trial saves and leaves. The trial is killed: it is tried again. In the end all is there once."""
    folder = tmp_path / "runs" / "edp-toy-two-step-v0" / "tiny-seed0"
    last = folder / "checkpoints" / "last.ckpt"
    words = [sys.executable, "-m", "edp_lightning", "sweep", str(sweep_file(tmp_path, 1_000_000, tiny=[])), "--threads=1"]
    driver = subprocess.Popen(words, cwd=ROOT, stdout=subprocess.DEVNULL)
    try:
        wait_until(last.exists, "checkpoint")
        driver.kill()
        driver.wait()

        def left() -> bool:
            try:
                with lock_run_folder(folder):
                    return True
            except UserError:
                return False

        wait_until(left, "end of the trial")
    finally:
        driver.kill()
    reached = int(torch.load(last, weights_only=True)["global_step"])
    assert "saved" in (folder / "trial" / "log.txt").read_text()

    sweep_file(tmp_path, reached + 20, tiny=[])
    main(["sweep", str(tmp_path / "sweep.yaml"), "--threads=1"])
    result = json.loads((folder / "test_last.json").read_text())
    assert result["checkpoint"]["gradient_steps"] == reached + 20
    assert [(entry["event"], entry["command"], entry["step"]) for entry in attempts(folder)] == [
        ("started", "fit", 0),
        ("started", "fit", reached),
        ("ended", "fit", reached + 20),
        ("started", "test", reached + 20),
        ("ended", "test", reached + 20),
    ]
    assert "all 1 trials are done" in capsys.readouterr().out


@pytest.mark.slow
def test_ctrl_c_lets_the_trials_save_and_a_killed_trial_is_tried_again(toy_set, tmp_path):
    folder = tmp_path / "runs" / "edp-toy-two-step-v0" / "tiny-seed0"
    words = [sys.executable, "-m", "edp_lightning", "sweep", str(sweep_file(tmp_path, 1_000_000, tiny=[])), "--threads=1"]
    driver = subprocess.Popen(words, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    try:
        wait_until((folder / "checkpoints" / "last.ckpt").exists, "checkpoint")
        (child,) = Path(f"/proc/{driver.pid}/task/{driver.pid}/children").read_text().split()
        os.kill(int(child), signal.SIGKILL)
        wait_until(lambda: [entry["event"] for entry in attempts(folder)] == ["started", "ended", "started"], "second try")
        after = (folder / "trial" / "log.txt").stat().st_size
        wait_until(lambda: (folder / "trial" / "log.txt").stat().st_size > after + 500, "training")
        driver.send_signal(signal.SIGINT)
        said, _ = driver.communicate(timeout=200)
    finally:
        driver.kill()
    assert driver.returncode == 130
    assert "every trial has saved" in said
    entries = attempts(folder)
    assert entries[1]["status"] == -signal.SIGKILL
    assert [entry["event"] for entry in entries] == ["started", "ended", "started", "ended"]
    assert entries[2]["step"] == entries[1]["step"]
    assert entries[3]["step"] == torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)["global_step"]


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


def test_a_damaged_checkpoint_does_not_keep_a_sweep_from_looking(tmp_path, capsys):
    file = sweep_file(tmp_path, 5, damaged=[], fine=[])
    damaged, _ = read_plan(file).trials
    records.remember_settings(damaged)
    (damaged.folder / "checkpoints").mkdir()
    (damaged.folder / "checkpoints" / "last.ckpt").write_bytes(b"torn")
    main(["sweep", str(file), "--status"])
    assert "2 waiting" in capsys.readouterr().out


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


def test_the_best_checkpoint_is_judged_too(scripted, tmp_path):
    runs, _ = scripted("whole")
    folder = tmp_path / "whole"
    torch.save({"global_step": 7}, folder / "checkpoints" / "best.ckpt")
    (folder / "test_best.json").write_text(json.dumps({"checkpoint": {"gradient_steps": 5}}))  # of an earlier best one
    torch.save({"global_step": 10}, folder / "checkpoints" / "last.ckpt")
    (folder / "test_last.json").write_text(json.dumps({"checkpoint": {"gradient_steps": 10}}))
    words = records.next_command(runs[0].trial)
    assert words is not None and words[0] == "test" and "best" in " ".join(words)
    (folder / "test_best.json").write_text(json.dumps({"checkpoint": {"gradient_steps": 7}}))
    assert records.next_command(runs[0].trial) is None


def test_a_set_that_cannot_be_collected_stops_the_sweep(minari_root, monkeypatch):
    monkeypatch.setattr(datasets, "attached_command", lambda words: [sys.executable, "-c", "raise SystemExit(3)"])
    with pytest.raises(UserError, match="collect toy --steps=9 ended with status 3"):
        datasets.collect_missing([["collect", "toy", "--steps=9"]])


def test_slurm_numbers_with_gaps():
    assert slurm._ranges([9, 0, 1, 2, 7]) == "0-2,7,9"
