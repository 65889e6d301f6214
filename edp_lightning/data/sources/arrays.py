"""Plain arrays, such as robot logs, as a dataset: a ``.npz`` file or a mapping in Python.

Rows are steps, one after the other, N in all; S and A are the widths of observations and actions.

==================  =========  =============================================================================================
observations        (N, S)     what the policy sees before each step
actions             (N, A)     within [action_low, action_high]
rewards             (N,)
terminated          (N,)       bool: the task ended with this step; nothing can be earned after it
truncated           (N,)       bool: the recording stops here for another reason (time limit, operator); values bootstrap
next_observations   (N, S)     optional: what is seen after each step; without it the last step of a truncated episode is
                               dropped, because nobody knows where it led
action_low          (A,)       optional, -1 when absent
action_high         (A,)       optional, 1 when absent
==================  =========  =============================================================================================
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edp_lightning.data.sources.bounds import outside
from edp_lightning.data.sources.stored import changes_in, unreadable
from edp_lightning.data.transitions import Episode
from edp_lightning.environments.families import ObservationView
from edp_lightning.errors import DAMAGED_NPZ, UserError

Floats = NDArray[np.float32]

REQUIRED = ("observations", "actions", "rewards", "terminated", "truncated")
BOTH_ENDS = (
    "both are needed: only 'terminated' steps stop bootstrapping, and 'truncated' tells where an episode stops without an end"
)


@dataclass(frozen=True)
class ArraySource:
    """Episodes cut out of checked arrays.

    Attributes:
        dataset_id: Name for messages and results.
        arrays: The arrays by name, checked.
        action_low: Lower bounds of the actions.
        action_high: Upper bounds of the actions.
        changes: How observations change, as in :class:`Episode`.
        files: The file they come from, if they come from one.
        notes: Nothing needs mending: what is wrong is refused.
    """

    dataset_id: str
    arrays: Mapping[str, NDArray[Any]]
    action_low: Floats
    action_high: Floats
    changes: NDArray[np.int64] | None = None
    files: tuple[Path, ...] = ()
    notes: tuple[str, ...] = ()

    origin = "plain arrays"
    algorithm = "not stated"
    spec = None
    evaluation_spec = None
    whole_actions = False
    observation_space = None
    views = None
    score_reference = None
    labels = ""
    no_environment = "plain arrays name no environment: set data.environment to a gymnasium id"

    def episodes(self, view: ObservationView) -> list[Episode]:
        """Return the episodes; observations are taken as the view gives them, in its order."""
        a = self.arrays
        terminated, truncated = a["terminated"], a["truncated"]
        following = a.get("next_observations")
        ends = np.flatnonzero(terminated | truncated)
        if not len(ends) or ends[-1] != len(terminated) - 1:
            ends = np.append(ends, len(terminated) - 1)  # the recording stops with the file
        episodes = []
        start = 0
        for end in ends.tolist():
            stop = end + 1
            if following is not None:
                last = following[end]
            elif terminated[end]:
                last = a["observations"][end]  # what follows an end is never used
            else:
                stop, last = end, a["observations"][end]
            if stop > start:
                steps = slice(start, stop)
                cut = np.zeros(stop - start, dtype=np.bool_)
                cut[-1] = not terminated[stop - 1]
                episodes.append(
                    Episode(
                        np.concatenate([a["observations"][steps], last[None]]),
                        a["actions"][steps],
                        a["rewards"][steps],
                        terminated[steps],
                        cut,
                        left_out=end + 1 - stop,
                    )
                )
            start = end + 1
        if not episodes:
            raise UserError(f"{self.dataset_id}: no step is left: every episode is truncated after its first step")
        return [replace(episodes[0], changes=self.changes), *episodes[1:]]

    def check_actions(self, low: Floats, high: Floats) -> None:
        """Refuse actions outside the bounds: in a recording of one's own they mean that the bounds are wrong.

        Raises:
            UserError: Naming the first row with one.
        """
        rows = np.flatnonzero(outside(self.arrays["actions"], low, high))
        if len(rows):
            raise UserError(
                f"{self.dataset_id}: {len(rows)} actions lie outside [action_low, action_high] (first in row {rows[0]}); "
                "store the bounds of the robot as action_low and action_high, or set data.action_low and data.action_high"
            )


def open_npz(path: Path) -> ArraySource:
    """Return the source in a ``.npz`` file.

    Raises:
        UserError: Naming the file, and what is wrong with it.
    """
    if not path.is_file():
        raise UserError(f"{path} does not exist; give npz:FILE.npz, written with numpy.savez")
    try:
        with path.open("rb") as raw, np.load(raw, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
    except PermissionError as error:
        raise unreadable(path, ".npz", error) from error
    except DAMAGED_NPZ as error:
        raise UserError(f"{path} is truncated or no .npz file of plain arrays ({error}); write it with numpy.savez") from error
    return array_source(str(path), arrays, (path,))


def array_source(name: str, arrays: Mapping[str, Any], files: tuple[Path, ...] = ()) -> ArraySource:
    """Return arrays as a source after checking them; see the top of this file for their names and shapes.

    Args:
        name: Name for messages and results.
        arrays: The arrays by name.
        files: Where they come from.

    Raises:
        UserError: If an array is missing, of a wrong shape, not finite, or contradicts another.
    """
    missing = [key for key in REQUIRED if key not in arrays]
    if missing:
        reason = f"; {BOTH_ENDS}" if {"terminated", "truncated"} & set(missing) else ""
        raise UserError(f"{name}: no {', '.join(missing)}; it has {', '.join(arrays) or 'nothing'}{reason}")
    checked: dict[str, NDArray[Any]] = {}
    for key in ("observations", "actions", "next_observations"):
        if key in arrays:
            checked[key] = numbers(name, key, arrays[key], 2)
    checked["rewards"] = numbers(name, "rewards", arrays["rewards"], 1)
    for key in ("terminated", "truncated"):
        checked[key] = flags(name, key, arrays[key])
    rows = len(checked["rewards"])
    if rows == 0:
        raise UserError(f"{name}: the arrays are empty")
    for key, value in checked.items():
        if len(value) != rows:
            raise UserError(f"{name}: {key} has shape {value.shape}, expected {rows} rows as in rewards")
    following = checked.get("next_observations")
    if following is not None:
        _check_continuity(name, checked)
    width = checked["actions"].shape[1]
    box = []
    for key, default in (("action_low", -1.0), ("action_high", 1.0)):
        bound = numbers(name, key, arrays[key], 1) if key in arrays else np.full(width, default, dtype=np.float32)
        if bound.shape != (width,):
            raise UserError(f"{name}: {key} has shape {bound.shape}, expected {(width,)} as actions have")
        box.append(bound)
    low, high = box
    if not (low < high).all():
        raise UserError(f"{name}: action_low must be below action_high; got {low.tolist()} and {high.tolist()}")
    return ArraySource(name, checked, low, high, changes_in(np.asarray(arrays["observations"])), files)


def numbers(name: str, key: str, values: Any, axes: int) -> Floats:
    """Return finite float32 numbers with so many axes.

    Raises:
        UserError: If they are not.
    """
    try:
        found = np.asarray(values, dtype=np.float32)
    except (TypeError, ValueError) as error:
        raise UserError(f"{name}: {key} are not numbers ({error})") from error
    if axes == 1 and found.ndim == 2 and found.shape[1] == 1:
        found = found[:, 0]
    if found.ndim != axes:
        raise UserError(f"{name}: {key} has shape {found.shape}, expected {'(rows, width)' if axes == 2 else '(rows,)'}")
    bad = np.argwhere(~np.isfinite(found))
    if len(bad):
        raise UserError(f"{name}: {key} hold NaN or infinite values (first in row {bad[0][0]}): clean the set before training")
    return found


def flags(name: str, key: str, values: Any) -> NDArray[np.bool_]:
    """Return booleans, shape (rows,); numbers are accepted if they are 0 and 1.

    Raises:
        UserError: If they are not.
    """
    found = numbers(name, key, values, 1)
    if not np.isin(found, (0.0, 1.0)).all():
        raise UserError(f"{name}: {key} must hold 0 and 1 only; found values up to {found.max():.4g}")
    return found.astype(np.bool_)


def _check_continuity(name: str, arrays: Mapping[str, NDArray[Any]]) -> None:
    """Raise where an episode's next observation is not the following row: shuffled rows, or an end that is not marked."""
    inside = ~(arrays["terminated"] | arrays["truncated"])[:-1]
    same = np.isclose(arrays["next_observations"][:-1], arrays["observations"][1:], rtol=1e-4, atol=1e-5).all(axis=1)
    broken = np.flatnonzero(inside & ~same)
    if len(broken):
        raise UserError(
            f"{name}: next_observations of row {broken[0]} is not the observation of row {broken[0] + 1}, and neither "
            f"'terminated' nor 'truncated' is set there ({len(broken)} such rows): mark the ends, keep rows in order"
        )
