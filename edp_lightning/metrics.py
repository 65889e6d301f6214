"""What an evaluation reports, as torchmetrics: each gathers over ranks by itself."""

from typing import Any

import torch
from torch import Tensor
from torchmetrics import MeanMetric


class EpisodeReturn(MeanMetric):
    """Mean undiscounted return over finished episodes; update with returns, shape (episodes,)."""


class SuccessRate(MeanMetric):
    """Share of episodes that succeeded, in [0, 1]; update with booleans, shape (episodes,)."""

    def update(self, value: float | Tensor, weight: float | Tensor | None = None) -> None:
        """Add episodes: True where the task was solved."""
        super().update(torch.as_tensor(value).float(), weight)


class NormalizedScore(MeanMetric):
    """Mean of ``100 (R - minimum) / (maximum - minimum)`` (D4RL, arXiv 2004.07219, section 5).

    Args:
        minimum: Return of the random policy.
        maximum: Return of the expert policy.
        kwargs: Passed to ``MeanMetric``.

    Raises:
        ValueError: If the two references do not differ.
    """

    def __init__(self, minimum: float, maximum: float, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if maximum <= minimum:
            raise ValueError(f"reference scores must satisfy minimum < maximum; got {minimum} and {maximum}")
        self.minimum = minimum
        self.maximum = maximum

    def update(self, value: float | Tensor, weight: float | Tensor | None = None) -> None:
        """Add undiscounted returns, shape (episodes,)."""
        super().update(100 * (torch.as_tensor(value) - self.minimum) / (self.maximum - self.minimum), weight)
