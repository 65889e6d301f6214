"""Where Minari keeps its datasets; asking makes no folder, as Minari's own function does."""

import os
from pathlib import Path

from edp_lightning.runs.cache_folder import home_folder

VARIABLE = "MINARI_DATASETS_PATH"


def dataset_folder(dataset_id: str = "") -> Path:
    """Return the folder of a set, or of all of them.

    Raises:
        UserError: If neither ``MINARI_DATASETS_PATH`` nor the home folder says where that is.
    """
    root = os.environ.get(VARIABLE)
    return Path(root if root is not None else home_folder(VARIABLE) / ".minari" / "datasets") / dataset_id
