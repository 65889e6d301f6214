"""Checks of what a Minari set stores, each with one message that names the place."""

import errno
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from gymnasium.envs.registration import EnvSpec
from gymnasium.spaces import Box, Dict, Space
from minari.serialization import deserialize_space
from numpy.typing import NDArray

from edp_lightning.environments.specs import read_spec
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


def unreadable(path: Path, kind: str, error: Exception) -> UserError:
    """Return the message for a file that could not be read.

    Args:
        path: The file.
        kind: What it should be.
        error: What reading said.
    """
    number = getattr(error, "errno", None)
    if "unable to lock" in str(error) or number in (errno.EAGAIN, errno.EWOULDBLOCK):
        return UserError(
            f"{path} is locked: another program has it open for writing; wait for it or close it (on a file system without "
            "locks set HDF5_USE_FILE_LOCKING=FALSE)"
        )
    if number in (errno.EACCES, errno.EPERM):
        return UserError(f"{path} may not be read ({error}): change its permissions")
    return UserError(f"{path} is truncated or not {kind} ({error}); fetch it again")


def as_type(values: Any, dtype: Any) -> NDArray[Any]:
    """Return numbers in a type; those that do not fit are infinite."""
    with np.errstate(over="ignore"):
        return np.asarray(values, dtype=dtype)


def changes_in(values: NDArray[Any]) -> NDArray[np.int64] | None:
    """Return how often each column changes from row to row, and how many of these changes float32 does not show, (2, columns).

    None for types all of whose numbers float32 holds.
    """
    if values.dtype.itemsize <= 2 or values.dtype == np.float32:
        return None
    narrow = as_type(values, np.float32)
    same = narrow[1:] == narrow[:-1]
    counts = np.zeros((2, values.shape[1]), dtype=np.int64)
    counts[0] = len(same)
    columns = np.flatnonzero(same.any(axis=0))  # the others change in every row, and float32 shows it
    changed = values[1:, columns] != values[:-1, columns]
    counts[0, columns] = changed.sum(axis=0)
    counts[1, columns] = (changed & same[:, columns]).sum(axis=0)
    return counts


def numeric(node: Any, where: str) -> NDArray[Any]:
    """Return stored numbers in their own type, at least one axis.

    Raises:
        UserError: If they are something else.
    """
    if not hasattr(node, "dtype"):
        raise UserError(f"{where}: an array is expected here, the file has a group")
    if np.dtype(node.dtype).kind not in "fiub":
        raise UserError(f"{where}: not numbers ({node.dtype})")
    if not node.shape:
        raise UserError(f"{where}: one row per step is expected here, the file has a single number")
    return np.asarray(node[()])


def finite(node: Any, dtype: Any, where: str) -> NDArray[Any]:
    """Return stored numbers, at least one axis, none NaN or infinite (in ``dtype``).

    Raises:
        UserError: If they are something else.
    """
    values = as_type(numeric(node, where), dtype)
    refuse_infinite(values, where)
    return values


def refuse_infinite(values: NDArray[Any], where: str) -> None:
    """Raise if there are NaN or infinite values.

    Raises:
        UserError: Naming the first row with one.
    """
    good = np.isfinite(values)
    if not good.all():
        row = int(np.argwhere(~good)[0][0])
        raise UserError(f"{where} hold NaN or infinite values (first in row {row}): clean the set before training")


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


CONVERTED = "converted by edp_lightning"
"""In the description of every set that ``data convert`` writes."""


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
        return read_spec(metadata[key])
    except Exception as error:  # Gymnasium's reader raises many types
        raise UserError(f"{where}: {key} in metadata.json cannot be read ({_line(error)}); fetch the set again") from error


def _line(error: Exception) -> str:
    return next((line for line in str(error).splitlines() if line), type(error).__name__)
