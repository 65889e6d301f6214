"""What every kind of dataset offers: episodes through a view, and facts that decide how they are used."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from gymnasium.envs.registration import EnvSpec
from gymnasium.spaces import Space
from numpy.typing import NDArray

from edp_lightning.data.transitions import Episode
from edp_lightning.environments.families import ObservationView
from edp_lightning.environments.scores import ScoreReference


class Source(Protocol):
    """An opened dataset: opening reads its description, ``episodes`` its data."""

    @property
    def dataset_id(self) -> str:
        """Name in messages, cards and results."""

    @property
    def origin(self) -> str:
        """Where the data come from, in words."""

    @property
    def algorithm(self) -> str:
        """What acted, as far as the set says so."""

    @property
    def spec(self) -> EnvSpec | None:
        """Environment the data were collected in."""

    @property
    def evaluation_spec(self) -> EnvSpec | None:
        """Environment the set names for evaluation."""

    @property
    def views(self) -> tuple[ObservationView, ...] | None:
        """Views the stored arrays can give, the default first; None: all those of the environment's family."""

    @property
    def observation_space(self) -> Space[Any] | None:
        """Space of the stored observations, if the set declares one."""

    @property
    def no_environment(self) -> str:
        """Why the set names no environment and what can be done; empty if it does name one."""

    @property
    def action_low(self) -> NDArray[np.float32]:
        """Lower bounds of the actions, shape (action_dim,); infinite where the set states none."""

    @property
    def action_high(self) -> NDArray[np.float32]:
        """Upper bounds of the actions, shape (action_dim,); infinite where the set states none."""

    @property
    def whole_actions(self) -> bool:
        """Whether actions are whole numbers."""

    def check_actions(self, low: NDArray[np.float32], high: NDArray[np.float32]) -> None:
        """Refuse actions outside the bounds that are used, in sets where that means that the bounds are wrong.

        Raises:
            UserError: Naming the first one.
        """

    @property
    def score_reference(self) -> ScoreReference | None:
        """Score reference stored with the set."""

    @property
    def files(self) -> tuple[Path, ...]:
        """Files whose content decides the episodes; empty for arrays in memory."""

    @property
    def labels(self) -> str:
        """What besides the files decides the episodes, such as a task; empty if nothing does."""

    @property
    def notes(self) -> Sequence[str]:
        """What the last reading of the episodes found and mended, in words."""

    def episodes(self, view: ObservationView) -> Iterable[Episode]:
        """Return all episodes through a view, in the order of the file; at best read one by one while they are used.

        Raises:
            UserError: Naming the place, if rows are missing, misaligned, empty or not finite.
        """
