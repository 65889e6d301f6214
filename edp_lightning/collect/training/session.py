"""One training from start to end, over as many processes as it takes: a killed one goes on where its checkpoint is."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from edp_lightning.collect.training.ppo import PPO
from edp_lightning.collect.training.snapshots import save_snapshot
from edp_lightning.errors import UserError
from edp_lightning.runs.checkpoint_io import AtomicCheckpointIO, read_checkpoint

CHECKPOINT_SECONDS = 30.0


class TrainingSession:
    """Runs PPO and keeps its checkpoint.

    Args:
        folder: Where checkpoint and snapshots live.
        ppo: What is trained.
        identity: What must agree between the runs of one session (robot, seed, starting weights).
        snapshot_period: Iterations between two snapshots; 0 keeps none.
    """

    def __init__(self, folder: Path, ppo: PPO, identity: dict[str, Any], snapshot_period: int) -> None:
        self.ppo = ppo
        self.seconds = 0.0
        self.snapshots = folder / "snapshots"
        self._checkpoint = folder / "checkpoint.pt"
        self._identity = identity
        self._period = snapshot_period
        if self._checkpoint.exists():
            self._resume()

    def _resume(self) -> None:
        saved = read_checkpoint(self._checkpoint)
        if saved.get("identity") != self._identity:
            raise UserError(
                f"{self._checkpoint} belongs to another training ({saved.get('identity')}, now {self._identity}): "
                "delete that folder or choose another --output"
            )
        self.ppo.load_state_dict(_to_arrays(saved["ppo"]))
        self.seconds = saved["seconds"]

    def save(self) -> None:
        """Write the checkpoint."""
        checkpoint = {"identity": self._identity, "ppo": _to_tensors(self.ppo.state_dict()), "seconds": self.seconds}
        AtomicCheckpointIO().save_checkpoint(checkpoint, self._checkpoint)

    def run(self, seconds: float, steps: int | None, report: Callable[[PPO, float, dict[str, float]], None]) -> None:
        """Train until ``seconds`` of training in all, or ``steps`` steps in all, whichever comes first.

        Args:
            seconds: Time, that of earlier runs of this session included.
            steps: Steps, likewise; no bound when None.
            report: Called after each iteration with PPO, the seconds so far and what the iteration says.
        """
        saved = time.monotonic()
        while self.seconds < seconds and (steps is None or self.ppo.steps < steps):
            if self._period and self.ppo.iterations % self._period == 0:
                save_snapshot(self.snapshots, self.ppo)
            start = time.monotonic()
            measured = self.ppo.iterate()
            self.seconds += time.monotonic() - start
            report(self.ppo, self.seconds, measured)
            if time.monotonic() - saved > CHECKPOINT_SECONDS:
                self.save()
                saved = time.monotonic()
        self.save()


def _to_tensors(value: Any) -> Any:
    """Replace arrays by tensors: checkpoints are read without executing pickled code, which leaves no arrays."""
    if isinstance(value, dict):
        return {key: _to_tensors(entry) for key, entry in value.items()}
    return {"array": torch.from_numpy(np.array(value))} if isinstance(value, (np.ndarray, np.generic)) else value


def _to_arrays(value: Any) -> Any:
    if isinstance(value, dict):
        if set(value) == {"array"}:
            return value["array"].numpy()
        return {key: _to_arrays(entry) for key, entry in value.items()}
    return value
