"""Small sizes of any algorithm, and batches that it can take; nothing here knows an algorithm that needs no exception."""

import inspect
from collections.abc import Callable
from typing import Any

import torch

from edp_lightning.algorithms.offline_algorithm import OfflineAlgorithm
from edp_lightning.algorithms.registry import built_in
from edp_lightning.data.transitions import SuccessorBatch
from tests.algorithms.bare import rows

SIZES: dict[str, Any] = {
    "num_critics": 3,
    "num_diffusion_steps": 3,
    "num_candidates": 3,
    "num_sampled_actions": 2,
    "num_backup_actions": 2,
    "num_flow_steps": 2,
}
"""Options by their usual names -> tiny values. Of any option that ends with ``hidden_dims``: [8, 8]."""

TINY_OPTIONS: dict[str, dict[str, Any]] = {
    "EfficientDiffusionIQL": {"num_diffusion_steps": 21},
    "IDQL": {"width": 8, "num_blocks": 2, "time_features": 4},
    "MSG": {"bc_steps": 0},
}
"""Algorithm -> further options."""

BATCHES: dict[str, Callable[[int, int], Any]] = {}
"""Algorithm -> makes a batch of (rows, seed), where it takes another one than ``Batch``."""

ALGORITHMS = built_in()


def options_of(algorithm: type[OfflineAlgorithm]) -> set[str]:
    """Return the names of an algorithm's options, inherited ones too."""
    return {
        name for c in algorithm.__mro__ if issubclass(c, OfflineAlgorithm) for name in inspect.signature(c.__init__).parameters
    }


def tiny_options(name: str) -> dict[str, Any]:
    """Return options that make an algorithm small."""
    known = options_of(ALGORITHMS[name])
    sizes = {option: value for option, value in SIZES.items() if option in known}
    return sizes | {option: [8, 8] for option in known if option.endswith("hidden_dims")} | TINY_OPTIONS.get(name, {})


def batch_for(module: Any, count: int = 8, seed: int = 1) -> Any:
    """Return a batch of made-up rows that an algorithm can take a gradient step on."""
    make = BATCHES.get(type(module).__name__)
    if make is not None:
        return make(count, seed)
    batch = rows(count, seed)
    if not module.uses_next_action:
        return batch
    generator = torch.Generator().manual_seed(seed)
    return SuccessorBatch(*batch, torch.rand(count, 2, generator=generator) * 2 - 1, torch.ones(count))
