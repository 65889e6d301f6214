"""Where this package keeps what it can make again: tables of transitions, built libraries."""

import os
from pathlib import Path

from edp_lightning.errors import UserError

ENVIRONMENT_VARIABLE = "EDP_LIGHTNING_CACHE"


def cache_folder() -> Path:
    """Return the folder of the cache: ``EDP_LIGHTNING_CACHE``, or ``edp_lightning`` in the user's cache folder.

    Raises:
        UserError: If there is none: no variable says where, and the user has no home folder.
    """
    chosen = os.environ.get(ENVIRONMENT_VARIABLE)
    if chosen:
        return Path(chosen).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or home_folder(ENVIRONMENT_VARIABLE) / ".cache") / "edp_lightning"


def home_folder(variable: str) -> Path:
    """Return the user's home folder.

    Args:
        variable: Environment variable that makes the question unnecessary.

    Raises:
        UserError: If there is none, as in containers that run under any user id.
    """
    try:
        return Path.home()
    except RuntimeError as error:
        raise UserError(f"this user has no home folder: set {variable} to a folder, or HOME") from error
