"""Runs that go on evaluate where the uninterrupted run does, and take its steps, wherever they were cut."""

import lightning as L
import numpy as np
import pytest
import torch

from edp_lightning.algorithms.behavior_cloning import BehaviorCloning
from edp_lightning.callbacks import LastCheckpoint, RandomStates
from edp_lightning.data.datamodule import OfflineDataModule
from edp_lightning.runs.checkpoint_io import AtomicCheckpointIO, read_checkpoint
from tests.probes import CrashAt, CrashError

EPOCH = 5


class Seen(L.Callback):
    """Keeps the steps that were taken and those that were evaluated after."""

    def __init__(self):
        self.steps, self.evaluated = [], []

    def on_train_batch_end(self, trainer, pl_module, *args):
        self.steps.append(trainer.global_step)

    def on_validation_end(self, trainer, pl_module):
        self.evaluated.append(trainer.global_step)

    def forget_after(self, step):
        """What a run did after the checkpoint from which the next one goes on is done again."""
        self.steps = [s for s in self.steps if s <= step]
        self.evaluated = [s for s in self.evaluated if s <= step]


class EndsLikeATimer(L.Callback):
    """Ends the run before a gradient step, once the one before is saved; later something has the file written again.

    As ``trainer.max_time`` does it while an evaluation in the background is under way.
    """

    def __init__(self, after: int) -> None:
        self.after = after

    def _save_soon(self, trainer):
        for callback in trainer.callbacks:
            if isinstance(callback, LastCheckpoint):
                callback.save_soon()

    def on_train_batch_end(self, trainer, pl_module, *args):
        if trainer.global_step == self.after:
            self._save_soon(trainer)

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if trainer.global_step == self.after:
            trainer.should_stop = True
            raise StopIteration

    def on_train_end(self, trainer, pl_module):
        self._save_soon(trainer)


@pytest.fixture
def train(tmp_path):
    """Train for so long, going on where the last call ended; returns what all of them together did."""
    rng = np.random.default_rng(0)
    arrays = {"observations": rng.normal(size=(40, 2)), "actions": rng.uniform(-1, 1, (40, 1)), "rewards": np.zeros(40)}
    arrays |= {"terminated": np.arange(40) % 20 == 19, "truncated": np.zeros(40)}
    seen, last = Seen(), tmp_path / "checkpoints" / "last.ckpt"

    def run(period: int, crash: int | None = None, end: int | None = None, **length: int) -> Seen:
        data = OfflineDataModule.from_arrays(arrays, batch_size=4, steps_per_epoch=EPOCH)
        seen.forget_after(read_checkpoint(last)["global_step"] if last.exists() else 0)
        ways = [
            *([] if crash is None else [CrashAt("on_train_batch_end", crash)]),
            *([] if end is None else [EndsLikeATimer(end)]),
        ]
        trainer = L.Trainer(
            accelerator="cpu",
            devices=1,
            **({"max_epochs": None} | length),
            logger=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            callbacks=[seen, RandomStates(), *ways, LastCheckpoint(5)],
            plugins=[AtomicCheckpointIO()],
            num_sanity_val_steps=0,
            default_root_dir=tmp_path,
            check_val_every_n_epoch=period,
            use_distributed_sampler=False,
        )
        torch.manual_seed(0)
        try:
            trainer.fit(BehaviorCloning(hidden_dims=[4]), datamodule=data, ckpt_path=last if last.exists() else None)
        except CrashError:
            assert crash is not None
        return seen

    return run


@pytest.mark.parametrize(
    ("period", "cuts"), [(1, [5, 10]), (2, [4, 10, 28]), (2, [7, 10, 19]), (2, [17, 28]), (3, [6, 11, 16, 26]), (3, [15, 20])]
)
def test_crashes_move_no_evaluation(period, cuts, train):
    for step in cuts:
        train(period, crash=step, max_steps=30)
    seen = train(period, max_steps=30)
    assert seen.steps == list(range(1, 31))
    assert seen.evaluated == list(range(period * EPOCH, 31, period * EPOCH))


@pytest.mark.parametrize(
    ("before", "after", "end", "evaluated"),
    [
        (1, 2, 5, [5, 10, 20, 30]),
        (1, 3, 10, [5, 10, 15, 30]),
        (2, 3, 10, [10, 15, 30]),
        (3, 2, 15, [15, 20, 30]),
        (3, 1, 7, [10, 15, 20, 25, 30]),
    ],
)
def test_another_period_holds_from_where_the_run_goes_on(before, after, end, evaluated, train):
    train(before, max_steps=end)
    seen = train(after, max_steps=30)
    assert seen.steps == list(range(1, 31))
    assert seen.evaluated == evaluated


@pytest.mark.parametrize("period", [1, 2])
def test_more_epochs_are_as_many_as_were_asked_for(period, train):
    for epochs in (1, 2, 4):
        seen = train(period, max_steps=-1, max_epochs=epochs)
    assert seen.steps == list(range(1, 21))
    assert seen.evaluated == list(range(period * EPOCH, 21, period * EPOCH))


@pytest.mark.parametrize("end", [5, 7, 10, 13])
@pytest.mark.parametrize("period", [1, 2])
def test_a_file_written_again_at_the_end_of_training_says_where_in_its_epoch_the_run_is(period, end, train):
    train(period, end=end, max_steps=30)
    seen = train(period, max_steps=30)
    assert seen.steps == list(range(1, 31))
    assert seen.evaluated == list(range(period * EPOCH, 31, period * EPOCH))
