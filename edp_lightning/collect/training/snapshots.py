"""Snapshots of a policy over its training: small files, one each, named by the steps taken."""

import os
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from edp_lightning.collect.training.networks import GaussianActor
from edp_lightning.collect.training.ppo import PPO
from edp_lightning.errors import DAMAGED_NPZ, UserError

Arrays = dict[str, NDArray[np.float32]]


def policy_arrays(ppo: PPO) -> Arrays:
    """Return the policy as named arrays: layers, log_std, and the normalisation of observations if there is one."""
    actor = ppo.actor
    arrays: Arrays = {}
    for suffix, layer in _layers(actor):
        arrays[f"w{suffix}"] = layer.weight.detach().numpy().copy()
        arrays[f"b{suffix}"] = layer.bias.detach().numpy().copy()
    if ppo.settings.normalize_observations:
        statistics = ppo.observation_statistics
        arrays["observation_mean"] = statistics.mean.astype(np.float32)
        arrays["observation_std"] = np.sqrt(statistics.variance + 1e-8).astype(np.float32)
        arrays["log_std"] = actor.log_std.detach().numpy().copy()
    return arrays


def read_arrays(path: Path) -> Arrays:
    """Return the arrays of an npz file.

    Raises:
        UserError: If it is missing or not such a file.
    """
    try:
        with np.load(path, allow_pickle=False) as stored:
            return {name: stored[name] for name in stored.files}
    except DAMAGED_NPZ as error:
        raise UserError(f"weights {path} cannot be read ({error}): give an npz file that collect train wrote") from error


def load_policy(actor: GaussianActor, arrays: Arrays) -> None:
    """Copy named layers into an actor; its standard deviation stays.

    Raises:
        UserError: If a layer is missing or has another shape.
    """
    for suffix, layer in _layers(actor):
        for name, target in ((f"w{suffix}", layer.weight), (f"b{suffix}", layer.bias)):
            found = arrays.get(name)
            if found is None or found.shape != tuple(target.shape):
                shape = "is missing" if found is None else f"has shape {found.shape}"
                raise UserError(f"starting weights: {name} {shape}, {tuple(target.shape)} is needed")
            with torch.no_grad():
                target.copy_(torch.from_numpy(found))


def _layers(actor: GaussianActor) -> list[tuple[str, nn.Linear]]:
    hidden = [(str(number), layer) for number, layer in enumerate(actor.hidden)]
    return [*hidden, ("_mean", actor.mean)]  # type: ignore[list-item]


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
