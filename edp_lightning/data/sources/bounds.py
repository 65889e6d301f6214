"""Bounds of the actions: what the set says, what the user says, or what the data reach."""

from collections.abc import Callable, Iterable
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from edp_lightning.errors import UserError

Floats = NDArray[np.float32]
ActionBound = float | list[float] | Literal["data"] | None
"""A number for all components, one per component, ``data`` for the data's own range, or None for what the set says."""

MARGIN = 0.05
"""Share of the data's range that ``data`` leaves between the outermost action and the bound, where a policy is cut off."""


class Bounded(Protocol):
    """What states bounds: any source."""

    @property
    def dataset_id(self) -> str:
        """Name in messages."""

    @property
    def action_low(self) -> Floats:
        """Lower bounds that the set states, shape (action_dim,); infinite where it states none."""

    @property
    def action_high(self) -> Floats:
        """Upper bounds that the set states."""


def action_bounds(
    source: Bounded, low: ActionBound, high: ActionBound, actions: Callable[[], Iterable[Floats]]
) -> tuple[Floats, Floats]:
    """Return the bounds that actions are scaled with, both (action_dim,).

    Args:
        source: The set.
        low: Lower bounds that the user chose.
        high: Upper bounds that the user chose.
        actions: Returns arrays of actions, shape (steps, action_dim) each; called only if a bound is ``data``: a whole file may
            have to be read for them.

    Raises:
        UserError: If a component has no finite bounds, or none that leave room between them.
    """
    found = {"low": source.action_low, "high": source.action_high}
    reached = _range(actions()) if "data" in (low, high) else None
    for side, chosen in (("low", low), ("high", high)):
        if chosen == "data":
            assert reached is not None
            room = reached[1] - reached[0]
            margin = MARGIN * np.where(room > 0, room, np.maximum(1.0, abs(reached[0])))  # one that never moves has a box too
            found[side] = (reached[0] - margin if side == "low" else reached[1] + margin).astype(np.float32)
        elif chosen is not None:
            found[side] = _chosen(side, chosen, len(found[side]))
    with np.errstate(over="ignore", invalid="ignore"):  # ends of float32's range: no room that a number could hold
        bounded = np.isfinite(found["high"] - found["low"]) & (found["low"] < found["high"])
    if not bounded.all():
        first = int(np.argmin(bounded))
        raise UserError(
            f"{source.dataset_id} has no bounds for its actions, or none with room between them (first in component {first}: "
            f"{found['low'][first]:g} to {found['high'][first]:g}), and actions are scaled to [-1, 1]: set data.action_low and "
            "data.action_high to numbers or lists of them, or both to data for the range of the actions in the set"
        )
    return found["low"], found["high"]


def _chosen(side: str, value: float | list[float] | str, width: int) -> Floats:
    bound = np.asarray(value, dtype=np.float32)
    if bound.shape not in ((), (width,)):
        raise UserError(f"data.action_{side} has {len(bound)} numbers, actions have {width}: give one number, or one for each")
    return np.array(np.broadcast_to(bound, (width,)))


def _range(actions: Iterable[Floats]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    lows, highs = zip(*((part.min(axis=0), part.max(axis=0)) for part in actions), strict=True)
    return np.min(lows, axis=0).astype(np.float64), np.max(highs, axis=0).astype(np.float64)


def outside(actions: Floats, low: Floats, high: Floats) -> NDArray[np.bool_]:
    """Return which rows of actions (steps, action_dim) leave the bounds by more than a thousandth of the room between them."""
    slack = 1e-3 * (high - low)
    return np.asarray(((actions < low - slack) | (actions > high + slack)).any(axis=1))
