"""Several datasets of one task as one; the loader draws from each with its probability."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from gymnasium.envs.registration import EnvSpec
from gymnasium.spaces import Space
from numpy.typing import NDArray

from edp_lightning.data.sources.source import Source
from edp_lightning.data.transitions import Episode
from edp_lightning.environments.families import ObservationView
from edp_lightning.environments.recipe import refuse_mixed_versions
from edp_lightning.environments.scores import ScoreReference
from edp_lightning.errors import UserError


@dataclass(frozen=True)
class MixedSource:
    """Sources read one after the other; the first one decides view, environment and scores.

    Attributes:
        sources: At least one.
        own_box: Whether actions are scaled with the lower, and the upper, bounds that the sets state: these must then agree.
    """

    sources: Sequence[Source]
    own_box: tuple[bool, bool] = (True, True)

    def __post_init__(self) -> None:
        """Refuse sources that do not belong to one task.

        Raises:
            UserError: If action boxes or versions of the environment differ.
        """
        first, *others = self.sources
        for other in others:
            low, high = np.array_equal(first.action_low, other.action_low), np.array_equal(first.action_high, other.action_high)
            if (self.own_box[0] and not low) or (self.own_box[1] and not high):
                raise UserError(
                    f"data.mixture: {first.dataset_id} and {other.dataset_id} have different action boxes; if their actions "
                    "are in the same unit, set data.action_low and data.action_high to a box for both"
                )
            if first.spec is not None and other.spec is not None:
                refuse_mixed_versions(other.dataset_id, other.spec, first.spec)

    @property
    def dataset_id(self) -> str:
        """Return the names of all."""
        return " + ".join(source.dataset_id for source in self.sources)

    @property
    def origin(self) -> str:
        """Return where they come from."""
        return " + ".join(dict.fromkeys(source.origin for source in self.sources))

    @property
    def algorithm(self) -> str:
        """Return what acted in each."""
        return " + ".join(source.algorithm for source in self.sources)

    @property
    def spec(self) -> EnvSpec | None:
        """Return the first one's environment."""
        return self.sources[0].spec

    @property
    def evaluation_spec(self) -> EnvSpec | None:
        """Return the first one's evaluation environment."""
        return self.sources[0].evaluation_spec

    @property
    def views(self) -> tuple[ObservationView, ...] | None:
        """Return the first one's views."""
        return self.sources[0].views

    @property
    def observation_space(self) -> Space[Any] | None:
        """Return the first one's space."""
        return self.sources[0].observation_space

    @property
    def no_environment(self) -> str:
        """Return why the first one names no environment."""
        return self.sources[0].no_environment

    @property
    def action_low(self) -> NDArray[np.float32]:
        """Return the common lower bounds."""
        return self.sources[0].action_low

    @property
    def action_high(self) -> NDArray[np.float32]:
        """Return the common upper bounds."""
        return self.sources[0].action_high

    @property
    def whole_actions(self) -> bool:
        """Return whether those of the first one are whole numbers."""
        return self.sources[0].whole_actions

    def check_actions(self, low: NDArray[np.float32], high: NDArray[np.float32]) -> None:
        """Let each of them look."""
        for source in self.sources:
            source.check_actions(low, high)

    @property
    def score_reference(self) -> ScoreReference | None:
        """Return the first one's reference."""
        return self.sources[0].score_reference

    @property
    def files(self) -> tuple[Path, ...]:
        """Return the files of all; nothing if one of them has none."""
        if not all(source.files for source in self.sources):
            return ()
        return tuple(file for source in self.sources for file in source.files)

    @property
    def labels(self) -> str:
        """Return what decides the episodes of each besides its files."""
        return " + ".join(source.labels for source in self.sources if source.labels)

    @property
    def notes(self) -> Sequence[str]:
        """Return what reading each of them found."""
        return [f"{source.dataset_id}: {note}" for source in self.sources for note in source.notes]

    def episodes(self, view: ObservationView) -> Iterator[Episode]:
        """Yield the episodes of each source in turn, with the source's number as ``part``.

        Raises:
            UserError: If observations have different widths.
        """
        width = None
        for part, source in enumerate(self.sources):
            for episode in source.episodes(view):
                found = (episode.observation.shape[1], episode.action.shape[1])
                width = width or found
                if found != width:
                    raise UserError(
                        f"data.mixture: {source.dataset_id} has observations and actions of widths {found}, "
                        f"{self.sources[0].dataset_id} of {width}"
                    )
                yield replace(episode, part=part)
