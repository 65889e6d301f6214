"""Statistics that observations are normalised with; the model stores them and the checkpoint keeps them."""

from typing import Literal

import torch
from torch import Tensor

from edp_lightning.data.tables.facts import TableFacts

ObservationNormalization = Literal["none", "standard", "scalar"]


def observation_statistics(facts: TableFacts, kind: ObservationNormalization) -> tuple[Tensor, Tensor]:
    """Return mean and divisor, both (observation_dim,).

    Args:
        facts: What the table holds.
        kind: ``none``: 0 and 1; ``standard``: per dimension, std + 1e-3 so that constant dimensions stay small;
            ``scalar``: one mean and std of all entries, std + 1e-6 (EDP).
    """
    width = facts.observation_dim
    if kind == "none":
        return torch.zeros(width), torch.ones(width)
    if kind == "scalar":
        return torch.full((width,), facts.entry_mean), torch.full((width,), facts.entry_std + 1e-6)
    mean, std = (torch.tensor(values, dtype=torch.float64) for values in (facts.observation_mean, facts.observation_std))
    return mean.float(), (std + 1e-3).float()
