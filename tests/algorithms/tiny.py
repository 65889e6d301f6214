"""Small sizes of any algorithm, and batches that it can take; nothing here knows an algorithm that needs no exception."""

import inspect
from collections.abc import Callable
from typing import Any

import torch

from edp_lightning.algorithms.offline_algorithm import OfflineAlgorithm
from edp_lightning.algorithms.registry import built_in
from edp_lightning.data.transitions import SuccessorBatch, WindowBatch
from tests.algorithms.bare import ACTION, OBSERVATION, rows

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
    "DecisionTransformer": {
        "embedding_dim": 8,
        "num_layers": 2,
        "num_heads": 2,
        "context_length": 4,
        "max_episode_length": 20,
        "target_returns": [1.0, 0.5],
        "return_scale": 1.0,
        "warmup_steps": 2,
    },
    "EfficientDiffusionIQL": {"num_diffusion_steps": 21},
    "IDQL": {"width": 8, "num_blocks": 2, "time_features": 4},
    "MSG": {"bc_steps": 0},
}
"""Algorithm -> further options."""


def windows(count: int, seed: int, length: int = 4) -> WindowBatch:
    """Return random windows of steps, some of them padded."""
    generator = torch.Generator().manual_seed(seed)
    observation = torch.randn(count, length, OBSERVATION, generator=generator)
    action = torch.rand(count, length, ACTION, generator=generator) * 1.8 - 0.9
    to_go, first = torch.randn(count, length, generator=generator), torch.randint(0, 10, (count, 1), generator=generator)
    steps = torch.randint(1, length + 1, (count, 1), generator=generator)
    real = torch.arange(length) < steps
    timestep = (first + torch.arange(length)) * real
    wide = real.unsqueeze(2)
    return WindowBatch(observation * wide, action * wide, to_go * real, timestep, real.float())


BATCHES: dict[str, Callable[[int, int], Any]] = {"DecisionTransformer": windows}
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
