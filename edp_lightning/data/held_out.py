"""Transitions that are kept out of training, in training's units."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
from gymnasium.envs.registration import EnvSpec

from edp_lightning.data.sources.source import Source
from edp_lightning.data.tables.recipe import TableRecipe
from edp_lightning.data.tables.rewards import RewardMap
from edp_lightning.data.tables.table import TransitionTable
from edp_lightning.environments.recipe import refuse_mixed_versions
from edp_lightning.errors import UserError


def held_out_table(
    source: Source,
    recipe: TableRecipe,
    reward_map: RewardMap,
    training: TransitionTable,
    training_spec: EnvSpec | None,
    own_box: bool,
    build: Callable[[Source, TableRecipe], TransitionTable],
) -> TransitionTable:
    """Return the table of a held-out set; its rewards are transformed as training's were, not by its own statistics.

    Args:
        source: The held-out set.
        recipe: Recipe of training's table.
        reward_map: What became of training's rewards.
        training: Training's table.
        training_spec: Environment that training's data were collected in.
        own_box: Whether actions are scaled with the box that training's set states, which must then be this one's too.
        build: Returns the table of a source by a recipe.

    Raises:
        UserError: If its widths, action box or version of the environment are not training's, or its actions leave the box.
    """
    low, high = (np.array(bound, dtype=np.float32) for bound in (recipe.low, recipe.high))
    stated = np.isfinite(source.action_low) & np.isfinite(source.action_high)
    if own_box and len(stated) == len(low):
        same = (source.action_low == low) & (source.action_high == high)
        if not same[stated].all():
            raise UserError(
                f"data.validation: {source.dataset_id} has another action box than training's set; if their actions are in the "
                "same unit, set data.action_low and data.action_high to a box for both"
            )
    if source.spec is not None and training_spec is not None:
        refuse_mixed_versions(source.dataset_id, source.spec, training_spec)
    shift = reward_map.shift + (reward_map.offset / reward_map.scale if reward_map.offset else 0.0)
    table = build(source, replace(recipe, reward_transform="affine", reward_shift=shift, reward_scale=reward_map.scale))
    widths = [(t.observation_dim, t.action_dim) for t in (table, training)]
    if widths[0] != widths[1]:
        raise UserError(
            f"data.validation: {source.dataset_id} has observations and actions of widths {widths[0]}, training's set of "
            f"{widths[1]}"
        )
    source.check_actions(low, high)
    return table
