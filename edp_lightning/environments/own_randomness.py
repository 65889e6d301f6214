"""Gives an environment that draws from global random streams one of its own: an episode then depends on its seed only."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import gymnasium as gym
import numpy as np

from edp_lightning.environments.quiet import quiet_gymnasium


class OwnRandomness(gym.Wrapper[Any, Any, Any, Any]):
    """Lets an environment of OGBench draw from streams that ``reset(seed=...)`` starts.

    Its mazes draw starts from numpy's global stream, and its robots take random steps in ``reset`` with an action space that
    nobody has seeded. The global stream is left as it was.

    Args:
        env: The environment.
    """

    def __init__(self, env: gym.Env[Any, Any]) -> None:
        super().__init__(env)
        self._base: Any = env.unwrapped
        _keep_action_space(self._base)
        self._state = np.random.RandomState().get_state()

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Reset; with a seed all streams start anew."""
        if seed is not None:
            self._state = np.random.RandomState(seed).get_state()
            self._base.action_space.seed(seed)
        with self._own_stream():
            return self.env.reset(seed=seed, options=options)

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """Step; teleporters draw their exit."""
        with self._own_stream():
            return self.env.step(action)

    def close(self) -> None:
        """Close, and remove the model file that a maze left in the temporary folder."""
        super().close()
        path = str(getattr(self._base, "fullpath", ""))
        if path.startswith(tempfile.gettempdir()) and os.path.exists(path):
            os.unlink(path)

    @contextmanager
    def _own_stream(self) -> Iterator[None]:
        others = np.random.get_state()
        np.random.set_state(self._state)
        try:
            yield
        finally:
            self._state = np.random.get_state()
            np.random.set_state(others)


def _keep_action_space(base: Any) -> None:
    """Let an environment that makes a new action space whenever it is asked, each with a stream of its own, keep one."""
    kind = type(base)
    if isinstance(getattr(kind, "action_space", None), property):
        with quiet_gymnasium():
            base.__class__ = type(kind.__name__, (kind,), {"action_space": base.action_space})
