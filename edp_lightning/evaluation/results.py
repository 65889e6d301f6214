"""What a result file says: every episode, and how the numbers came about."""

import datetime
import platform
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import yaml

from edp_lightning import __version__
from edp_lightning.evaluation.rollout import EpisodeResult
from edp_lightning.runs.checkpoint_io import read_checkpoint
from edp_lightning.runs.options import learning_options, training_options
from edp_lightning.runs.run_folder import folder_of_checkpoint

PACKAGES = ("torch", "lightning", "minari", "mujoco", "gymnasium", "gymnasium-robotics", "numpy")


def versions() -> dict[str, str]:
    """Return the versions that a number depends on."""
    found = {"python": platform.python_version(), "edp_lightning": __version__}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found


def result_record(
    dataset: Mapping[str, Any], environment: Any, results: Sequence[EpisodeResult], scores: Mapping[str, float]
) -> dict[str, Any]:
    """Return a JSON-ready record of an evaluation.

    Args:
        dataset: Where the data came from (id, view, locally collected or not).
        environment: The evaluation environment; its ``describe()`` goes into the record.
        results: Every episode.
        scores: Means over the episodes.
    """
    return {
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "dataset": dict(dataset),
        "environment": environment.describe(),
        "scores": dict(scores),
        "episodes": [episode_facts(result) for result in results],
        "versions": versions(),
    }


def episode_facts(result: EpisodeResult) -> dict[str, Any]:
    """Return plain facts about one episode."""
    return {
        "seed": result.seed,
        "return": result.episode_return,
        "length": result.length,
        "success": result.success,
        **result.final,
    }


def checkpoint_facts(path: str | Path | None) -> dict[str, Any] | None:
    """Return which weights were judged: file, gradient steps, training seed and options; None for an untrained policy."""
    if not path:
        return None
    checkpoint = read_checkpoint(str(path))
    return {
        "file": str(path),
        "gradient_steps": int(checkpoint["global_step"]),
        "training_seed": checkpoint["hyper_parameters"]["seed"],
        "options": {
            "model": training_options(checkpoint["hyper_parameters"]),
            "data": training_options(checkpoint.get("datamodule_hyper_parameters", {})),
            **_callback_options(folder_of_checkpoint(path)),
        },
    }


def _callback_options(folder: Path) -> dict[str, Any]:
    """Return what the run's config says of callbacks that change weights; nothing for a run from Python, which has none."""
    try:
        return learning_options(yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8")))
    except (OSError, ValueError, yaml.YAMLError):  # not there, or a file of somebody else's
        return {}
