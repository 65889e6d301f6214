"""Checks of what a Minari set stores, each with one message that names the place."""

import re
from collections.abc import Iterable
from typing import Any

import numpy as np
from gymnasium.envs.registration import EnvSpec
from gymnasium.spaces import Box, Dict, Space
from minari.serialization import deserialize_space
from numpy.typing import NDArray

from edp_lightning.errors import UserError


def episode_numbers(names: Iterable[str], where: str) -> list[int]:
    """Return the numbers in ``episode_N``, ascending; gaps are allowed, other names are none of ours.

    Raises:
        UserError: For a name that looks like an episode but has no plain number.
    """
    wanted = [name for name in names if name.startswith("episode_")]
    for name in wanted:
        if not re.fullmatch(r"episode_(0|[1-9][0-9]*)", name):
            raise UserError(f"{where}: {name} in the file is not an episode with a number: rename or remove it")
    return sorted(int(name.removeprefix("episode_")) for name in wanted)


def finite(node: Any, dtype: Any, where: str) -> NDArray[Any]:
    """Return stored numbers, at least one axis, none NaN or infinite (in ``dtype``).

    Raises:
        UserError: If they are something else.
    """
    if not hasattr(node, "dtype"):
        raise UserError(f"{where}: an array is expected here, the file has a group")
    if np.dtype(node.dtype).kind not in "fiub":
        raise UserError(f"{where}: not numbers ({node.dtype})")
    if not node.shape:
        raise UserError(f"{where}: one row per step is expected here, the file has a single number")
    with np.errstate(over="ignore"):  # what does not fit is infinite afterwards
        values = np.asarray(node[()], dtype=dtype)
    good = np.isfinite(values)
    if not good.all():
        row = int(np.argwhere(~good)[0][0])
        raise UserError(f"{where} hold NaN or infinite values (first in row {row}): clean the set before training")
    return values


def one_per_step(node: Any, dtype: Any, where: str) -> NDArray[Any]:
    """Return one finite number per step, shape (T,); a column (T, 1) is accepted."""
    values = finite(node, dtype, where)
    if values.ndim > 1 and values[0:1].size not in (0, 1):
        raise UserError(f"{where} have shape {values.shape}: one number per step is expected")
    return values.reshape(len(values))


def flags(node: Any, where: str) -> NDArray[np.bool_]:
    """Return one flag per step, shape (T,), stored as booleans or as 0 and 1."""
    values = one_per_step(node, np.float64, where)
    if not np.isin(values, (0.0, 1.0)).all():
        raise UserError(f"{where} must be true or false at every step; found {values[~np.isin(values, (0.0, 1.0))][0]:.4g}")
    return values.astype(np.bool_)


def space(metadata: dict[str, Any], key: str, where: str) -> Space[Any]:
    """Return a space from metadata.json.

    Raises:
        UserError: If it is missing or cannot be read.
    """
    if not metadata.get(key):
        raise UserError(f"{where}: metadata.json names no {key}; fetch the set again")
    try:
        found: Space[Any] = deserialize_space(metadata[key])
        return found
    except Exception as error:  # Minari's reader raises many types
        raise UserError(f"{where}: {key} in metadata.json cannot be read ({_line(error)}); fetch the set again") from error


def space_of(node: Any) -> Space[Any]:
    """Return a space that what is stored of an episode fits, for sets that declare none; rows are the first axis."""
    if hasattr(node, "dtype"):
        return Box(-np.inf, np.inf, tuple(node.shape[1:]), np.float64)
    return Dict({name: space_of(node[name]) for name in node})


def environment_spec(metadata: dict[str, Any], key: str, where: str) -> EnvSpec | None:
    """Return an environment from metadata.json, None where none is named.

    Raises:
        UserError: If it cannot be read.
    """
    if not metadata.get(key):
        return None
    try:
        return EnvSpec.from_json(metadata[key])
    except Exception as error:  # Gymnasium's reader raises many types
        raise UserError(f"{where}: {key} in metadata.json cannot be read ({_line(error)}); fetch the set again") from error


def _line(error: Exception) -> str:
    return next((line for line in str(error).splitlines() if line), type(error).__name__)
