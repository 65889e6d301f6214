"""What a result file says: every episode, and how the numbers came about."""

import datetime
import json
import platform
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from edp_lightning import __version__
from edp_lightning.evaluation.rollout import EpisodeResult
from edp_lightning.runs.checkpoint_io import read_checkpoint

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


MACHINE_OPTIONS = {"seed", "compile", "cache", "collect_workers", "download"}
"""Options that say where or which time a policy was trained, not how."""


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
            "model": _training_options(checkpoint["hyper_parameters"]),
            "data": _training_options(checkpoint.get("datamodule_hyper_parameters", {})),
        },
    }


def _training_options(hyper_parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Return what JSON can hold of the options; Lightning's own entries begin with an underscore."""
    kept = {k: v for k, v in hyper_parameters.items() if k not in MACHINE_OPTIONS and not k.startswith("_")}
    plain: dict[str, Any] = json.loads(json.dumps(kept, default=str))
    return plain
