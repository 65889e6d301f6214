"""Reads D4RL's HDF5 files (arXiv 2004.07219): one long stream of N rows instead of episodes."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from gymnasium.envs.registration import EnvSpec
from numpy.typing import NDArray

from edp_lightning.data.sources.arrays import flags, numbers
from edp_lightning.data.sources.stored import changes_in, unreadable
from edp_lightning.data.sources.unit_box import UnitBoxFile
from edp_lightning.data.transitions import Episode
from edp_lightning.environments.families import ObservationView
from edp_lightning.environments.flattening import Floats
from edp_lightning.errors import UserError

FLAT = ObservationView("d4rl")
"""The observations of the file, as they are."""


@dataclass(frozen=True)
class Layout:
    """What the widths of observation and action say about a file.

    Attributes:
        name: Name for people.
        environment: Gymnasium id of the task's port, where the widths leave no doubt and a port observes the same.
        no_environment: Why there is none.
        horizon: Time limit of files without ``timeouts``.
        terminal_ends: Whether the row after a terminal belongs to another episode. In AntMaze it does not: every step near
            the goal is terminal, and the ant walks on.
        jump: Largest distance in metres of x, y between two rows of an episode; 0 where there is no such test.
    """

    name: str
    environment: str | None = None
    no_environment: str = ""
    horizon: int | None = None
    terminal_ends: bool = True
    jump: float = 0.0


LAYOUTS: dict[tuple[int, int], Layout] = {
    (11, 3): Layout("hopper", "Hopper-v4", horizon=1000),
    (17, 6): Layout(
        "halfcheetah or walker2d", horizon=1000,
        no_environment="HalfCheetah and Walker2d have the same widths: set data.environment to HalfCheetah-v4 or Walker2d-v4",
    ),
    (29, 8): Layout(
        "antmaze", terminal_ends=False, jump=1.5,
        no_environment="D4RL's ant (a fifth of the torque, steps of 0.1 s, coordinates that begin at the start cell) is in no "
        "Gymnasium environment; evaluate elsewhere, or train on the Minari set, whose ant is Gymnasium's",
    ),
    (45, 24): Layout("pen", "AdroitHandPen-v1", horizon=100),
    (39, 28): Layout("door", "AdroitHandDoor-v1", horizon=200),
    (46, 26): Layout("hammer", "AdroitHandHammer-v1", horizon=200),
    (39, 30): Layout("relocate", "AdroitHandRelocate-v1", horizon=200),
    (60, 9): Layout(
        "kitchen", horizon=280,
        no_environment="FrankaKitchen-v1 observes 59 other numbers than the 60 of the file; evaluate elsewhere, or train on "
        "the Minari set",
    ),
    (4, 2): Layout(
        "maze2d",
        no_environment="Gymnasium's PointMaze has other coordinates than D4RL's maze2d; evaluate elsewhere, or train on the "
        "Minari set",
    ),
}  # fmt: skip
"""(observation_dim, action_dim) -> layout."""


@dataclass(frozen=True)
class D4RLFile(UnitBoxFile):
    """A D4RL file on disk.

    Transitions are exactly those of ``d4rl.qlearning_dataset``: the next observation is the next row, the row of a time limit
    and the file's last row are dropped. So are rows at which a robot jumps to another place (AntMaze v0), which that function
    keeps. With ``keep_time_limits`` the ``next_observations`` of the file are used instead and every row stays.

    Attributes:
        dataset_id: Name for messages and results.
        path: The file.
        layout: What its widths say.
        spec: Environment of the task, if known.
        origin: Where it comes from, in words.
        keep_time_limits: Keep the rows at time limits; needs ``next_observations`` in the file.
        action_dim: Width of an action.
        notes: What the last reading had to mend.
    """

    dataset_id: str
    path: Path
    layout: Layout
    spec: EnvSpec | None
    origin: str
    keep_time_limits: bool
    action_dim: int
    notes: list[str] = field(default_factory=list)

    algorithm = "see arXiv 2004.07219"
    evaluation_spec = None
    whole_actions = False
    observation_space = None
    score_reference = None
    labels = ""

    @property
    def views(self) -> tuple[ObservationView, ...] | None:
        """Return the file's own view, unless its environment has views of its own."""
        return (FLAT,) if self.spec is None else None

    @property
    def no_environment(self) -> str:
        """Return why there is no evaluation, if there is none."""
        return "" if self.spec is not None else self.layout.no_environment or "set data.environment to a gymnasium id"

    def episodes(self, view: ObservationView) -> list[Episode]:
        """Return the pieces of the stream between time limits and ends; see the class for which rows are dropped."""
        name = str(self.path)
        with open_hdf5(self.path) as file:
            stored = file["observations"][()]
            observations = numbers(name, "observations", stored, 2)
            changes = changes_in(stored)
            del stored
            actions = numbers(name, "actions", file["actions"][()], 2)
            rewards = numbers(name, "rewards", file["rewards"][()], 1)
            terminals = flags(name, "terminals", file["terminals"][()])
            following = None
            if self.keep_time_limits:
                if "next_observations" not in file:
                    raise UserError(
                        f"{name}: data.keep_time_limits needs next_observations, which only D4RL's gym v2 files have"
                    )
                following = numbers(name, "next_observations", file["next_observations"][()], 2)
            limits = flags(name, "timeouts", file["timeouts"][()]) if "timeouts" in file else self._count_limits(terminals)
        if not len(rewards):
            raise UserError(f"{name}: the arrays are empty")
        for key, array in (
            ("actions", actions),
            ("observations", observations),
            ("terminals", terminals),
            ("timeouts", limits),
            ("next_observations", rewards if following is None else following),
        ):
            if len(array) != len(rewards):
                raise UserError(f"{name}: {key} has shape {array.shape}, expected {len(rewards)} rows as in rewards")
        if self.layout.jump:
            limits = self._cut_jumps(observations, limits)
        episodes = self._cut(observations, actions, rewards, terminals, limits, following)
        return [replace(episodes[0], changes=changes), *episodes[1:]]

    def _count_limits(self, terminals: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Return the time limits of a file without ``timeouts``, counted as D4RL does: after a terminal it counts from 1."""
        horizon = self.layout.horizon
        if horizon is None:
            raise UserError(f"{self.path}: no timeouts in the file, so where its episodes end is unknown; fetch the v2 file")
        limits = np.zeros(len(terminals), dtype=np.bool_)
        step = 0
        for row, terminal in enumerate(terminals.tolist()):
            if step == horizon - 1:
                limits[row] = True
                step = 0
            else:
                step = 1 if terminal else step + 1
        return limits

    def _cut_jumps(self, observations: Floats, limits: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Return time limits and rows after which the robot is elsewhere: in D4RL's v0 files the two are out of step."""
        distance = np.linalg.norm(np.diff(observations[:, :2], axis=0), axis=1)
        jumps = np.append(distance > self.layout.jump, False) & ~limits
        self.notes.clear()
        if jumps.any():
            self.notes.append(
                f"{jumps.sum()} rows cut whose next row is elsewhere: timeouts out of step, as in antmaze v0; v2 has them right"
            )
        return limits | jumps

    def _cut(
        self,
        observations: Floats,
        actions: Floats,
        rewards: Floats,
        terminals: NDArray[np.bool_],
        limits: NDArray[np.bool_],
        following: Floats | None,
    ) -> list[Episode]:
        ends = limits | terminals if self.layout.terminal_ends else limits.copy()
        ends[-1] = True
        episodes, start = [], 0
        for end in np.flatnonzero(ends).tolist():
            if following is not None:
                stop, states = end + 1, np.concatenate([observations[start : end + 1], following[end : end + 1]])
            elif limits[end] or end == len(rewards) - 1:
                stop, states = end, observations[start : end + 1]
            else:
                stop, states = end + 1, observations[start : end + 2]
            if stop > start:
                cut = np.zeros(stop - start, dtype=np.bool_)
                cut[-1] = not terminals[stop - 1]
                steps = slice(start, stop)
                episodes.append(Episode(states, actions[steps], rewards[steps], terminals[steps], cut, left_out=end + 1 - stop))
            start = end + 1
        if not episodes:
            raise UserError(f"{self.path}: no transition is left after time limits and the last row are dropped")
        return episodes


@contextlib.contextmanager
def open_hdf5(path: Path) -> Iterator[Any]:
    """Yield an HDF5 file opened for reading.

    Raises:
        UserError: If it is truncated or no HDF5 file, or a part of it cannot be read.
    """
    try:
        with h5py.File(path, "r") as file:
            yield file
    except OSError as error:
        raise unreadable(path, "HDF5", error) from error


def read_layout(path: Path) -> tuple[Layout, int]:
    """Return the layout of a file by the widths of its arrays, and the width of an action.

    Raises:
        UserError: If it is no D4RL file.
    """
    with open_hdf5(path) as file:
        if any(name.startswith("episode_") for name in file):
            raise UserError(f"{path} is a file of a Minari set: put the set under MINARI_DATASETS_PATH and give its id instead")
        for key in ("observations", "actions", "rewards", "terminals"):
            if not isinstance(file.get(key), h5py.Dataset):
                raise UserError(
                    f"{path}: no array {key}; a D4RL file has observations, actions, rewards, terminals; "
                    f"this one has {', '.join(file) or 'nothing'}"
                )
        shapes = [file[key].shape for key in ("observations", "actions")]
    for key, shape in zip(("observations", "actions"), shapes, strict=True):
        if len(shape) != 2:
            raise UserError(f"{path}: {key} has shape {shape}, expected (rows, width)")
    widths = (shapes[0][1], shapes[1][1])
    return LAYOUTS.get(widths, Layout(f"{widths[0]} observations, {widths[1]} actions")), widths[1]
