"""When ``last.ckpt`` is written, and that a file written in the background is whole, of its step, and missed by nobody."""

import errno
import signal
import threading
from pathlib import Path
from types import SimpleNamespace

import lightning as L
import pytest
import torch

from edp_lightning.callbacks import BestCheckpoint, LastCheckpoint, checkpoints
from edp_lightning.errors import UserError
from edp_lightning.runs.checkpoint_io import IN_BACKGROUND, AtomicCheckpointIO, read_checkpoint
from tests.test_resume import assert_same_run


@pytest.fixture
def held(monkeypatch):
    """Let ``torch.save`` begin only when the event is set."""
    event, save = threading.Event(), torch.save

    def wait(*args):
        assert event.wait(60)
        save(*args)

    monkeypatch.setattr(torch, "save", wait)
    return event


def test_a_file_of_the_background_holds_the_state_of_its_step(held, tmp_path):
    weight = torch.ones(3)
    checkpoint = {"weights": {"online": weight, "same": weight}, "scores": {"best": 1.0}, "global_step": 5}
    io = AtomicCheckpointIO()
    io.save_checkpoint(checkpoint, tmp_path / "last.ckpt", IN_BACKGROUND)
    weight.zero_()  # training goes on
    checkpoint["scores"]["best"] = 2.0
    assert not (tmp_path / "last.ckpt").exists()
    held.set()
    read = io.load_checkpoint(tmp_path / "last.ckpt")  # waits for it
    assert read["weights"]["online"].tolist() == [1, 1, 1]
    assert read["weights"]["online"].data_ptr() == read["weights"]["same"].data_ptr()
    assert read["scores"] == {"best": 1.0}
    io.teardown()


def test_a_failure_in_the_background_is_told_at_the_next_save_and_spoils_nothing(monkeypatch, tmp_path):
    io, path = AtomicCheckpointIO(), tmp_path / "last.ckpt"
    io.save_checkpoint({"global_step": 1}, path)

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(torch, "save", full)
        io.save_checkpoint({"global_step": 2}, path, IN_BACKGROUND)
        with pytest.raises(UserError, match=r"No space left.*the checkpoint saved before it is intact"):
            io.save_checkpoint({"global_step": 3}, path)
    assert read_checkpoint(path)["global_step"] == 1
    io.save_checkpoint({"global_step": 4}, path)  # and is told once
    assert sorted(file.name for file in tmp_path.iterdir()) == ["last.ckpt"]
    io.teardown()


def test_a_run_that_writes_in_the_background_goes_on_bit_for_bit(toy_set, command):
    options = ["--entropy_tuning.enabled=true", "--last_checkpoint.background=true", "--last_checkpoint.every_n_steps=3"]
    whole = command("fit", "--trainer.max_steps=11", *options, run_name="whole")
    command("fit", "--trainer.max_steps=8", *options, run_name="parts")
    assert_same_run(command("fit", "--trainer.max_steps=11", "--ckpt_path=last", *options, run_name="parts"), whole)


def test_saves_are_bounded_by_time_but_the_last_step_is_always_saved(toy_set, command, monkeypatch):
    saved, save = [], L.Trainer.save_checkpoint
    seconds = iter(range(0, 10_000, 10))  # each look at the clock is ten seconds later
    monkeypatch.setattr(checkpoints, "time", SimpleNamespace(monotonic=lambda: float(next(seconds))))

    def remember(self, path, *args, **kwargs):
        if Path(path).name == "last.ckpt":
            saved.append(self.global_step)
        save(self, path, *args, **kwargs)

    monkeypatch.setattr(L.Trainer, "save_checkpoint", remember)
    command("fit", "--trainer.max_steps=13", "--last_checkpoint.every_n_steps=2", "--last_checkpoint.min_seconds=25")
    assert saved == [6, 12, 13]


def test_a_negative_time_is_refused():
    with pytest.raises(UserError, match="min_seconds must be at least 0"):
        checkpoints.LastCheckpoint(min_seconds=-1)


def test_signals_are_nobodys_after_an_exception():
    """Lightning gives them back and calls no teardown: an old Ctrl-C does not stop the trainer's next evaluation."""
    last = LastCheckpoint()
    previous = signal.getsignal(signal.SIGINT)
    try:
        last.signals.install()
        last.signals.received = signal.SIGINT
        trainer = SimpleNamespace(is_global_zero=True, strategy=SimpleNamespace(launcher=None))
        last.on_exception(trainer, None, KeyboardInterrupt())
        assert not last.signals.installed
        assert last.signals.received == 0
    finally:
        signal.signal(signal.SIGINT, previous)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def test_the_best_score_moves_with_a_folder_and_begins_anew_in_a_branch(tmp_path):
    old, new = tmp_path / "old", tmp_path / "new"
    new.mkdir()
    made = BestCheckpoint()
    made.dirpath = str(old)
    made._take(0.7)
    state = made.state_dict()

    def begun(source):
        """In the folder ``new``, going on from a file of another folder or of this one."""
        best = BestCheckpoint()
        best.dirpath = str(new)
        trainer = SimpleNamespace(
            state=SimpleNamespace(fn="fit"), ckpt_path=str(source / "checkpoints" / "last.ckpt"), default_root_dir=str(new)
        )
        best.on_load_checkpoint(trainer, None, {})
        best.load_state_dict(state)
        return best

    (new / "best.ckpt").write_text("one is here already, after a kill")
    assert begun(old).best_model_score is None
    moved = begun(new)
    assert float(moved.best_model_score) == pytest.approx(0.7)
    assert moved.best_model_path == str(new / "best.ckpt")
    assert moved._take(0.6) is None
    assert moved._take(0.8) == new / "best.ckpt"
