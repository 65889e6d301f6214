"""Silences messages of the environments' libraries that a user of this package can do nothing about."""

import io
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr

import gymnasium as gym


@contextmanager
def quiet_gymnasium() -> Iterator[None]:
    """Hush advice about newer environment ids (the data fix the version) and about metadata of locally collected sets."""
    level = gym.logger.min_level
    gym.logger.min_level = logging.ERROR
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", category=DeprecationWarning)
            for module in ("gymnasium.*", "gymnasium_robotics.*", "minari.*", "glfw"):  # glfw: that there is no display
                warnings.filterwarnings("ignore", module=module)
            yield
    finally:
        gym.logger.min_level = level


def register_robotics() -> None:
    """Make the ids of gymnasium-robotics known to ``gymnasium.make``."""
    with quiet_gymnasium(), redirect_stderr(io.StringIO()):  # the import prints a notice on dense Adroit tasks
        import gymnasium_robotics

        gym.register_envs(gymnasium_robotics)
