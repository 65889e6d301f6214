"""Snapshots of a policy over its training: small files, one each, named by the steps taken."""

import os
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edp_lightning.collect.training.ppo import PPO

Arrays = dict[str, NDArray[np.float32]]


def policy_arrays(ppo: PPO) -> Arrays:
    """Return the policy as named arrays: layers, log_std, and the normalisation of observations if there is one."""
    actor = ppo.actor
    arrays: Arrays = {}
    for number, layer in enumerate([*actor.hidden, actor.mean]):
        suffix = "_mean" if layer is actor.mean else str(number)
        arrays[f"w{suffix}"] = layer.weight.detach().numpy().copy()
        arrays[f"b{suffix}"] = layer.bias.detach().numpy().copy()
    if ppo.settings.normalize_observations:
        statistics = ppo.observation_statistics
        arrays["observation_mean"] = statistics.mean.astype(np.float32)
        arrays["observation_std"] = np.sqrt(statistics.variance + 1e-8).astype(np.float32)
        arrays["log_std"] = actor.log_std.detach().numpy().copy()
    return arrays


def save_arrays(path: Path, arrays: Arrays) -> None:
    """Write an npz file that is either whole or absent."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.writing")
    with temporary.open("wb") as file:
        np.savez(file, **arrays)  # type: ignore[arg-type]
    os.replace(temporary, path)


def save_snapshot(folder: Path, ppo: PPO) -> None:
    """Keep the present policy, with the mean return of training's last episodes."""
    progress = {"steps": np.float32(ppo.steps), "episode_return": np.float32(ppo.episode_return)}
    save_arrays(folder / f"{ppo.steps:010d}.npz", {**policy_arrays(ppo), **{k: np.asarray(v) for k, v in progress.items()}})


def snapshot_files(folder: Path) -> list[Path]:
    """Return the snapshots in the order of training."""
    return sorted(path for path in folder.glob("*.npz") if not path.name.startswith("."))
