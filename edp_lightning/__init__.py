"""Offline reinforcement learning with entropy-regularised diffusion policies and Q-ensembles (arXiv 2402.04080).

Train on arrays and act:

.. code-block:: python

    import lightning as L
    import numpy as np
    from edp_lightning import EntropyDiffusionPolicy, OfflineDataModule, callbacks, load_policy

    rng = np.random.default_rng(0)  # 50 episodes of 20 steps: the nearer the action is to the observation, the better
    observations, actions = rng.uniform(-1, 1, (2, 1000, 1))
    ends = np.arange(1000) % 20 == 19
    arrays = {"observations": observations, "actions": actions, "rewards": -np.abs(actions - observations)[:, 0]}
    data = OfflineDataModule.from_arrays(arrays | {"terminated": ends, "truncated": np.zeros(1000, bool)}, steps_per_epoch=200)
    options = {"hidden_dims": [32, 32], "num_critics": 2, "actor_lr": 0.01, "critic_lr": 0.01, "candidate_temperature": 0.0}
    model = EntropyDiffusionPolicy(discount=0.0, **options)
    extra = [callbacks.TargetNetworkUpdate(tau=0.05), callbacks.LastCheckpoint()]
    trainer = L.Trainer(max_steps=200, accelerator="cpu", logger=False, callbacks=extra, default_root_dir="runs/arrays")
    trainer.fit(model, data)
    policy = load_policy("runs/arrays")
    action = policy.act(np.array([0.5]), seed=0)  # near 0.5; batches and torch tensors work as well

A run of the command line is loaded the same way, ``load_policy("runs/DATASET/RUN_NAME-seedSEED", "best")``, and so is a
checkpoint file.
"""

import importlib
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from edp_lightning import callbacks
    from edp_lightning.algorithms.entropy_diffusion import EntropyDiffusionPolicy
    from edp_lightning.data.datamodule import OfflineDataModule
    from edp_lightning.evaluation.loaded_policy import LoadedPolicy, load_policy

try:
    __version__ = version("edp_lightning")
except PackageNotFoundError:  # a source tree that was never installed
    __version__ = "0.0.0+source"

__all__ = ["EntropyDiffusionPolicy", "LoadedPolicy", "OfflineDataModule", "__version__", "callbacks", "load_policy"]

_HOME = {
    "EntropyDiffusionPolicy": "edp_lightning.algorithms.entropy_diffusion",
    "LoadedPolicy": "edp_lightning.evaluation.loaded_policy",
    "OfflineDataModule": "edp_lightning.data.datamodule",
    "load_policy": "edp_lightning.evaluation.loaded_policy",
}
"""Public name -> module that it is imported from at its first use: ``import edp_lightning`` costs nothing."""


def __getattr__(name: str) -> Any:
    if name == "callbacks":
        return importlib.import_module("edp_lightning.callbacks")
    if name not in _HOME:
        raise AttributeError(f"module 'edp_lightning' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
