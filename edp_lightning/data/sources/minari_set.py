"""A Minari set on disk and its episodes, checked while they are read: a wrong row would be learned silently."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from gymnasium.envs.registration import EnvSpec
from gymnasium.spaces import Box, Space
from numpy.typing import NDArray

from edp_lightning.data.sources.minari_files import data_files, raw_episodes
from edp_lightning.data.sources.stored import (
    CONVERTED,
    as_type,
    changes_in,
    finite,
    flags,
    numeric,
    one_per_step,
    refuse_infinite,
    space_of,
    unreadable,
)
from edp_lightning.data.transitions import Episode
from edp_lightning.environments.families import FAMILIES, ObservationView
from edp_lightning.environments.flattening import Floats, Part, is_structured, parts_of
from edp_lightning.environments.scores import ScoreReference, from_metadata
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
        observation_space: Space of the observations; None if the set does not say.
        notes: What the last reading had to mend.
    """

    dataset_id: str
    path: Path
    metadata: dict[str, Any]
    spec: EnvSpec | None
    evaluation_spec: EnvSpec | None
    action_space: Box
    observation_space: Space[Any] | None = None
    notes: list[str] = field(default_factory=list)

    labels = ""

    @property
    def locally_collected(self) -> bool:
        """Whether this package wrote it on some machine, as opposed to a published set."""
        author = self.metadata.get("author")
        return "edp_lightning" in author if isinstance(author, (str, list)) else False

    @property
    def tells_limits_from_ends(self) -> bool:
        """Whether this package wrote it, collected or converted: then a termination at the time limit is one."""
        return self.locally_collected or CONVERTED in str(self.metadata.get("description"))

    @property
    def origin(self) -> str:
        """Return who made it, in words."""
        return "collected locally by edp_lightning" if self.locally_collected else "published set"

    @property
    def algorithm(self) -> str:
        """Return what acted, as far as the set says so."""
        return str(self.metadata.get("algorithm_name"))

    @property
    def views(self) -> None:
        """All views of the environment's family can be read."""
        return

    @property
    def no_environment(self) -> str:
        """Return why there is no evaluation, if there is none."""
        return (
            "" if self.spec or self.evaluation_spec else "the set names no environment; set data.environment to a gymnasium id"
        )

    @property
    def action_low(self) -> NDArray[np.float32]:
        """Return the lower bounds of the actions."""
        return np.asarray(self.action_space.low, dtype=np.float32)

    @property
    def action_high(self) -> NDArray[np.float32]:
        """Return the upper bounds of the actions."""
        return np.asarray(self.action_space.high, dtype=np.float32)

    @property
    def whole_actions(self) -> bool:
        """Return whether actions are whole numbers."""
        return bool(self.action_space.dtype.kind in "iub")

    def check_actions(self, low: NDArray[np.float32], high: NDArray[np.float32]) -> None:
        """Refuse nothing: published sets overshoot their box a little, and the card says by how much."""

    @property
    def score_reference(self) -> ScoreReference | None:
        """Return the reference stored with the set."""
        return from_metadata(self.metadata)

    @property
    def files(self) -> tuple[Path, ...]:
        """Return the files that decide the episodes."""
        return (self.path / "metadata.json", *data_files(self.path, self.data_format))

    @property
    def stale_goals(self) -> bool:
        """Return whether episodes begin with an old goal: reset_target draws the new one after building the observation."""
        return bool(self.spec and self.spec.kwargs.get("reset_target"))

    @property
    def data_format(self) -> str:
        """Return how the episodes are stored; sets from before Minari had a choice are HDF5."""
        return str(self.metadata.get("data_format", "hdf5"))

    def episodes(self, view: ObservationView) -> Iterator[Episode]:
        """Yield all episodes through a view, in the order of their numbers."""
        return read_episodes(self, view)


def read_episodes(dataset: MinariSet, view: ObservationView) -> Iterator[Episode]:
    """Yield all episodes through a view, in the order of their numbers.

    Raises:
        UserError: Naming dataset and episode, if rows are missing, misaligned, empty or not finite.
    """
    where = f"dataset {dataset.dataset_id}"
    dataset.notes.clear()
    count = mended = width = 0
    try:
        for number, raw in raw_episodes(where, dataset.path, dataset.data_format):
            stored = _episode(f"{where}, episode {number}", raw, dataset, view)
            episode = stored if dataset.tells_limits_from_ends else _limit_is_truncation(stored, dataset.spec)
            if count and episode.observation.shape[1] != width:
                found = episode.observation.shape[1]
                raise UserError(f"{where}, episode {number}: observations of {found} numbers, before it {width}")
            width = episode.observation.shape[1]
            count += 1
            mended += episode is not stored
            yield episode
    except OSError as error:
        raise UserError(f"{where}: {unreadable(dataset.path, dataset.data_format, error)}") from error
    if not count:
        raise UserError(f"{where} has no episodes")
    expected = dataset.metadata.get("total_episodes")
    if isinstance(expected, int) and expected != count:
        raise UserError(
            f"{where}: metadata.json speaks of {expected} episodes, {dataset.path} holds {count}: "
            "an incomplete copy; fetch the set again"
        )
    if mended:
        dataset.notes.append(f"{mended} time limits were stored as terminations; they are truncations, values bootstrap there")
    if dataset.stale_goals and "desired_goal" in view.keys:
        dataset.notes.append("first desired_goal of every episode was the one before; replaced by the second")


def _limit_is_truncation(episode: Episode, spec: EnvSpec | None) -> Episode:
    """Return an episode whose termination at the time limit alone is a truncation.

    Gymnasium's time limit sets ``truncated`` at that step whatever the task says, so a set without it writes limits as ends.
    """
    if spec is None or str(spec.entry_point) not in FAMILIES or len(episode) != spec.max_episode_steps:
        return episode
    if not episode.terminated[-1] or episode.truncated[-1]:
        return episode
    last = np.arange(len(episode)) == len(episode) - 1
    return replace(episode, terminated=episode.terminated & ~last, truncated=episode.truncated | last)


def _episode(where: str, raw: Mapping[str, Any], dataset: MinariSet, view: ObservationView) -> Episode:
    if hasattr(raw, "dtype"):
        raise UserError(f"{where}: a group of arrays is expected here, the file has an array")
    for name in ("observations", "actions", "rewards", "terminations", "truncations"):
        if name not in raw:
            raise UserError(f"{where}: no {name} in the file")
    rewards = one_per_step(raw["rewards"], np.float32, f"{where}: rewards")
    actions = finite(raw["actions"], np.float32, f"{where}: actions")
    ends = [flags(raw[name], f"{where}: {name}") for name in ("terminations", "truncations")]
    steps = len(rewards)
    if steps == 0:
        raise UserError(f"{where} is empty: remove it from the set")
    sizes = {"actions": len(actions), "terminations": len(ends[0]), "truncations": len(ends[1])}
    for name, size in sizes.items():
        if size != steps:
            raise UserError(f"{where}: {size} {name} for {steps} rewards")
    if actions.shape[1:] != dataset.action_space.shape:
        raise UserError(f"{where}: actions of shape {actions.shape[1:]}, the space says {dataset.action_space.shape}")
    wide, position = _observations(raw["observations"], dataset, view, steps, where)
    return Episode(
        observation=as_type(wide, np.float32),
        action=actions,
        reward=rewards,
        terminated=ends[0],
        truncated=ends[1],
        position=position,
        changes=changes_in(wide),
    )


def _observations(
    node: Any, dataset: MinariSet, view: ObservationView, steps: int, where: str
) -> tuple[NDArray[Any], Floats | None]:
    """Return the observations of an episode through a view, in their own type, and the achieved goal if there is one.

    The space that the set declares decides how they are read; what is stored only where it declares none.
    """
    declared = space_of(node) if dataset.observation_space is None else dataset.observation_space
    flat = not is_structured(declared)
    # a set without an environment may hold the view's numbers themselves, as ``data convert`` writes them
    keys = () if flat and dataset.spec is None else view.keys
    try:
        parts = parts_of(declared, keys)
    except UserError as error:
        raise UserError(f"{where}: the view {view.name} cannot be read: {error}") from error
    values = {part.key: _stored(node, part, dataset, where) for part in parts}
    goal = _achieved_goal(declared)
    if goal is not None and goal.key not in values:
        values[goal.key] = _stored(node, goal, dataset, where)
    rows = {len(value) for value in values.values()}
    if rows != {steps + 1}:
        raise UserError(f"{where}: {sorted(rows)} observations for {steps} steps; a set must store T + 1 (update it)")
    if dataset.stale_goals and "desired_goal" in values:
        desired = values["desired_goal"]
        values["desired_goal"] = np.concatenate([desired[1:2], desired[1:]])
    try:
        columns = [part.flat(values[part.key], steps + 1) for part in parts]
    except UserError as error:
        raise UserError(f"{where}: {error}: the file and its metadata.json disagree; fetch the set again") from error
    position = None if goal is None else values[goal.key].astype(np.float32)
    return columns[0] if len(columns) == 1 else np.concatenate(columns, axis=-1), position


def _achieved_goal(space: Space[Any]) -> Part | None:
    """Return the part that says where the robot is, if it is a point in the plane."""
    if not is_structured(space) or "achieved_goal" not in getattr(space, "spaces", {}):
        return None
    part, *others = parts_of(space, ("achieved_goal",))
    return None if others or len(part.shape) != 1 else part


def _stored(node: Any, part: Part, dataset: MinariSet, where: str) -> NDArray[Any]:
    """Return the array of a part, shape (rows, *shape): tuples are stored as groups of ``_index_0``, or ``0`` in Arrow."""
    for step in part.path:
        names = [name for name in (str(step), f"_index_{step}") if not hasattr(node, "dtype") and name in node]
        if not names:
            raise UserError(f"{where}: no observation {part.key} in the file, which the view or the declared space needs")
        node = node[names[0]]
    name = f"{where}: observation {part.key}" if part.key else f"{where}: observations"
    values = numeric(node, name)
    refuse_infinite(as_type(values, np.float32), name)
    if dataset.data_format != "hdf5" and values.ndim == 2 and values.shape[1:] != part.shape:
        # Arrow and Parquet keep the axes of a box in one list
        return values.reshape(len(values), *part.shape) if values.shape[1] == part.width else values
    return values
