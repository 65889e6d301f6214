"""Small sets as users have them, odd ones too, and the smallest module and trainer that can use them."""

import contextlib
import logging
from collections import OrderedDict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gymnasium as gym
import lightning as L
import numpy as np
import pytest

from edp_lightning.algorithms.entropy_diffusion import EntropyDiffusionPolicy
from edp_lightning.data.datamodule import OfflineDataModule
from tests.conftest import make_buffer


def robot_log(bound: float = 1.0, shift: float = 0.0, rows: int = 40) -> dict[str, np.ndarray]:
    """Episodes of ten steps, cut by the operator; actions fill [-bound, bound], observations lie around ``shift``."""
    rng = np.random.default_rng(0)
    observations = shift + rng.normal(size=(rows + rows // 10, 2))
    first = np.arange(len(observations)) % 11 != 10
    return {
        "observations": observations[first],
        "next_observations": observations[np.flatnonzero(first) + 1],
        "actions": rng.uniform(-bound, bound, (rows, 1)),
        "rewards": rng.normal(size=rows),
        "terminated": np.zeros(rows, dtype=bool),
        "truncated": np.arange(rows) % 10 == 9,
        "action_low": np.array([-bound]),
        "action_high": np.array([bound]),
    }


def saved(path: Path, **options: Any) -> str:
    """Write a robot log and return its name as a dataset."""
    np.savez(path, **robot_log(**options))
    return f"npz:{path}"


def data(arrays: dict[str, np.ndarray] | None = None, **options: Any) -> OfflineDataModule:
    return OfflineDataModule.from_arrays(
        robot_log() if arrays is None else arrays, **{"batch_size": 4, "steps_per_epoch": 5, **options}
    )


def read(module: OfflineDataModule) -> OfflineDataModule:
    module.prepare_data()
    module.setup("predict")
    return module


def model(**options: Any) -> EntropyDiffusionPolicy:
    sizes = {"hidden_dims": [8], "num_critics": 2, "num_diffusion_steps": 3, "num_candidates": 2}
    return EntropyDiffusionPolicy(**{**sizes, **options})


def trainer(folder: Path, max_steps: int = 5, **options: Any) -> L.Trainer:
    quiet: dict[str, Any] = dict.fromkeys(
        ("logger", "enable_progress_bar", "enable_checkpointing", "enable_model_summary", "use_distributed_sampler"), False
    )
    return L.Trainer(
        default_root_dir=folder,
        **{"accelerator": "cpu", "devices": 1, "max_steps": max_steps, "max_epochs": -1, "num_sanity_val_steps": 0, **quiet}
        | options,
    )


@contextlib.contextmanager
def listening(caplog: pytest.LogCaptureFixture) -> Iterator[Callable[[], str]]:
    """Yield a function that returns what Lightning's log said so far: what a run tells its user."""
    logger = logging.getLogger("lightning.pytorch.utilities.rank_zero")
    logger.addHandler(caplog.handler)
    caplog.set_level(logging.INFO, logger.name)
    try:
        yield lambda: " ".join(record.getMessage() for record in caplog.records)
    finally:
        logger.removeHandler(caplog.handler)


class SeenBatches(L.Callback):
    """Remembers the rewards of each batch that was trained on, which tell its rows."""

    def __init__(self) -> None:
        self.rewards: list[tuple[float, ...]] = []

    def on_train_batch_start(self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int) -> None:
        self.rewards.append(tuple(batch.reward.tolist()))


def episode(observations: Any, steps: int, actions: Any = None) -> Any:
    """Return an episode for ``make_set``: observations have ``steps`` + 1 rows."""
    return make_buffer(0, observations, np.zeros((steps, 1)) if actions is None else actions, np.arange(float(steps)))


class Pair(gym.Env[dict[str, Any], Any]):
    """Observes a Dict whose keys are not in alphabetical order, one part being a category; the state is its step."""

    observation_space = gym.spaces.Dict(
        OrderedDict(speed=gym.spaces.Box(-9, 9, (1, 2)), gear=gym.spaces.Discrete(3, start=1), at=gym.spaces.Box(-9, 9, ()))
    )
    action_space = gym.spaces.Box(-1.0, 1.0, (1,))

    @staticmethod
    def look(step: int) -> dict[str, Any]:
        return {"speed": np.array([[step, step + 0.5]], np.float32), "gear": 1 + step % 3, "at": np.float32(-step)}

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[dict[str, Any], dict[str, Any]]:
        super().reset(seed=seed)
        self.at = 0
        return self.look(0), {}

    def step(self, action: Any) -> tuple[dict[str, Any], float, bool, bool, dict[str, Any]]:
        self.at += 1
        return self.look(self.at), 1.0, False, self.at == 4, {}


gym.register("tests/Pair-v0", "tests.situations.sets:Pair", max_episode_steps=4)
