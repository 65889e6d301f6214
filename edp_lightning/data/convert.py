"""Writes the episodes of any source as a Minari set."""

from collections.abc import Sequence
from pathlib import Path

import gymnasium as gym
import numpy as np
from minari import create_dataset_from_buffers
from minari.data_collector import EpisodeBuffer

from edp_lightning import __version__
from edp_lightning.collect.writer import complete_or_absent
from edp_lightning.data.sources.source import Source
from edp_lightning.data.sources.stored import CONVERTED
from edp_lightning.data.transitions import Episode
from edp_lightning.environments.families import Family, ObservationView
from edp_lightning.environments.quiet import quiet_gymnasium


def write_minari(dataset_id: str, source: Source, episodes: Sequence[Episode], family: Family, view: ObservationView) -> Path:
    """Write a set and return its folder.

    Args:
        dataset_id: Minari id to write.
        source: Where the episodes come from.
        episodes: The episodes, through the view.
        family: Family of the environment; its reference scores go into the metadata.
        view: The view.

    Raises:
        UserError: If the id is taken or the folder cannot be written.
    """
    # An environment with Dict observations would promise keys that flat observations do not have.
    spec = None if view.keys else source.spec
    reference = family.reference or source.score_reference
    buffers = [
        EpisodeBuffer(
            id=index,
            observations=episode.observation,
            actions=episode.action,
            rewards=episode.reward.astype(np.float64),
            terminations=episode.terminated,
            truncations=episode.truncated,
        )
        for index, episode in enumerate(episodes)
    ]
    with complete_or_absent(dataset_id) as target, quiet_gymnasium():
        create_dataset_from_buffers(
            dataset_id,
            buffers,
            env=spec,
            eval_env=spec,
            observation_space=gym.spaces.Box(-np.inf, np.inf, episodes[0].observation.shape[1:], np.float32),
            action_space=gym.spaces.Box(source.action_low, source.action_high, dtype=np.float32),
            algorithm_name=source.algorithm,
            ref_min_score=None if reference is None else reference.minimum,
            ref_max_score=None if reference is None else reference.maximum,
            author="unknown",
            description=f"{source.dataset_id} ({source.origin}), view {view.name}, {CONVERTED} {__version__}.",
        )
    return target
