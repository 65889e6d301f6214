"""Finds and opens Minari sets on this machine."""

import json

from gymnasium.spaces import Box

from edp_lightning.collect.dataset_folder import dataset_folder
from edp_lightning.collect.tasks import DATASET_IDS, refuse_retired
from edp_lightning.data.sources.minari_files import FORMATS, data_files
from edp_lightning.data.sources.minari_set import MinariSet
from edp_lightning.data.sources.stored import (
    environment_spec,
    space,
)
from edp_lightning.errors import UserError, likely_names


def is_local(dataset_id: str) -> bool:
    """Return whether a set of this id is on disk."""
    return (dataset_folder(dataset_id) / "data" / "metadata.json").is_file()


def recorded_steps(dataset_id: str) -> int | None:
    """Return how many steps a set on this machine says it holds, None if it does not say.

    Raises:
        UserError: If the set is missing or damaged.
    """
    steps = open_set(dataset_id).metadata.get("total_steps")
    return int(steps) if isinstance(steps, int) else None


def open_set(dataset_id: str) -> MinariSet:
    """Return a local set.

    Raises:
        UserError: If it is missing, retired, in another format, or its actions are no box.
    """
    refuse_retired(dataset_id)
    if not is_local(dataset_id):
        raise UserError(missing_message(dataset_id))
    path = dataset_folder(dataset_id) / "data"
    try:
        metadata = json.loads((path / "metadata.json").read_text())
    except (OSError, ValueError) as error:
        raise UserError(
            f"dataset {dataset_id}: {path / 'metadata.json'} cannot be read ({error}); fetch the set again"
        ) from error
    if not isinstance(metadata, dict):
        raise UserError(f"dataset {dataset_id}: {path / 'metadata.json'} holds no mapping; fetch the set again")
    data_format = str(metadata.get("data_format", "hdf5"))
    if data_format not in FORMATS:
        raise UserError(f"dataset {dataset_id} has data_format {data_format!r}: {', '.join(FORMATS)} can be read")
    if not any(file.is_file() for file in data_files(path, data_format)):
        raise UserError(f"dataset {dataset_id}: {path} has metadata.json but no {data_format} data; fetch the set again")
    box = space(metadata, "action_space", f"dataset {dataset_id}")
    if not isinstance(box, Box) or len(box.shape) != 1:
        raise UserError(f"dataset {dataset_id} has action space {box}: only continuous actions (a one-dimensional Box) work")
    observed = space(metadata, "observation_space", f"dataset {dataset_id}") if metadata.get("observation_space") else None
    specs = [environment_spec(metadata, key, f"dataset {dataset_id}") for key in ("env_spec", "eval_env_spec")]
    return MinariSet(dataset_id, path, metadata, specs[0], specs[1], box, observed)


def missing_message(dataset_id: str) -> str:
    """Return what is missing, where it was looked for, and how to get it."""
    root = dataset_folder()
    names = {own: name for name, own in DATASET_IDS.items()}
    if dataset_id in names:
        fix = f"collect it with: python -m edp_lightning collect {names[dataset_id]}"
    else:
        local = [p.parent.parent.relative_to(root).as_posix() for p in root.glob("**/data/metadata.json")]
        close = likely_names(dataset_id, {*local, *names})
        hint = f"{close} Otherwise " if close else ""
        namespace = dataset_id.partition("/")[0]
        fix = (
            f"{hint}download it with data.download: true (needs pip install 'minari[hf]' and network), or copy it there: "
            f"huggingface-cli download farama-minari/{namespace} --repo-type dataset "
            f"--include '{dataset_id.partition('/')[2]}/*' --local-dir {root / namespace}"
        )
    return f"dataset {dataset_id} is not on this machine (looked in {root}); {fix}"
