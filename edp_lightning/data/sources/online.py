"""What a run collected online, as a dataset: it lies in the run's checkpoints."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from gymnasium.envs.registration import EnvSpec
from numpy.typing import NDArray

from edp_lightning.data.collected import STATE, CollectedEpisode, unpack
from edp_lightning.data.transitions import Episode
from edp_lightning.environments.families import ObservationView, family_of
from edp_lightning.environments.scores import ScoreReference
from edp_lightning.environments.specs import read_spec
from edp_lightning.errors import UserError
from edp_lightning.runs.checkpoint_io import read_checkpoint
from edp_lightning.runs.run_folder import checkpoint_in

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class OnlineSource:
    """Episodes in a checkpoint, observations as the policy saw them.

    Attributes:
        dataset_id: Name for messages and results.
        collected: The episodes; one under way is cut where the checkpoint was saved.
        stated: What the checkpoint says of them.
        files: The checkpoint.
        notes: Nothing needs mending.
    """

    dataset_id: str
    collected: tuple[CollectedEpisode, ...]
    stated: dict[str, Any]
    files: tuple[Path, ...]
    notes: tuple[str, ...] = ()

    whole_actions = False
    observation_space = None
    no_environment = ""
    labels = ""

    @property
    def origin(self) -> str:
        """Return which run collected them."""
        return f"collected online by a run on {self.stated['dataset']}"

    @property
    def algorithm(self) -> str:
        """Return what acted."""
        return str(self.stated["algorithm"])

    @property
    def spec(self) -> EnvSpec:
        """Return the environment, with its time limit."""
        spec = read_spec(self.stated["environment"])
        spec.max_episode_steps = self.stated["max_episode_steps"]
        return spec

    evaluation_spec = spec

    @property
    def views(self) -> tuple[ObservationView, ...]:
        """Return the only view there is: what the policy saw."""
        name, *keys = self.stated["view"]
        return (ObservationView(name, tuple(keys)),)

    @property
    def action_low(self) -> Floats:
        """Return the lower bounds of the actions."""
        return np.array(self.stated["action_low"], dtype=np.float32)

    @property
    def action_high(self) -> Floats:
        """Return the upper bounds of the actions."""
        return np.array(self.stated["action_high"], dtype=np.float32)

    @property
    def score_reference(self) -> ScoreReference | None:
        """Return the reference of the environment's family."""
        return family_of(self.spec).reference

    def check_actions(self, low: Floats, high: Floats) -> None:
        """Refuse nothing: all actions were played within the bounds."""

    def episodes(self, view: ObservationView) -> Iterator[Episode]:
        """Return the episodes in the order in which they began; those without a step yet are left out.

        Raises:
            UserError: For another view than the policy's.
        """
        stored = self.views[0]
        if view.keys != stored.keys:
            raise UserError(
                f"{self.dataset_id} holds what its policy saw, view {stored.name} ({', '.join(stored.keys)}), and cannot be "
                f"seen through {view.name} ({', '.join(view.keys)}): set data.view as in that run"
            )
        return (collected.episode() for collected in self.collected if len(collected))


def open_online(path: Path) -> OnlineSource:
    """Return what is in a checkpoint, or in the ``last.ckpt`` of a run's folder.

    Raises:
        UserError: If the file is no checkpoint, or nothing was collected.
    """
    file = checkpoint_in(path)
    state = read_checkpoint(file).get("callbacks", {}).get(STATE)
    if not state or not state["collected"]["time"]:
        raise UserError(f"{file} holds nothing collected online: give a run that was trained with online.env_steps")
    return OnlineSource(f"online:{path}", tuple(unpack(state["collected"]["episodes"])), state["origin"], (file,))
