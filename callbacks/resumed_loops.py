"""Where a run that goes on stands in its epochs: what Lightning's own restart gets wrong for files saved at an epoch's end."""

from typing import Any

import lightning as L


def evaluation_follows(trainer: L.Trainer) -> bool:
    """Return whether Lightning validates between this batch and the next."""
    loop = trainer.fit_loop
    assert loop._data_fetcher is not None
    return loop.epoch_loop._should_check_val_fx(loop._data_fetcher)


def stand_at_epochs_start(trainer: L.Trainer) -> None:
    """Bring the counts of a run that goes on from an epoch's end to the start of the next one; others are left alone.

    To be called when training starts. Lightning 2.6 goes on from such a file in one of two wrong ways, each of which moves all
    later evaluations:

    * Saved after the last batch, with no evaluation due: it closes the epoch and does not count the next one as begun. The
      files of this run then look as if they were saved at an epoch's end, and a second restart loses an epoch.
    * Saved after the evaluation of the last batch, and this run has another period: with no evaluation due there, it trains one
      batch more in the epoch that is over.
    """
    epochs: Any = trainer.fit_loop
    batches: Any = epochs.epoch_loop
    progress = epochs.epoch_progress
    full = batches.batch_progress.current.ready >= trainer.num_training_batches
    if batches.restarted_on_last and full:
        is_open = progress.current.processed < progress.current.started
        if is_open and evaluation_follows(trainer):
            return  # Lightning passes over the evaluation, or repeats one that was given up, and closes the epoch
        if is_open:
            progress.increment_processed()
            progress.increment_completed()
        batches.restarting = False
    if epochs.restarted_mid_epoch and progress.current.processed == progress.current.started:
        progress.increment_ready()
        progress.increment_started()
