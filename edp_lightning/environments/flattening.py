"""Observations of any structure as one row of numbers; the same function for datasets and environments."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from edp_lightning.errors import UserError

Floats = NDArray[np.float32]

IMAGE_SIDE = 32
"""Boxes of bytes with two sides of at least this length are images (as in Minari); smaller ones are numbers, as in MiniGrid."""


@dataclass(frozen=True)
class Part:
    """A leaf of an observation space, and where its numbers go.

    Attributes:
        path: Keys (of Dict) and indices (of Tuple) that lead to it; empty if the observation is the leaf.
        shape: Shape of its value.
        categories: Number of categories of each entry of a Discrete or MultiDiscrete, which become one-hot vectors; empty for
            numbers.
        starts: The first category of each entry.
    """

    path: tuple[Any, ...]
    shape: tuple[int, ...]
    categories: tuple[int, ...] = ()
    starts: tuple[int, ...] = ()

    @property
    def key(self) -> str:
        """Return the path as text, ``a/b``."""
        return "/".join(str(step) for step in self.path)

    @property
    def width(self) -> int:
        """Return how many numbers it becomes."""
        return sum(self.categories) or math.prod(self.shape)

    def pick(self, observation: Any) -> Any:
        """Return its value out of an observation."""
        for step in self.path:
            observation = observation[step]
        return observation

    def flat(self, value: Any, rows: int | None = None) -> NDArray[Any]:
        """Return its value as numbers.

        Args:
            value: Shape ``shape``, or (rows, ...shape).
            rows: Number of values; None for a single one.

        Returns:
            Shape (width,) or (rows, width).

        Raises:
            UserError: If the value does not fit the space.
        """
        array = np.asarray(value)
        batch = () if rows is None else (rows,)
        if array.shape != (*batch, *self.shape):
            raise UserError(
                f"observation {self.key or 'as a whole'} has shape {array.shape[len(batch) :]}, its space says {self.shape}"
            )
        if not self.categories:
            return array.reshape(*batch, self.width)
        indices = array.reshape(*batch, len(self.categories)) - np.asarray(self.starts)
        columns = [_one_hot(indices[..., i], n, self.key) for i, n in enumerate(self.categories)]
        return np.concatenate(columns, axis=-1)


def _one_hot(index: NDArray[Any], categories: int, key: str) -> NDArray[Any]:
    whole = index.astype(np.int64)
    if (whole != index).any() or (whole < 0).any() or (whole >= categories).any():
        raise UserError(
            f"observation {key or 'as a whole'} has a value that is none of the {categories} categories of its space"
        )
    return np.eye(categories, dtype=np.float32)[whole]


def flatten(observation: Any, parts: Sequence[Part], rows: int | None = None) -> Floats:
    """Return the parts of an observation side by side.

    Args:
        observation: As the space says; mappings and tuples of arrays.
        parts: Which parts, in which order.
        rows: If every array of the observation has one row per step, how many; None for a single observation.

    Returns:
        float32, shape (observation_dim,) or (rows, observation_dim).

    Raises:
        UserError: If a part does not fit its space.
    """
    return np.concatenate([part.flat(part.pick(observation), rows) for part in parts], axis=-1, dtype=np.float32)


def is_structured(space: gym.Space[Any] | None) -> bool:
    """Return whether a space has keys."""
    return isinstance(space, (gym.spaces.Dict, gym.spaces.Tuple))


def keys_of(space: gym.Space[Any]) -> tuple[str, ...]:
    """Return the keys of the leaves of a space, in its order; what has no flattening is listed too."""
    return tuple("/".join(str(step) for step in path) for path, _ in _leaves(space))


def parts_of(space: gym.Space[Any], keys: Sequence[str] = ()) -> tuple[Part, ...]:
    """Return the parts that keys name.

    Boxes of any number of axes are read row by row, Discrete and MultiDiscrete become one-hot vectors, as in
    ``gymnasium.spaces.flatten``.

    Args:
        space: Space of the whole observation.
        keys: Keys of leaves (``a/b``) or of branches, whose leaves are all taken; all leaves in the space's order if empty.
            A Dict that was made of a plain dict has its keys in alphabetical order.

    Raises:
        UserError: If a key names nothing, or a leaf has no flattening.
    """
    leaves = [("/".join(str(step) for step in path), path, leaf) for path, leaf in _leaves(space)]
    if not keys:
        chosen = leaves
    else:
        chosen = []
        for key in keys:
            found = [leaf for leaf in leaves if leaf[0] == key or leaf[0].startswith(f"{key}/")]
            if not found:
                there = ", ".join(name for name, *_ in leaves if name)
                raise UserError(f"no observation {key}; there {f'are {there}' if there else 'is one array without keys'}")
            chosen.extend(found)
    others = [name for name, _, leaf in leaves if _why_not(leaf) is None]
    return tuple(_part(name, path, leaf, others) for name, path, leaf in chosen)


def _leaves(space: gym.Space[Any], path: tuple[Any, ...] = ()) -> Iterator[tuple[tuple[Any, ...], gym.Space[Any]]]:
    if isinstance(space, gym.spaces.Dict):
        branches: Mapping[Any, Any] = space.spaces
    elif isinstance(space, gym.spaces.Tuple):
        branches = dict(enumerate(space.spaces))
    else:
        yield path, space
        return
    for step, branch in branches.items():
        yield from _leaves(branch, (*path, step))


def _part(name: str, path: tuple[Any, ...], space: gym.Space[Any], others: Sequence[str]) -> Part:
    reason = _why_not(space)
    if reason is not None:
        instead = f"leave it out with data.view: {','.join(others)}" if others else "store features of it as a flat Box instead"
        raise UserError(f"observation {name or 'as a whole'} {reason}: {instead}")
    if isinstance(space, gym.spaces.Discrete):
        return Part(path, (), (int(space.n),), (int(space.start),))
    if isinstance(space, gym.spaces.MultiDiscrete):
        categories = tuple(int(n) for n in space.nvec.ravel())
        return Part(path, space.nvec.shape, categories, tuple(int(n) for n in np.ravel(space.start)))
    assert space.shape is not None
    return Part(path, tuple(space.shape))


def _why_not(space: gym.Space[Any]) -> str | None:
    """Return why a leaf has no flattening, None if it has one."""
    if is_image(space):
        return f"is an image {space.shape} and the networks have no layers for images"
    if isinstance(space, (gym.spaces.Box, gym.spaces.Discrete, gym.spaces.MultiBinary, gym.spaces.MultiDiscrete)):
        return None
    return f"is a {type(space).__name__}, which has no fixed number of entries"


def is_image(space: gym.Space[Any]) -> bool:
    """Return whether a space holds images: bytes with two sides of at least ``IMAGE_SIDE``."""
    if not isinstance(space, gym.spaces.Box) or space.dtype != np.uint8 or len(space.shape) not in (2, 3):
        return False
    return sum(side >= IMAGE_SIDE for side in space.shape) >= 2
