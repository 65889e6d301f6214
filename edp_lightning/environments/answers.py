"""The one place that checks what an environment answers: rewards, ends and infos come from foreign code.

Trusted of ``info`` is ``success`` alone, if it is true or false (0 and 1 count, and arrays of one entry). Everything else in it
is ignored. This package's own wrappers use names no other environment has.
"""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edp_lightning.errors import UserError

REWARDS = "edp_lightning/rewards"
"""Key of an info under which a wrapper lists the reward of each step it played, where it played several at once."""

PROGRESS = "edp_lightning/progress"
"""Key of an info under which a wrapper reports numbers about the way to success."""


def reset_of(answer: Any) -> Any:
    """Return the observation of what ``reset`` answered.

    Raises:
        UserError: If that is not (observation, info).
    """
    if not isinstance(answer, tuple) or len(answer) != 2:
        raise UserError(
            f"reset must return (observation, info), {_kind(answer)} came back: the environment has an older interface"
        )
    return answer[0]


def step_of(answer: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
    """Return what ``step`` answered with the types of Gymnasium's interface.

    Raises:
        UserError: If that is not (observation, reward, terminated, truncated, info), or reward and ends are not what they
            should be.
    """
    if not isinstance(answer, tuple) or len(answer) != 5:
        raise UserError(
            f"step must return (observation, reward, terminated, truncated, info), {_kind(answer)} came back: an older "
            "interface"
        )
    observation, reward, terminated, truncated, info = answer
    found = _number(reward)
    if found is None or not math.isfinite(found):
        raise UserError(f"a reward must be one finite number; got {reward!r}")
    ends = [_flag(terminated), _flag(truncated)]
    for name, value, end in (("terminated", terminated, ends[0]), ("truncated", truncated, ends[1])):
        if end is None:
            raise UserError(f"{name} must be true or false; got {value!r}")
    return observation, found, bool(ends[0]), bool(ends[1]), info_of(info)


def info_of(info: Any) -> dict[str, Any]:
    """Return an info as a plain dict; what is none is empty."""
    return dict(info) if isinstance(info, Mapping) else {}


def success_of(info: Mapping[str, Any]) -> bool | None:
    """Return ``info["success"]`` if it is true or false, else None."""
    return _flag(info["success"]) if "success" in info else None


def observation_of(observation: Any, width: int | None = None) -> NDArray[np.float32]:
    """Return a flat observation, float32, after a look at its numbers.

    Args:
        observation: Through the view.
        width: Expected width, if known.

    Raises:
        UserError: If it has another shape, or NaN or infinite values.
    """
    found = np.asarray(observation, dtype=np.float32)
    if found.ndim != 1 or width not in (None, len(found)):
        raise UserError(f"an observation has shape {found.shape}, its space says ({width},)")
    if not np.isfinite(found).all():
        raise UserError(f"an observation has NaN or infinite values (first in entry {int(np.argmin(np.isfinite(found)))})")
    return found


def _number(value: Any) -> float | None:
    """Return a real number, or the only entry of an array of one; None for anything else."""
    try:
        array = np.asarray(value)
    except Exception:  # foreign objects may raise anything
        return None
    if array.size != 1 or array.dtype.kind not in "fiub":
        return None
    return float(array.reshape(()))


def _flag(value: Any) -> bool | None:
    number = _number(value)
    return bool(number) if number in (0.0, 1.0) else None


def _kind(answer: Any) -> str:
    return f"{len(answer)} values" if isinstance(answer, tuple) else f"a {type(answer).__name__}"
