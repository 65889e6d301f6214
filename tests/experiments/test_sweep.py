"""Sweeps whose trials fail, stop and go on."""

import sys
from typing import Any

import pytest

from edp_lightning.cli import main
from edp_lightning.errors import UserError
from edp_lightning.experiments import datasets, records
from edp_lightning.experiments.board import Board
from edp_lightning.experiments.local import run_local
from edp_lightning.experiments.running import State
from edp_lightning.runs.run_folder import lock_run_folder
from tests.experiments.scripted import board, sweep_file


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


def test_a_set_that_cannot_be_collected_stops_the_sweep(minari_root, monkeypatch):
    monkeypatch.setattr(datasets, "attached_command", lambda words: [sys.executable, "-c", "raise SystemExit(3)"])
    with pytest.raises(UserError, match="collect toy --steps=9 ended with status 3"):
        datasets.collect_missing([["collect", "toy", "--steps=9"]])
