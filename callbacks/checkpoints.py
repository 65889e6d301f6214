"""Two kinds of checkpoints, kept apart: where the run is, and what evaluated best."""

from lightning.pytorch.callbacks import ModelCheckpoint


class LastCheckpoint(ModelCheckpoint):
    """Keeps ``last.ckpt``, the newest state of the run, also when it is interrupted.

    Args:
        every_n_steps: Gradient steps between saves.
    """

    def __init__(self, every_n_steps: int = 1000) -> None:
        super().__init__(
            every_n_train_steps=every_n_steps,
            save_top_k=0,
            save_last=True,
            save_on_exception=True,
            enable_version_counter=False,
        )


class BestCheckpoint(ModelCheckpoint):
    """Keeps ``best.ckpt``, the state with the highest ``evaluation/score`` so far.

    It is chosen by the evaluation it is reported with, so its score is biased upwards: report the last one beside it.
    """

    def __init__(self) -> None:
        super().__init__(
            monitor="evaluation/score",
            mode="max",
            save_top_k=1,
            filename="best",
            auto_insert_metric_name=False,
            save_on_train_epoch_end=False,
            enable_version_counter=False,
        )
