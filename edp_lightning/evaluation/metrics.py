"""What an evaluation reports, as torchmetrics: each gathers over ranks by itself."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torchmetrics import MeanMetric

from edp_lightning.evaluation.rollout import EpisodeResult


def _given(weight: float | Tensor | None) -> float | Tensor:
    """Return a weight; torchmetrics before 1.7 takes no None."""
    return 1.0 if weight is None else weight


class EpisodeReturn(MeanMetric):
    """Mean undiscounted return over finished episodes; update with returns, shape (episodes,)."""


class SuccessRate(MeanMetric):
    """Share of episodes that succeeded, in [0, 1]; update with booleans, shape (episodes,)."""

    def update(self, value: float | Tensor, weight: float | Tensor | None = None) -> None:
        """Add episodes: True where the task was solved."""
        super().update(torch.as_tensor(value).float(), _given(weight))


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
        super().update(100 * (torch.as_tensor(value) - self.minimum) / (self.maximum - self.minimum), _given(weight))


def evaluation_scores(
    device: torch.device, environment: Any, results: Sequence[EpisodeResult], mine: Sequence[EpisodeResult]
) -> dict[str, float]:
    """Return the means over episodes, and as ``score`` the one of them by which the task is judged.

    Args:
        device: Where the ranks exchange their shares.
        environment: Recipe of the environment: what is judged, and the reference of normalised scores.
        results: All episodes.
        mine: This rank's share of them.
    """
    returns = torch.tensor([r.episode_return for r in mine])
    metrics: dict[str, Any] = {"return": EpisodeReturn(), "episode_length": MeanMetric()}
    values = {"return": returns, "episode_length": torch.tensor([float(r.length) for r in mine])}
    judge = "return"
    reference = environment.score_reference
    if reference is not None:
        metrics["normalized_score"] = NormalizedScore(reference.minimum, reference.maximum)
        values["normalized_score"] = returns
        judge = "normalized_score"
    if environment.success:
        metrics["success_rate"] = SuccessRate()
        values["success_rate"] = torch.tensor([bool(r.success) for r in mine])
        judge = "success_rate"
    # All ranks must compute the same metrics, also one whose episodes lack a number or that had none to play.
    for name in sorted({name for result in results for name in result.final}):
        metrics[name] = MeanMetric(nan_strategy="ignore")
        values[name] = torch.tensor([result.final.get(name, float("nan")) for result in mine])
    scores = {}
    for name, metric in metrics.items():
        metric.to(device)
        if len(mine):
            metric.update(values[name].to(device))
        scores[name] = float(metric.compute())
    scores["score"] = scores[judge]
    return scores
