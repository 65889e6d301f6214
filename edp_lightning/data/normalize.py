"""Statistics that observations are normalised with; the model stores them and the checkpoint keeps them."""

from typing import Literal

import torch
from torch import Tensor

ObservationNormalization = Literal["none", "standard", "scalar"]


def observation_statistics(observation: Tensor, kind: ObservationNormalization) -> tuple[Tensor, Tensor]:
    """Return mean and divisor, both (observation_dim,).

    Args:
        observation: All observations, shape (rows, observation_dim).
        kind: ``none``: 0 and 1; ``standard``: per dimension, std + 1e-3 so that constant dimensions stay small;
            ``scalar``: one mean and std of all entries, std + 1e-6 (EDP).
    """
    width = observation.shape[1]
    if kind == "none":
        return torch.zeros(width), torch.ones(width)
    wide = observation.double()
    if kind == "scalar":
        return wide.mean().float().expand(width).clone(), (wide.std() + 1e-6).float().expand(width).clone()
    return wide.mean(dim=0).float(), (wide.std(dim=0) + 1e-3).float()
