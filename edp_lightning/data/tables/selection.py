"""Which episodes a table holds."""

from collections.abc import Callable, Iterable, Mapping

import numpy as np

from edp_lightning.data.tables.build import TableRecipe
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
    kept = set(best.tolist())
    return (episode for number, episode in enumerate(read()) if number in kept)
