"""Options as result files and resumed runs compare them: which say how a policy was trained, and which differ."""

import json
from collections.abc import Mapping
from typing import Any

MACHINE_OPTIONS = {"seed", "compile", "cache", "collect_workers", "num_workers", "download"}
"""Options that say where or which time a policy was trained, not how."""


def training_options(hyper_parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Return what JSON can hold of the options that say how a policy is trained; Lightning's own begin with an underscore."""
    kept = {k: v for k, v in hyper_parameters.items() if k not in MACHINE_OPTIONS and not k.startswith("_")}
    plain: dict[str, Any] = json.loads(json.dumps(kept, default=str))
    return plain


def changed_options(section: str, saved: Mapping[str, Any], present: Mapping[str, Any]) -> list[str]:
    """Return what a run that goes on from a checkpoint does otherwise, such as ``data.n_step 1 (3)``.

    Args:
        section: Name of the section of the options.
        saved: Options in the checkpoint; what it does not know of is not compared.
        present: Options of this run.
    """
    before, now = training_options(saved), training_options(present)
    return [f"{section}.{name} {now[name]} ({before[name]})" for name in now if name in before and now[name] != before[name]]


LEARNING_SECTIONS = ("target_update", "entropy_tuning", "online")
"""Sections of callbacks that change what is learned; their options are in the config, not in checkpoints."""


def learning_options(config: Any) -> dict[str, dict[str, Any]]:
    """Return the options of ``LEARNING_SECTIONS`` that a run's config holds, by section; ``online`` only where it is in use.

    Args:
        config: The whole config; nothing is found in what is none.
    """
    whole = config if isinstance(config, Mapping) else {}
    found = {name: training_options(whole[name]) for name in LEARNING_SECTIONS if isinstance(whole.get(name), Mapping)}
    if not found.get("online", {}).get("env_steps"):
        found.pop("online", None)
    return found
