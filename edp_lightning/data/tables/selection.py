"""Which episodes a table holds."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace

import numpy as np

from edp_lightning.data.tables.recipe import TableRecipe
from edp_lightning.data.tables.rows import labelled
from edp_lightning.data.transitions import Episode
from edp_lightning.errors import UserError


def check_share(share: float, mixture: Mapping[str, float] | None) -> None:
    """Refuse a share of episodes that is none, and one of a mixture.

    Raises:
        UserError: Naming the option.
    """
    if not 0 < share <= 1:
        raise UserError(f"data.best_share must be above 0 and at most 1; got {share}")
    if share < 1 and mixture:
        raise UserError(
            "data.best_share below 1 does not go with data.mixture: write the chosen episodes to a file and name that"
        )


def best_episodes(read: Callable[[], Iterable[Episode]], recipe: TableRecipe, share: float) -> Iterable[Episode]:
    """Return the episodes of the highest discounted return, in the order in which they are stored (CORL, 10 % BC).

    They are read twice. Returns are those of the recipe's rewards before their transformation.

    Args:
        read: Reads all episodes.
        recipe: Decides rewards, terminations and the discount.
        share: Share of the episodes to keep, rounded down, at least one; 1 reads once and keeps all.
    """
    if share == 1:
        return read()
    returns = []
    for stored in read():
        reward = labelled(stored, recipe).reward
        returns.append(float(reward @ recipe.discount ** np.arange(len(reward))))
    best = np.argsort(-np.array(returns), kind="stable")[: max(1, int(share * len(returns)))]
    return _kept(read(), set(best.tolist()))


def _kept(episodes: Iterable[Episode], numbers: set[int]) -> Iterator[Episode]:
    """Yield the episodes of these numbers; what a file says of itself, with its first episode, goes with the first of them."""
    told = None
    for number, episode in enumerate(episodes):
        told = episode.changes if told is None else told
        if number in numbers:
            yield replace(episode, changes=told)
            told = np.zeros_like(told) if told is not None else None
