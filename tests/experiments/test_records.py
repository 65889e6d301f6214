"""What a sweep reads off the folders of its trials, and what it refuses to go on with."""

import json
import shutil
from dataclasses import replace
from typing import Any

import pytest
import torch

from edp_lightning.callbacks.environment_evaluation import EnvironmentEvaluation
from edp_lightning.cli import main
from edp_lightning.errors import UserError
from edp_lightning.experiments import records
from edp_lightning.experiments.attempts import training_seconds
from edp_lightning.experiments.local import run_local
from edp_lightning.experiments.plan import Trial, read_plan
from edp_lightning.experiments.running import State, TrialRun
from edp_lightning.runs.run_folder import PENDING, checkpoint_file
from tests.experiments.scripted import board, ended, sweep_file, wait_until


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
        checkpoint_file(tmp_path / "fine", PENDING).touch()
    else:
        torch.save(owing(), tmp_path / "ready.ckpt")
    run_local(runs, 1, board(runs))
    assert runs[0].state is State.FAILED
    assert "without the evaluation" in runs[0].reason
    assert started == 3 * [("fine", "fit")]


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


def test_a_damaged_checkpoint_does_not_keep_a_sweep_from_looking(tmp_path, capsys):
    file = sweep_file(tmp_path, 5, damaged=[], fine=[])
    damaged, _ = read_plan(file).trials
    records.remember_settings(damaged)
    (damaged.folder / "checkpoints").mkdir()
    (damaged.folder / "checkpoints" / "last.ckpt").write_bytes(b"torn")
    main(["sweep", str(file), "--status"])
    assert "2 waiting" in capsys.readouterr().out


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
