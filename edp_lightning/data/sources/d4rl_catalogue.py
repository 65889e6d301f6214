"""The files D4RL published: name -> file, address, environment that evaluates it (d4rl/infos.py and its environments' URLs)."""

import os
from dataclasses import dataclass
from pathlib import Path

from edp_lightning.data.sources.d4rl import D4RLFile, read_layout
from edp_lightning.environments.specs import environment_spec
from edp_lightning.errors import UserError, likely_names
from edp_lightning.runs.cache_folder import home_folder

HOST = "http://rail.eecs.berkeley.edu/datasets/offline_rl"


@dataclass(frozen=True)
class PublishedFile:
    """One published file.

    Attributes:
        folder: Folder on the server.
        file: Name there and in the cache folder.
        environment: Gymnasium id of the task's port; None where the file's layout decides.
    """

    folder: str
    file: str
    environment: str | None = None

    @property
    def url(self) -> str:
        """Return its address."""
        return f"{HOST}/{self.folder}/{self.file}"


def _catalogue() -> dict[str, PublishedFile]:
    found = {}
    # -v4 are the ports of the -v2 environments the data were collected in; v5 has other physics
    for robot, environment in (("hopper", "Hopper-v4"), ("halfcheetah", "HalfCheetah-v4"), ("walker2d", "Walker2d-v4")):
        for kind in ("random", "medium", "expert", "medium-replay", "medium-expert"):
            file = f"{robot}_{kind.replace('-', '_')}-v2.hdf5"
            found[f"{robot}-{kind}-v2"] = PublishedFile("gym_mujoco_v2", file, environment)
    mazes = {
        "umaze": "u-maze_noisy_multistart_False_multigoal_False",
        "umaze-diverse": "u-maze_noisy_multistart_True_multigoal_True",
        "medium-play": "big-maze_noisy_multistart_True_multigoal_False",
        "medium-diverse": "big-maze_noisy_multistart_True_multigoal_True",
        "large-play": "hardest-maze_noisy_multistart_True_multigoal_False",
        "large-diverse": "hardest-maze_noisy_multistart_True_multigoal_True",
    }
    for maze, stem in mazes.items():
        found[f"antmaze-{maze}-v0"] = PublishedFile("ant_maze_new", f"Ant_maze_{stem}_sparse.hdf5")
        found[f"antmaze-{maze}-v2"] = PublishedFile("ant_maze_v2", f"Ant_maze_{stem}_sparse_fixed.hdf5")
    for task in ("pen", "door", "hammer", "relocate"):
        for kind in ("human", "cloned", "expert"):
            found[f"{task}-{kind}-v1"] = PublishedFile("hand_dapg_v1", f"{task}-{kind}-v1.hdf5")
    kitchens = {
        "complete": "mini_kitchen_microwave_kettle_light_slider-v0.hdf5",
        "partial": "kitchen_microwave_kettle_light_slider-v0.hdf5",
        "mixed": "kitchen_microwave_kettle_bottomburner_light-v0.hdf5",
    }
    for kind, file in kitchens.items():
        found[f"kitchen-{kind}-v0"] = PublishedFile("kitchen", file)
    for maze in ("umaze", "medium", "large"):
        found[f"maze2d-{maze}-v1"] = PublishedFile("maze2d", f"maze2d-{maze}-sparse-v1.hdf5")
    return found


CATALOGUE = _catalogue()
"""D4RL's name -> published file."""


def cache_folder() -> Path:
    """Return where D4RL keeps its files: ``D4RL_DATASET_DIR``, or ``~/.d4rl/datasets``."""
    return Path(os.environ.get("D4RL_DATASET_DIR") or home_folder("D4RL_DATASET_DIR") / ".d4rl" / "datasets")


def open_d4rl(name: str, keep_time_limits: bool = False) -> D4RLFile:
    """Return a D4RL file by its published name or by its path.

    Args:
        name: Such as ``hopper-medium-v2``, looked up in the cache folder, or a path.
        keep_time_limits: See ``D4RLFile``.

    Raises:
        UserError: If it is missing, damaged, or no D4RL file; with the command that fetches a published one.
    """
    published = CATALOGUE.get(name)
    path = cache_folder() / published.file if published else Path(name).expanduser()
    if not path.is_file():
        raise UserError(_missing(name, path))
    if published is None:
        published = next((entry for entry in CATALOGUE.values() if entry.file == path.name), None)
    layout, action_dim = read_layout(path)
    environment = (published and published.environment) or layout.environment
    return D4RLFile(
        dataset_id=f"d4rl:{name}",
        path=path,
        layout=layout,
        spec=environment_spec(environment) if environment else None,
        origin="D4RL file, CC BY 4.0" if published else f"file in D4RL's format ({layout.name})",
        keep_time_limits=keep_time_limits,
        action_dim=action_dim,
    )


def _missing(name: str, path: Path) -> str:
    entry = CATALOGUE.get(name) or next((entry for entry in CATALOGUE.values() if entry.file == path.name), None)
    if entry is not None:
        return f"d4rl:{name} is not on this machine ({path}); fetch it: curl --create-dirs -o {path} {entry.url}"
    hint = likely_names(name, CATALOGUE) or "give d4rl:/PATH/FILE.hdf5 or a published name"
    return f"d4rl:{name}: there is no file {path}, and D4RL published nothing of that name; {hint}"
