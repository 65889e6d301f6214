"""The global random streams of a run, for parts that draw from them."""

import random
from typing import Any

import lightning as L
import numpy as np
import torch

from edp_lightning.runs.ranks import gather_objects


class RandomStates(L.Callback):
    """Keeps every rank's global random state of python, numpy and torch in the checkpoint.

    This package draws from counted streams of its own (see ``rng.py``). A callback or network of the user's, such as one with
    dropout, draws from the global ones and resumes exactly thanks to this.
    """

    def __init__(self) -> None:
        self._saved: list[dict[str, Any]] = []
        self._gpu: torch.device | None = None

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Learn whether the run uses a GPU: to ask any other about its state would start it, or fail where it is taken."""
        device = trainer.strategy.root_device
        self._gpu = device if device.type == "cuda" else None

    def on_train_batch_start(self, trainer: L.Trainer, pl_module: L.LightningModule, *args: Any) -> None:
        """Continue the saved streams, once Lightning's start-up no longer draws; not if the number of ranks changed."""
        if len(self._saved) == trainer.world_size:
            _restore(self._saved[trainer.global_rank], self._gpu)
        self._saved = []

    def state_dict(self) -> dict[str, Any]:
        """Return the states of all ranks; all ranks call this together when a checkpoint is saved."""
        return {"ranks": gather_objects(_current(self._gpu))}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Keep the states until the first batch."""
        self._saved = list(state_dict["ranks"])


def _current(gpu: torch.device | None) -> dict[str, Any]:
    """Return the states as byte tensors and plain numbers, which load without executing code."""
    name, key, *rest = np.random.get_state(legacy=True)
    return {
        "python": random.getstate(),
        "numpy": (name, np.asarray(key).tolist(), *rest),
        "torch": torch.get_rng_state(),
        "cuda": None if gpu is None else torch.cuda.get_rng_state(gpu),
    }


def _restore(states: dict[str, Any], gpu: torch.device | None) -> None:
    random.setstate(states["python"])
    np.random.set_state(states["numpy"])
    torch.set_rng_state(states["torch"])
    if states["cuda"] is not None and gpu is not None:
        torch.cuda.set_rng_state(states["cuda"], gpu)
