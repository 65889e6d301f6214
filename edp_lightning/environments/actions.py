"""Actions as an environment wants them: the shape, the kind of numbers and the bounds of its space."""

from collections.abc import Iterator
from typing import Any

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from edp_lightning.errors import UserError

Floats = NDArray[np.float32]


def boxes_of(space: gym.Space[Any]) -> Iterator[gym.spaces.Box]:
    """Yield the boxes that a space of actions is made of, in its order.

    Raises:
        UserError: If there is anything else in it.
    """
    if isinstance(space, gym.spaces.Dict):
        for part in space.spaces.values():
            yield from boxes_of(part)
    elif isinstance(space, gym.spaces.Tuple):
        for part in space.spaces:
            yield from boxes_of(part)
    elif isinstance(space, gym.spaces.Box):
        yield space
    else:
        raise UserError(f"has the action space {space}: only continuous actions (a Box) work")


class FittedActions(gym.ActionWrapper[Any, Any, Any]):
    """Takes flat float32 actions and hands them on with the structure, shape and dtype of the environment's space.

    Numbers beyond a bound are moved to it, in the space's own dtype: 0.1 in float32 lies above 0.1 in float64, and an
    environment may insist on ``action_space.contains``. Integer spaces get the nearest integer.

    Args:
        env: An environment with a box of actions, of any number of axes, or a Dict or Tuple of boxes.

    Raises:
        UserError: For other spaces of actions.
    """

    def __init__(self, env: gym.Env[Any, Any]) -> None:
        super().__init__(env)
        self._space = env.action_space
        boxes = list(boxes_of(self._space))
        low, high = (np.concatenate([getattr(box, side).ravel() for box in boxes]) for side in ("low", "high"))
        with np.errstate(over="ignore"):  # what does not fit is as good as unbounded
            self.action_space = gym.spaces.Box(low.astype(np.float32), high.astype(np.float32), dtype=np.float32)

    def action(self, action: Floats) -> Any:
        """Return the action of shape (action_dim,) as the environment's space has it.

        Raises:
            UserError: If it has another width.
        """
        flat = np.asarray(action)
        if flat.shape != self.action_space.shape:
            raise UserError(f"an action of shape {flat.shape} does not fit the space's {self.action_space.shape}")
        return _fit(self._space, iter(np.split(flat, np.cumsum([box.low.size for box in boxes_of(self._space)])[:-1])))


def _fit(space: gym.Space[Any], parts: Iterator[NDArray[Any]]) -> Any:
    if isinstance(space, gym.spaces.Dict):
        return {name: _fit(part, parts) for name, part in space.spaces.items()}
    if isinstance(space, gym.spaces.Tuple):
        return tuple(_fit(part, parts) for part in space.spaces)
    assert isinstance(space, gym.spaces.Box)
    values = next(parts).reshape(space.shape)
    if np.issubdtype(space.dtype, np.integer):
        # clipped before the cast: what lies beyond an integer type wraps around
        return np.clip(np.rint(values.astype(np.float64)), space.low, space.high).astype(space.dtype)
    return np.clip(values.astype(space.dtype), space.low, space.high)
