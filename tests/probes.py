"""Callbacks that tests add to a run by name, and what stands for a run."""

import time
from pathlib import Path

import lightning as L
import torch
from lightning.pytorch.loggers import Logger

MOMENTS = (
    "on_train_batch_start",
    "on_train_batch_end",
    "on_validation_start",
    "on_validation_end",
    "on_train_epoch_end",
    "on_train_epoch_start",
    "on_save_checkpoint",
)
"""Hooks at which a run may be cut off."""


class CrashError(RuntimeError):
    pass


class CrashAt(L.Callback):
    """Stands for a power cut: raises when a hook is called after ``step`` gradient steps."""

    def __init__(self, hook: str, step: int) -> None:
        assert hook in MOMENTS

        def crash(trainer, *args, **kwargs):
            if trainer.global_step == step:
                raise CrashError(hook)

        setattr(self, hook, crash)


class DumpStates(L.Callback):
    """Writes what each rank holds at the end of training."""

    def __init__(self, folder: str) -> None:
        self.folder = folder

    def on_train_end(self, trainer, pl_module):
        state = {"module": pl_module.state_dict(), "optimizers": [o.state_dict() for o in trainer.optimizers]}
        torch.save(state, Path(self.folder) / f"rank{trainer.global_rank}.pt")


class DisturbRank(L.Callback):
    """Changes one weight on rank 1 only, as a callback that is not meant for several ranks might."""

    def on_train_batch_end(self, trainer, pl_module, *args):
        if trainer.global_rank == 1 and trainer.global_step == 7:
            with torch.no_grad():
                pl_module.critic.get_parameter(next(name for name, _ in pl_module.critic.named_parameters())).add_(1e-7)


def interrupted_run(words: list[str]) -> None:
    """Stands for a training in a process of a pool: the first one gets Ctrl-C; the others leave a file, and take a second."""
    path = Path(words[-1])
    path.touch()
    if path.name == "0":
        raise KeyboardInterrupt
    deadline = time.monotonic() + 60
    while not path.with_name("0").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    time.sleep(1)


class DrawGlobally(L.Callback):
    """Draws from the global random streams at every step and keeps what it got, as a user's callback might."""

    drawn: list = []  # noqa: RUF012

    def on_train_batch_end(self, trainer, pl_module, *args):
        import random

        import numpy as np

        self.drawn.append((trainer.global_step, random.random(), np.random.normal(), torch.rand(()).item()))


class UsageError(Exception):
    """What W&B raises for somebody who is not logged in."""

    __module__ = "wandb.errors"


class LoggerAnywhere(Logger):
    """A logger like those of services: Lightning takes its folder, the working directory by default, for the run's."""

    def __init__(self, save_dir: str = ".") -> None:
        super().__init__()
        if save_dir == "/no server":
            raise UsageError("no server")
        self._save_dir = save_dir

    @property
    def name(self):
        return "anywhere"

    @property
    def version(self):
        return "1"

    @property
    def save_dir(self):
        return self._save_dir

    @property
    def experiment(self):
        return None

    def log_metrics(self, metrics, step=None):
        if self._save_dir == "/not logged in":
            raise UsageError("api_key not configured")

    def log_hyperparams(self, params, *args, **kwargs):
        pass
