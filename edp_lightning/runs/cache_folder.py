"""Where this package keeps what it can make again: tables of transitions, built libraries."""

import os
from pathlib import Path

ENVIRONMENT_VARIABLE = "EDP_LIGHTNING_CACHE"


def cache_folder() -> Path:
    """Return the folder of the cache: ``EDP_LIGHTNING_CACHE``, or ``edp_lightning`` in the user's cache folder."""
    chosen = os.environ.get(ENVIRONMENT_VARIABLE)
    if chosen:
        return Path(chosen).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "edp_lightning"
