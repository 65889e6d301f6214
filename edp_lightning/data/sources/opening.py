"""Opens a dataset by its name: which kind of source it is, and how a missing one is obtained."""

from pathlib import Path

from edp_lightning.collect.tasks import refuse_retired
from edp_lightning.data.sources.arrays import open_npz
from edp_lightning.data.sources.d4rl_catalogue import open_d4rl
from edp_lightning.data.sources.download import download
from edp_lightning.data.sources.minari import is_local, missing_message, open_set
from edp_lightning.data.sources.ogbench import open_ogbench
from edp_lightning.data.sources.online import open_online
from edp_lightning.data.sources.source import Source
from edp_lightning.errors import UserError

KINDS = (
    "a Minari id such as D4RL/pen/human-v2, d4rl:NAME, d4rl:/PATH/FILE.hdf5, ogbench:TASK, npz:/PATH/FILE.npz or "
    "online:/PATH/RUN"
)


def minari_id(name: str) -> str | None:
    """Return the Minari id that a name means, with or without ``minari:``; None for other kinds of sources."""
    kind, colon, rest = name.partition(":")
    if not colon:
        return name
    return rest if kind == "minari" else None


def open_source(name: str, keep_time_limits: bool = False) -> Source:
    """Return the source of a name.

    Args:
        name: See ``KINDS``.
        keep_time_limits: Of D4RL files, keep the rows at time limits.

    Raises:
        UserError: If it is missing, damaged, or of a kind that is not known.
    """
    dataset_id = minari_id(name)
    if dataset_id is not None:
        _refuse_file_names(name)
        return open_set(dataset_id)
    kind, _, rest = name.partition(":")
    if kind == "d4rl":
        return open_d4rl(rest, keep_time_limits)
    if kind == "ogbench":
        return open_ogbench(rest)
    if kind == "npz":
        return open_npz(Path(rest).expanduser())
    if kind == "online":
        return open_online(Path(rest).expanduser())
    raise UserError(f"data.dataset: {name!r} is no known kind of source; give {KINDS}")


def obtain(name: str, allow_download: bool) -> None:
    """Download a missing set if that is allowed; otherwise say how to get it.

    Raises:
        UserError: If it is missing and cannot or must not be downloaded.
    """
    dataset_id = minari_id(name)
    _refuse_file_names(name)
    if dataset_id is None or is_local(dataset_id):
        return
    refuse_retired(dataset_id)
    if not allow_download:
        raise UserError(missing_message(dataset_id))
    download(dataset_id)


def _refuse_file_names(name: str) -> None:
    kind = {".npz": "npz", ".hdf5": "d4rl", ".h5": "d4rl"}.get(Path(name).suffix)
    if kind is not None and ":" not in name:
        raise UserError(f"data.dataset: {name!r} looks like a file: give it as {kind}:{name}")
