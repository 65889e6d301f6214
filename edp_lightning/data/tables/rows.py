"""The rows that one episode gives: the same arithmetic for stored episodes and for those collected while a policy learns."""

import numpy as np
from numpy.typing import NDArray

from edp_lightning.data.tables.recipe import TableRecipe
from edp_lightning.data.tables.table import widths
from edp_lightning.data.transitions import Episode, apply_terminals, chunk_actions, n_step_rows, relabel, usable_rows

Floats = NDArray[np.float32]


def labelled(stored: Episode, recipe: TableRecipe) -> Episode:
    """Return a stored episode with the recipe's rewards, before their transformation, and terminations."""
    if recipe.goal is not None and stored.position is not None:
        stored = relabel(stored, recipe.goal, recipe.goal_radius)
    return apply_terminals(stored, recipe.terminals)


def episode_rows(episode: Episode, recipe: TableRecipe) -> tuple[Floats, NDArray[np.bool_]]:
    """Return one row per step of a labelled episode of T steps, and which of them are usable.

    Actions are scaled from [low, high] to [-1, 1] and clipped to ``1 - action_clip_eps``.

    Args:
        episode: The episode.
        recipe: What becomes of it.

    Returns:
        Rows (T, sum of ``widths``) whose reward column is not filled in, and (T,) booleans: steps without a whole chunk of
        actions have no row.
    """
    low, high = np.asarray(recipe.low, dtype=np.float32), np.asarray(recipe.high, dtype=np.float32)
    bound = 1 - recipe.action_clip_eps
    steps, observation_dim = len(episode), episode.observation.shape[1]
    _, terminated, length = n_step_rows(episode.reward, episode.terminated, *_window(steps, recipe))
    action = episode.action
    if (low != -1).any() or (high != 1).any():  # otherwise the arithmetic would only round
        action = 2 * (action - low) / (high - low) - 1
    action = chunk_actions(np.clip(action, -bound, bound), recipe.action_chunk)
    columns = widths(observation_dim, action.shape[1])
    rows = np.empty((steps, sum(columns)), dtype=np.float32)
    at = np.cumsum(columns)
    rows[:, : at[0]] = episode.observation[:-1]
    rows[:, at[0] : at[1]] = action
    rows[:, at[2] : at[3]] = episode.observation[np.arange(steps) + length]
    rows[:, at[3]] = terminated
    rows[:, at[4]] = length
    return rows, usable_rows(terminated, length, recipe.action_chunk)


def reward_column(reward: Floats, terminated: NDArray[np.bool_], recipe: TableRecipe) -> Floats:
    """Return the discounted sums of transformed rewards (T,) of an episode, for its usable rows."""
    total, ended, length = n_step_rows(reward, terminated, *_window(len(reward), recipe))
    usable = usable_rows(ended, length, recipe.action_chunk)
    return total if usable.all() else total[usable]


def _window(steps: int, recipe: TableRecipe) -> tuple[NDArray[np.int64], int, float]:
    return np.full(steps, steps - 1), recipe.n_step, recipe.discount
