"""Reads local Minari sets (HDF5) and checks them: a wrong row would be learned silently."""

import difflib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from gymnasium.envs.registration import EnvSpec
from gymnasium.spaces import Box, Space
from minari.serialization import deserialize_space
from minari.storage import get_dataset_path
from numpy.typing import NDArray

from edp_lightning.collect.tasks import DATASET_IDS
from edp_lightning.data.transitions import Episode
from edp_lightning.envs import ObservationView
from edp_lightning.errors import UserError


@dataclass(frozen=True)
class MinariSet:
    """A set on disk.

    Attributes:
        dataset_id: Minari id.
        path: Its data folder.
        metadata: Contents of metadata.json.
        spec: Environment it was collected in, if it says so.
        evaluation_spec: Environment it names for evaluation, if it does.
        action_space: Box of the actions.
    """

    dataset_id: str
    path: Path
    metadata: dict[str, Any]
    spec: EnvSpec | None
    evaluation_spec: EnvSpec | None
    action_space: Box

    @property
    def locally_collected(self) -> bool:
        """Whether this package wrote it on some machine, as opposed to a published set."""
        return bool("edp_lightning" in self.metadata.get("author", []))


def is_local(dataset_id: str) -> bool:
    """Return whether a set of this id is on disk."""
    return Path(get_dataset_path(dataset_id), "data", "metadata.json").is_file()


def open_set(dataset_id: str) -> MinariSet:
    """Return a local set.

    Raises:
        UserError: If it is missing, in another format, or its actions are not a bounded box.
    """
    if not is_local(dataset_id):
        raise UserError(missing_message(dataset_id))
    path = get_dataset_path(dataset_id) / "data"
    try:
        metadata = json.loads((path / "metadata.json").read_text())
    except (OSError, ValueError) as error:
        raise UserError(
            f"dataset {dataset_id}: {path / 'metadata.json'} cannot be read ({error}); fetch the set again"
        ) from error
    if not (path / "main_data.hdf5").is_file():
        raise UserError(
            f"dataset {dataset_id}: only HDF5 sets are read, this one has data_format {metadata.get('data_format')!r} "
            f"(no main_data.hdf5 in {path})"
        )
    space: Space[Any] = deserialize_space(metadata["action_space"])
    if not isinstance(space, Box) or len(space.shape) != 1:
        raise UserError(f"dataset {dataset_id} has action space {space}: only continuous actions (a one-dimensional Box) work")
    if not (np.isfinite(space.low).all() and np.isfinite(space.high).all() and (space.low < space.high).all()):
        raise UserError(f"dataset {dataset_id} has an unbounded or empty action box {space}: actions are scaled to [-1, 1]")
    specs = [EnvSpec.from_json(metadata[key]) if metadata.get(key) else None for key in ("env_spec", "eval_env_spec")]
    return MinariSet(dataset_id, path, metadata, specs[0], specs[1], space)


def missing_message(dataset_id: str) -> str:
    """Return what is missing, where it was looked for, and how to get it."""
    root = get_dataset_path("")
    names = {own: name for name, own in DATASET_IDS.items()}
    if dataset_id in names:
        fix = f"collect it with: python -m edp_lightning collect {names[dataset_id]}"
    else:
        local = [p.parent.parent.relative_to(root).as_posix() for p in root.glob("**/data/metadata.json")]
        close = difflib.get_close_matches(dataset_id, sorted({*local, *names}), n=3)
        hint = f"did you mean {' or '.join(close)}? Otherwise " if close else ""
        namespace = dataset_id.partition("/")[0]
        fix = (
            f"{hint}download it with data.download: true (needs pip install 'minari[hf]' and network), or copy it there: "
            f"huggingface-cli download farama-minari/{namespace} --repo-type dataset "
            f"--include '{dataset_id.partition('/')[2]}/*' --local-dir {root / namespace}"
        )
    return f"dataset {dataset_id} is not on this machine (looked in {root}); {fix}"


def read_episodes(dataset: MinariSet, view: ObservationView) -> list[Episode]:
    """Return all episodes through a view, in the order of their numbers.

    Raises:
        UserError: Naming dataset and episode, if rows are missing, misaligned, empty or not finite.
    """
    try:
        with h5py.File(dataset.path / "main_data.hdf5", "r") as file:
            episodes = list(_episodes(file, dataset, view))
    except OSError as error:
        raise UserError(f"dataset {dataset.dataset_id}: main_data.hdf5 is truncated or not HDF5 ({error})") from error
    if not episodes:
        raise UserError(f"dataset {dataset.dataset_id} has no episodes")
    return episodes


def _episodes(file: h5py.File, dataset: MinariSet, view: ObservationView) -> Iterator[Episode]:
    numbers = sorted(int(name.removeprefix("episode_")) for name in file if name.startswith("episode_"))
    stale_goal = bool(dataset.spec and dataset.spec.kwargs.get("reset_target"))
    for number in numbers:
        where = f"dataset {dataset.dataset_id}, episode {number}"
        group = file[f"episode_{number}"]
        for name in ("observations", "actions", "rewards", "terminations", "truncations"):
            if name not in group:
                raise UserError(f"{where}: no {name} in the file")
        rewards = _finite(group["rewards"], np.float32, f"{where}: rewards")
        actions = _finite(group["actions"], np.float32, f"{where}: actions")
        observations = _observations(group["observations"], view, where)
        ends = [np.asarray(group[name][()], dtype=np.bool_) for name in ("terminations", "truncations")]
        steps = len(rewards)
        if steps == 0:
            raise UserError(f"{where} is empty: remove it from the set")
        sizes = {"actions": len(actions), "terminations": len(ends[0]), "truncations": len(ends[1])}
        for name, size in sizes.items():
            if size != steps:
                raise UserError(f"{where}: {size} {name} for {steps} rewards")
        if actions.shape[1:] != dataset.action_space.shape:
            raise UserError(f"{where}: actions of shape {actions.shape[1:]}, the space says {dataset.action_space.shape}")
        rows = {len(value) for value in observations.values()}
        if rows != {steps + 1}:
            raise UserError(f"{where}: {sorted(rows)} observations for {steps} steps; a set must store T + 1 (update it)")
        if stale_goal and "desired_goal" in observations:
            # With reset_target the environment draws a new goal after building the first observation of an episode.
            observations["desired_goal"][0] = observations["desired_goal"][1]
        flat = view(_nest(observations)) if view.keys else observations[""].astype(np.float32)
        position = observations.get("achieved_goal")
        yield Episode(
            observation=flat.reshape(steps + 1, -1),
            action=actions,
            reward=rewards.reshape(steps),
            terminated=ends[0],
            truncated=ends[1],
            position=None if position is None or position.ndim != 2 else position.astype(np.float32),
        )


def _observations(node: Any, view: ObservationView, where: str) -> dict[str, NDArray[Any]]:
    """Return the arrays a view needs by key, and the achieved goal where there is one."""
    if not view.keys:
        if isinstance(node, h5py.Group):
            raise UserError(f"{where}: observations are a Dict with keys {', '.join(node)}; choose a data.view for it")
        return {"": _finite(node, np.float32, f"{where}: observations")}
    wanted = [*view.keys, *(["achieved_goal"] if "achieved_goal" in node else [])]
    found = {}
    for key in wanted:
        if key not in node:
            raise UserError(f"{where}: the view {view.name} needs the observation {key}, which is not in the file")
        found[key] = _finite(node[key], np.float64, f"{where}: observation {key}")
    return found


def _nest(flat: dict[str, NDArray[Any]]) -> dict[str, Any]:
    nested: dict[str, Any] = {}
    for key, value in flat.items():
        *parents, leaf = key.split("/")
        node = nested
        for parent in parents:
            node = node.setdefault(parent, {})
        node[leaf] = value
    return nested


def _finite(node: Any, dtype: Any, where: str) -> NDArray[Any]:
    if isinstance(node, h5py.Group):
        raise UserError(f"{where}: an array is expected here, the file has a group")
    try:
        values = np.asarray(node[()], dtype=dtype)
    except (TypeError, ValueError) as error:
        raise UserError(f"{where}: not numbers ({node.dtype})") from error
    finite = np.isfinite(values)
    if not finite.all():
        row = int(np.argwhere(~finite)[0][0])
        raise UserError(f"{where} hold NaN or infinite values (first in row {row}): clean the set before training")
    return values
