"""What is learned, and in which order: one LightningModule per file.

Every algorithm is an attribute too, imported when it is asked for: ``edp_lightning.algorithms.EntropyDiffusionPolicy``.
"""

from typing import Any


def __getattr__(name: str) -> Any:
    if name.startswith("_"):
        raise AttributeError(name)
    from edp_lightning.algorithms.registry import built_in

    try:
        return built_in()[name]
    except KeyError:
        raise AttributeError(f"edp_lightning.algorithms has no algorithm {name}") from None
