"""Options as plain values, which a checkpoint can be read with again without executing code."""

from collections.abc import MutableMapping
from pathlib import PurePath
from typing import Any

import numpy as np


def plain(value: Any) -> Any:
    """Return a value with numpy's numbers and arrays, and paths, as Python's own, also inside of containers."""
    if isinstance(value, (np.generic, np.ndarray)):
        return value.tolist()
    if isinstance(value, PurePath):
        return str(value)
    if isinstance(value, dict):
        return {plain(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)) and type(value) in (list, tuple):
        return type(value)(plain(item) for item in value)
    return value


def make_plain(options: MutableMapping[str, Any]) -> None:
    """Replace the values of a mapping by plain ones: ``numpy.logspace`` is a usual way to choose a learning rate."""
    for name, value in list(options.items()):
        options[name] = plain(value)
