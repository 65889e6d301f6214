"""Transitions that are kept out of training, in training's units."""

from collections.abc import Callable
from dataclasses import replace

from edp_lightning.data.sources.source import Source
from edp_lightning.data.tables.build import TableRecipe
from edp_lightning.data.tables.rewards import RewardMap
from edp_lightning.data.tables.table import TransitionTable
from edp_lightning.errors import UserError


def held_out_table(
    source: Source,
    recipe: TableRecipe,
    reward_map: RewardMap,
    training: TransitionTable,
    build: Callable[[Source, TableRecipe], TransitionTable],
) -> TransitionTable:
    """Return the table of a held-out set; its rewards are transformed as training's were, not by its own statistics.

    Args:
        source: The held-out set.
        recipe: Recipe of training's table.
        reward_map: What became of training's rewards.
        training: Training's table.
        build: Returns the table of a source by a recipe.

    Raises:
        UserError: If it has other widths than training's.
    """
    shift = reward_map.shift + (reward_map.offset / reward_map.scale if reward_map.offset else 0.0)
    table = build(source, replace(recipe, reward_transform="affine", reward_shift=shift, reward_scale=reward_map.scale))
    widths = [(t.observation_dim, t.action_dim) for t in (table, training)]
    if widths[0] != widths[1]:
        raise UserError(
            f"data.validation: {source.dataset_id} has observations and actions of widths {widths[0]}, training's set of "
            f"{widths[1]}"
        )
    return table
